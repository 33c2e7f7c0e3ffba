//! Goal: a log that was lost heals by a hash backup, by itself if it may, whatever dies meanwhile; every snapshot, older or
//! newer, restores to the image captured when it was taken; and what is moved is what has changed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;
use walb_common::rest::storage::{HashBackupReport, VolumeStatus};
use walb_tests::guest::Load;
use walb_tests::image::{Captured, digest};
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Guest, Options, Role, VolumeSpec};
use walb_wdev::nbd::client::NbdClient;

fn status(cluster: &Cluster) -> Result<VolumeStatus> {
    let text = cluster.walbc(Role::Storage, &["--json", "status", "vol0"])?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until the volume is Target after another hash backup than `before`.
fn until_healed(cluster: &Cluster, before: Option<&HashBackupReport>) -> Result<HashBackupReport> {
    until("the volume to be healed", PATIENCE, || {
        let now = status(cluster)?;
        let archive = cluster.walbc(Role::Archive, &["get", "state", "vol0"])?;
        let settled = now.state == "Target" && matches!(archive.as_str(), "Archived" | "WdiffRecv");
        let report = now.last_hash_backup.filter(|_| settled);
        if report.is_none() {
            anyhow::bail!(
                "storage {}, archive {archive}, healing {:?}, last error {:?}",
                now.state,
                now.healing,
                now.last_error
            );
        }
        Ok(report.filter(|report| Some(report) != before))
    })
}

fn hash_bkp(cluster: &Cluster, arguments: &[&str]) -> Result<HashBackupReport> {
    let mut all = vec!["--json", "--wait", "hash-bkp", "vol0"];
    all.extend(arguments);
    let job: Value = serde_json::from_str(&cluster.walbc(Role::Storage, &all)?)?;
    println!("{}", job["result"]);
    Ok(serde_json::from_value(job["result"].clone())?)
}

fn stop(cluster: &Cluster) -> Result<()> {
    cluster
        .walbc(Role::Storage, &["stop", "vol0", "--wait"])
        .map(drop)
}

/// A snapshot of what is there now is restored as it was captured.
fn check_new_snapshot(cluster: &Cluster, guest: &Guest) -> Result<(u64, Captured)> {
    let captured = guest.capture(None)?;
    let gid = until("a snapshot", PATIENCE, || cluster.snapshot("vol0").map(Some))?;
    guest.resume()?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    ensure!(
        cluster.restored_digest("vol0", gid)? == captured,
        "snapshot {gid} differs"
    );
    Ok((gid, captured))
}

#[test]
fn an_overflow_under_load_heals_by_itself_and_harms_no_snapshot() -> Result<()> {
    let mut cluster = Cluster::start_with(&Options {
        storage_settings: "catch_up_seconds = 5\n".into(),
        ..Options::default()
    })?;
    cluster.protect(&VolumeSpec {
        size: 32 << 20,
        log_size: 16 << 20,
        ..VolumeSpec::default()
    })?;
    let load = Load {
        pace: Duration::from_millis(1),
        max_blocks: 16,
    };
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 51, load)?;
    let result = (|| {
        let (old, before) = check_new_snapshot(&cluster, &guest)?;
        cluster.daemon(Role::Storage).kill9();
        until("the ring to overflow", PATIENCE, || {
            Ok((cluster.wdevc(&["is-log-overflow", "vol0"])? == "1").then_some(()))
        })?;
        cluster.start_daemon(Role::Storage)?;
        let report = until_healed(&cluster, None)?;
        println!("{report:?}");
        ensure!(report.why.contains("overflow"), "{report:?}");
        check_new_snapshot(&cluster, &guest)?;
        ensure!(
            cluster.restored_digest("vol0", old)? == before,
            "snapshot {old} differs"
        );
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())?;
    guest.stop()?;
    Ok(())
}

#[test]
fn what_is_moved_is_what_has_changed() -> Result<()> {
    let cluster = Cluster::start()?;
    let size = 64 << 20;
    cluster.protect(&VolumeSpec {
        size,
        log_size: 32 << 20,
        ..VolumeSpec::default()
    })?;
    let mut client = NbdClient::connect(&cluster.nbd_socket("vol0"), "vol0")?;
    let mut random = StdRng::seed_from_u64(55);
    let mut block = || {
        let mut noise = vec![0; 4096];
        random.fill_bytes(&mut noise);
        noise
    };
    for at in (0..size).step_by(1 << 20) {
        client.write(at, &block())?;
    }
    client.flush()?;
    let result = (|| {
        // What the archive has is what it has: nothing changes, and the hashes of it all are all that moves.
        let first = cluster.snapshot("vol0")?;
        cluster.until_restorable("vol0", first, PATIENCE)?;
        stop(&cluster)?;
        let report = hash_bkp(&cluster, &["--full-compare"])?;
        ensure!(
            report.method == "hashes" && report.changed_bytes == 0,
            "{report:?}"
        );
        ensure!(
            report.read_bytes == size && report.sent_bytes < 32 << 10,
            "{report:?}"
        );
        // Ten places change while nobody follows, one becomes zeros.
        stop(&cluster)?;
        for at in (0..10).map(|n| n * (5 << 20) + 8192) {
            client.write(at, &block())?;
        }
        client.write_zeroes(60 << 20, 4096, true)?;
        client.flush()?;
        let report = hash_bkp(&cluster, &["64k", "--full-compare"])?;
        ensure!(report.changed_bytes == 11 * (64 << 10), "{report:?}");
        let hashes = size / (64 << 10) * 32;
        let most = report.changed_bytes * 105 / 100 + hashes;
        ensure!(report.sent_bytes <= most, "{report:?}, at most {most}");
        ensure!(report.saved_bytes == size - report.sent_bytes, "{report:?}");
        let mut image = Vec::new();
        client.copy_to(&mut image)?;
        let gid = cluster.snapshot("vol0")?;
        cluster.until_restorable("vol0", gid, PATIENCE)?;
        ensure!(cluster.restored_digest("vol0", gid)? == digest(image.as_slice())?);
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

#[test]
fn the_bitmap_reads_what_changed_and_a_full_comparison_finds_what_it_was_not_told() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let size = 64 << 20;
    let log_size = 8 << 20;
    cluster.protect(&VolumeSpec {
        size,
        log_size,
        ..VolumeSpec::default()
    })?;
    let socket = cluster.nbd_socket("vol0");
    let mut client = NbdClient::connect(&socket, "vol0")?;
    let mut random = StdRng::seed_from_u64(56);
    let mut noise = |bytes: usize| {
        let mut noise = vec![0; bytes];
        random.fill_bytes(&mut noise);
        noise
    };
    let captured = |client: &mut NbdClient| -> Result<Captured> {
        let mut image = Vec::new();
        client.copy_to(&mut image)?;
        Ok(digest(image.as_slice())?)
    };
    let snapshot = |cluster: &Cluster| -> Result<Captured> {
        let gid = cluster.snapshot("vol0")?;
        cluster.until_restorable("vol0", gid, PATIENCE)?;
        cluster.restored_digest("vol0", gid)
    };
    client.write(0, &noise(4 << 20))?;
    client.flush()?;
    let first = captured(&mut client)?;
    ensure!(snapshot(&cluster)? == first);
    stop(&cluster)?;
    hash_bkp(&cluster, &["--full-compare"])?;
    stop(&cluster)?;

    // The ring overflows, and everything dies: only the chunks written to are read and sent.
    for round in 0..3 {
        for at in [8 << 20, 20 << 20, 50 << 20] {
            client.write(at, &noise(1 << 20))?;
            client.write(at + round * 4096, &noise(4096))?;
        }
    }
    client.flush()?;
    ensure!(cluster.wdevc(&["is-log-overflow", "vol0"])? == "1", "no overflow");
    for role in [Role::Storage, Role::Wdev] {
        cluster.daemon(role).kill9();
        cluster.start_daemon(role)?;
    }
    cluster.until_up(Role::Storage)?;
    let mut client = until("the device to come back", PATIENCE, || {
        Ok(Some(NbdClient::connect(&socket, "vol0")?))
    })?;
    let expected = captured(&mut client)?;
    let result = (|| {
        let report = hash_bkp(&cluster, &[])?;
        ensure!(
            report.method == "bitmap" && report.changed_bytes == 3 << 20,
            "{report:?}"
        );
        ensure!(report.read_bytes == report.changed_bytes, "{report:?}");
        ensure!(
            report.sent_bytes <= report.changed_bytes * 105 / 100,
            "{report:?}"
        );
        ensure!(snapshot(&cluster)? == expected);

        // Written past the device: it does not know, and says nothing of it.
        stop(&cluster)?;
        let data = std::fs::File::options()
            .write(true)
            .open(cluster.dir().join("vol0.ddev"))?;
        std::os::unix::fs::FileExt::write_all_at(&data, &noise(4096), 30 << 20)?;
        data.sync_all()?;
        let expected = captured(&mut client)?;
        let report = hash_bkp(&cluster, &[])?;
        ensure!(report.method == "bitmap", "{report:?}");
        ensure!(snapshot(&cluster)? != expected, "how could it know?");
        stop(&cluster)?;
        let report = hash_bkp(&cluster, &["64k", "--full-compare"])?;
        ensure!(report.changed_bytes == 64 << 10, "{report:?}");
        ensure!(snapshot(&cluster)? == expected);
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

#[test]
fn diffs_lost_with_a_proxys_disk_are_made_good_and_a_refusal_costs_nothing() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 16 << 20,
        log_size: 64 << 20,
        ..VolumeSpec::default()
    })?;
    let load = Load {
        pace: Duration::from_millis(2),
        max_blocks: 16,
    };
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 53, load)?;
    let result = (|| {
        let (old, before) = check_new_snapshot(&cluster, &guest)?;
        // The archive is away, so that what is sent stays at the proxy; then its disk is gone.
        cluster.daemon(Role::Archive).kill9();
        let lost = cluster.snapshot("vol0")?;
        until("the proxy to have it", PATIENCE, || {
            let done = status(&cluster)?.done.context("no done record")?;
            Ok((done.gid.0 >= lost).then_some(()))
        })?;
        cluster.daemon(Role::Proxy).kill9();
        let waiting = cluster.dir().join("p0/volumes/vol0/sendto/a0");
        for entry in std::fs::read_dir(&waiting).with_context(|| waiting.display().to_string())? {
            std::fs::remove_file(entry?.path())?;
        }
        cluster.start_daemon(Role::Proxy)?;
        cluster.start_daemon(Role::Archive)?;
        cluster.until_up(Role::Proxy)?;
        cluster.until_up(Role::Archive)?;
        until("the gap to be told", PATIENCE, || {
            let text = cluster.walbc(Role::Archive, &["status", "vol0"])?;
            Ok(text.contains("gap:").then_some(()))
        })?;
        stop(&cluster)?;
        // An archive that does not take it says so before anything is given up: the log goes on as it was.
        cluster.walbc(Role::Archive, &["stop", "vol0", "--wait"])?;
        let uuid = status(&cluster)?.uuid;
        let refused = cluster.walbc(Role::Storage, &["hash-bkp", "vol0"]);
        let told = refused.err().context("accepted")?.to_string();
        ensure!(told.contains("not accepted by archive"), "{told}");
        let now = status(&cluster)?;
        ensure!((now.state.as_str(), now.uuid) == ("Stopped", uuid), "{now:?}");
        cluster.walbc(Role::Archive, &["start", "vol0"])?;
        let report = hash_bkp(&cluster, &[])?;
        ensure!(
            report.state == "Target" && report.method == "hashes",
            "{report:?}"
        );
        check_new_snapshot(&cluster, &guest)?;
        ensure!(
            cluster.restored_digest("vol0", old)? == before,
            "snapshot {old} differs"
        );
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())?;
    guest.stop()?;
    Ok(())
}

/// Where a daemon dies. All come once in every hash backup.
const POINTS: &[(Role, &str)] = &[
    (Role::Storage, "storage.hash-intent.storing"),
    (Role::Storage, "storage.hash-intent.stored"),
    (Role::Storage, "storage.reset.device"),
    (Role::Storage, "storage.hash-reset.storing"),
    (Role::Storage, "storage.hash-reset.stored"),
    (Role::Storage, "storage.hash.commit"),
    (Role::Storage, "storage.backup-target.storing"),
    (Role::Storage, "storage.backup-target.stored"),
    (Role::Archive, "archive.hash.started"),
    (Role::Archive, "archive.hash.write"),
    (Role::Archive, "archive.hash.received"),
    (Role::Archive, "archive.hash.synced"),
    (Role::Archive, "archive.hash.saved"),
    (Role::Archive, "archive.hash.committed"),
    (Role::Archive, "archive.hash.renamed"),
    (Role::Archive, "archive.hash.uuid_stored"),
    (Role::Archive, "archive.hash.record_removed"),
    (Role::Archive, "archive.hash.taken_up"),
    (Role::Wdev, "wdev.reset.before_super_sector"),
    (Role::Wdev, "wdev.reset.before_zero_block"),
];

fn restart(cluster: &mut Cluster, role: Role, fault: Option<&str>) -> Result<()> {
    let value = fault.map(|point| format!("{point}=crash"));
    let environment: Vec<_> = value.iter().map(|v| ("WALB_FAULT", v.as_str())).collect();
    cluster.daemon(role).kill9();
    cluster.daemon(role).set_environment(&environment);
    cluster.start_daemon(role)
}

/// How often the device reset its log, by its own word.
fn resets(cluster: &mut Cluster) -> usize {
    let log = cluster.daemon(Role::Wdev).log();
    log.lines().filter(|line| line.contains("log reset")).count()
}

fn cut_at(cluster: &mut Cluster, guest: &Guest, role: Role, point: &str, arguments: &[&str]) -> Result<()> {
    let before = status(cluster)?.last_hash_backup;
    stop(cluster)?;
    let reset_before = resets(cluster);
    restart(cluster, role, Some(point))?;
    until("a backup to begin", PATIENCE, || {
        if !cluster.daemon(role).is_running() {
            return Ok(Some(()));
        }
        cluster.walbc(Role::Storage, arguments).map(|_| Some(()))
    })?;
    cluster.daemon(role).wait_for_death(PATIENCE)?;
    restart(cluster, role, None)?;
    if point == "storage.hash-intent.storing" {
        // Nothing of it is known any more.
        cluster.until_up(role)?;
        ensure!(status(cluster)?.state == "Stopped");
        cluster.walbc(Role::Storage, arguments)?;
    }
    let report = until_healed(cluster, before.as_ref())?;
    println!("{point}: {report:?}");
    let resets = resets(cluster) - reset_before;
    // Here the device died in its reset, which stands, before it could say so.
    let expected = usize::from(point != "wdev.reset.before_zero_block");
    ensure!(
        resets == expected,
        "the device reset its log {resets} times, expected {expected}"
    );
    check_new_snapshot(cluster, guest).map(drop)
}

#[test]
fn a_hash_backup_cut_at_any_point_goes_on_with_the_same_reset_and_is_right() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 << 20,
        log_size: 64 << 20,
        ..VolumeSpec::default()
    })?;
    let load = Load {
        pace: Duration::from_millis(3),
        max_blocks: 16,
    };
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 57, load)?;
    let (old, before) = check_new_snapshot(&cluster, &guest)?;
    for (number, (role, point)) in POINTS.iter().enumerate() {
        // By hashes and by the device's bitmap in turn, each side's points with both.
        let arguments: &[&str] = if number % 2 == 0 {
            &["hash-bkp", "vol0", "64k", "--full-compare"]
        } else {
            &["hash-bkp", "vol0", "64k"]
        };
        let result = cut_at(&mut cluster, &guest, *role, point, arguments);
        result.with_context(|| format!("{point}\n{}", cluster.logs()))?;
    }
    ensure!(
        cluster.restored_digest("vol0", old)? == before,
        "snapshot {old} differs"
    );
    guest.stop()?;
    Ok(())
}
