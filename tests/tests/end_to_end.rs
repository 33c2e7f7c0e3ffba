//! Goal: whatever the guest writes, any snapshot restores byte for byte. Oracle: the device, read over NBD while the
//! guest pauses.

use std::time::Duration;

use anyhow::Result;
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Guest, Role, VolumeSpec};

#[test]
fn two_volumes_of_different_size_and_block_size_are_protected_at_once() -> Result<()> {
    let cluster = Cluster::start()?;
    let specs = [
        VolumeSpec {
            name: "small-512",
            size: 32 << 20,
            pbs: 512,
            log_size: 64 << 20,
        },
        VolumeSpec {
            name: "large-4096",
            size: 96 << 20,
            pbs: 4096,
            log_size: 128 << 20,
        },
    ];
    let mut guests = Vec::new();
    for (seed, spec) in specs.iter().enumerate() {
        cluster.create_device(spec)?;
        guests.push(Guest::start(
            &cluster.nbd_socket(spec.name),
            spec.name,
            seed as u64 + 11,
            Load::default(),
        )?);
        cluster.register(spec.name)?;
    }
    // The backups run while the guests write.
    for spec in &specs {
        cluster.walbc(Role::Storage, &["full-bkp", spec.name, "--wait"])?;
    }
    let mut taken = Vec::new();
    for round in 0..3 {
        for (spec, guest) in specs.iter().zip(&guests) {
            let captured = guest.capture(None)?;
            let gid = cluster.snapshot(spec.name)?;
            guest.resume()?;
            taken.push((spec.name, gid, captured, round));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    for (name, gid, captured, round) in &taken {
        cluster.until_restorable(name, *gid, PATIENCE)?;
        assert_eq!(
            cluster.restored_digest(name, *gid)?,
            *captured,
            "{name} gid {gid} of round {round}\n{}",
            cluster.logs()
        );
    }
    for guest in guests {
        assert!(guest.stop()? > 0);
    }
    Ok(())
}

#[test]
fn a_snapshot_without_new_writes_is_restorable_too() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 16 << 20,
        ..VolumeSpec::default()
    })?;
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 5, Load::default())?;
    std::thread::sleep(Duration::from_millis(300));
    let captured = guest.capture(None)?;
    let (first, second) = (cluster.snapshot("vol0")?, cluster.snapshot("vol0")?);
    assert!(first < second);
    for gid in [first, second] {
        cluster.until_restorable("vol0", gid, PATIENCE)?;
        assert_eq!(cluster.restored_digest("vol0", gid)?, captured);
    }
    Ok(())
}

#[test]
fn writes_reach_the_archive_without_any_command() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 16 << 20,
        ..VolumeSpec::default()
    })?;
    let _guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 6, Load::default())?;
    let mut latest = cluster.latest_gid("vol0")?;
    for _ in 0..3 {
        latest = until("newer data at the archive", Duration::from_secs(30), || {
            let now = cluster.latest_gid("vol0")?;
            Ok((now > latest).then_some(now))
        })?;
    }
    Ok(())
}

#[test]
fn the_log_is_released_as_it_is_delivered_so_that_a_small_ring_never_overflows() -> Result<()> {
    let cluster = Cluster::start()?;
    // The guest writes several times the ring's size.
    let spec = VolumeSpec {
        size: 16 << 20,
        log_size: 24 << 20,
        ..VolumeSpec::default()
    };
    cluster.protect(&spec)?;
    let load = Load {
        pace: Duration::from_millis(2),
        max_blocks: 64,
    };
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 7, load)?;
    until(
        "the ring to go round three times",
        Duration::from_secs(120),
        || {
            anyhow::ensure!(
                cluster.wdevc(&["is-log-overflow", "vol0"])? == "0",
                "overflow\n{}",
                cluster.logs()
            );
            let oldest: u64 = cluster.wdevc(&["get-oldest-lsid", "vol0"])?.parse()?;
            Ok((oldest * 512 > 3 * spec.log_size).then_some(()))
        },
    )?;
    let captured = guest.capture(None)?;
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    assert_eq!(cluster.restored_digest("vol0", gid)?, captured);
    Ok(())
}
