//! Goal: a log that overflows never stalls the guest, is named, keeps every older snapshot restorable until the operator
//! decides, and the way back works as the runbook says.

use std::time::Duration;

use anyhow::{Result, ensure};
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Guest, Options, Role, VolumeSpec};

#[test]
fn an_overflow_is_named_harms_no_older_snapshot_and_a_new_backup_heals_it() -> Result<()> {
    // By hand here; by itself: hash_backup.rs.
    let mut cluster = Cluster::start_with(&Options {
        storage_settings: "heal_overflow = false\n".into(),
        ..Options::default()
    })?;
    let spec = VolumeSpec {
        size: 16 << 20,
        log_size: 8 << 20,
        ..VolumeSpec::default()
    };
    cluster.protect(&spec)?;
    let guest = Guest::start(
        &cluster.nbd_socket("vol0"),
        "vol0",
        31,
        Load {
            pace: Duration::from_millis(1),
            max_blocks: 16,
        },
    )?;
    let before = guest.capture(None)?;
    let old = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", old, PATIENCE)?;

    // Nobody takes the log off the device, and the guest goes on.
    cluster.daemon(Role::Storage).kill9();
    guest.resume()?;
    until("the ring to overflow", PATIENCE, || {
        Ok((cluster.wdevc(&["is-log-overflow", "vol0"])? == "1").then_some(()))
    })?;
    cluster.start_daemon(Role::Storage)?;
    let reason = until("the overflow to be named", PATIENCE, || {
        let text = cluster.walbc(Role::Storage, &["--json", "status", "vol0"])?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let said = format!("{} {}", status["failed"], status["last_error"]);
        Ok((status["state"] == "Stopped" && said.contains("overflow")).then_some(said))
    })?;
    println!("named as: {reason}");
    ensure!(cluster.walbc(Role::Storage, &["get", "is-overflow", "vol0"])? == "1");
    let refused = cluster.walbc(Role::Storage, &["start", "vol0", "target"]);
    ensure!(
        refused.is_err_and(|e| e.to_string().contains("overflow")),
        "a start over the gap was accepted"
    );
    let refused = cluster.walbc(Role::Storage, &["snapshot", "vol0"]);
    ensure!(
        refused.is_err_and(|e| e.to_string().contains("overflow")),
        "a snapshot over the gap was accepted"
    );
    // The guest was never held up, and what is older is untouched.
    guest.capture(None)?;
    guest.resume()?;
    ensure!(cluster.restored_digest("vol0", old)? == before);

    // The overflow is remembered when the device's daemon dies.
    cluster.daemon(Role::Wdev).kill9();
    cluster.start_daemon(Role::Wdev)?;
    until("the device to come back", PATIENCE, || {
        Ok((cluster.wdevc(&["is-log-overflow", "vol0"])? == "1").then_some(()))
    })?;

    // The runbook. The guest writes less now, so that the small ring suffices.
    drop(guest);
    cluster.walbc(Role::Storage, &["reset-vol", "vol0"])?;
    cluster.walbc(Role::Archive, &["stop", "vol0", "--wait"])?;
    cluster.walbc(Role::Archive, &["reset-vol", "vol0"])?;
    cluster.walbc(Role::Storage, &["full-bkp", "vol0", "--wait"])?;
    ensure!(cluster.walbc(Role::Storage, &["get", "is-overflow", "vol0"])? == "0");
    let socket = cluster.nbd_socket("vol0");
    let mut reader = walb_wdev::nbd::client::NbdClient::connect(&socket, "vol0")?;
    reader.write_fua(4096, &[7; 8192])?;
    let mut image = Vec::new();
    reader.copy_to(&mut image)?;
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    let restored = cluster.restored_digest("vol0", gid)?;
    ensure!(
        restored == walb_tests::image::digest(image.as_slice())?,
        "after the new backup"
    );
    Ok(())
}
