//! Goal: deaths in a log reset and while changes are stored, errors of the disks at the fault points, a bad device among good
//! ones, and a stop while writes wait. Method: the real
//! daemon as a child, over NBD and its control socket. (Deaths under load: `durability`.)

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs::File;

use camino::Utf8Path;
use support::daemon::Daemon;
use walb_common::types::{Lsid, PhysicalBlockSize, Uuid};
use walb_wdev::client::{Changed, DeviceError, Remedy, WalDevice, WdevClient};
use walb_wdev::config::{DeviceConfig, Limits, OnRingFull};
use walb_wdev::engine::format_log_device;
use walb_wdev::nbd::client::NbdClient;

const SIZE: u64 = 4 << 20;
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;

fn make(dir: &Utf8Path, pbs: PhysicalBlockSize) -> DeviceConfig {
    let (ldev, ddev) = (dir.join("log"), dir.join("data"));
    File::create(&ldev).unwrap().set_len(2 << 20).unwrap();
    File::create(&ddev).unwrap().set_len(SIZE).unwrap();
    format_log_device(&ldev, &ddev, "vol0", Some(pbs), true).unwrap();
    let limits = Limits {
        checkpoint_interval_ms: 50,
        log_sync_interval_ms: 10,
        ..Limits::default()
    };
    DeviceConfig {
        name: "vol0".to_owned(),
        ldev,
        ddev,
        nbd: Some(dir.join("nbd")),
        nbd_guests: vec![],
        fuse: None,
        ublk: None,
        nbd_node: None,
        limits,
    }
}

fn content(block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK_BYTES];
    }
    let word = (block << 40 | version).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK_BYTES).collect()
}

#[tokio::test]
async fn a_death_during_a_log_reset_leaves_the_old_log_or_the_new() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut daemon = Daemon::start(dir, None);
    daemon
        .ready("vol0")
        .await
        .create(make(dir, PhysicalBlockSize::B512))
        .await
        .unwrap();
    for (fault, new) in [
        ("wdev.reset.before_super_sector=crash", false),
        ("wdev.reset.before_zero_block=crash", true),
    ] {
        daemon.terminate();
        daemon = Daemon::start(dir, Some(fault));
        let client = daemon.ready("vol0").await;
        let mut nbd = NbdClient::connect(dir.join("nbd").as_std_path(), "vol0").unwrap();
        nbd.write(0, &content(0, 1)).unwrap();
        drop(nbd);
        let before = client.status().await.unwrap();
        let error = client.reset_log().await.unwrap_err();
        assert!(matches!(error, DeviceError::Broken { .. }), "{error}");
        daemon.died_by_itself();
        daemon = Daemon::start(dir, None);
        let client = daemon.ready("vol0").await;
        let after = client.status().await.unwrap();
        assert_eq!(
            (after.uuid != before.uuid, after.lsids.latest == Lsid(0)),
            (new, new)
        );
        assert!(client.read_data(0, 4096).await.unwrap() == content(0, 1));
    }
    daemon.terminate();
}

/// Chunks of the device that were written to, for sure and perhaps.
#[derive(Default)]
struct Touched {
    acknowledged: BTreeSet<u64>,
    begun: BTreeSet<u64>,
}

impl Touched {
    /// Writes to every seventh chunk until the daemon dies.
    fn write_until_it_dies(&mut self, socket: &Utf8Path, round: u64, chunk: u64) {
        let mut nbd = NbdClient::connect(socket.as_std_path(), "vol0").unwrap();
        let chunks = SIZE / chunk;
        for n in 0u64.. {
            let at = (n * 7 + round % 7) % (chunks / 7 * 7);
            self.begun.insert(at);
            if nbd
                .write(at * chunk + n % 3 * BLOCK, &content(at, n + 1))
                .is_err()
            {
                return;
            }
            self.acknowledged.insert(at);
        }
    }

    /// No chunk that was written is left out, and none is told that was not.
    async fn check(&self, client: &WdevClient, base: (Uuid, Lsid)) {
        let Changed::Known(told) = client.changed().await.unwrap() else {
            panic!("not known: {:?}", client.changed().await)
        };
        assert_eq!((told.base_uuid, told.base_lsid), base);
        let chunks: BTreeSet<u64> = told
            .ranges()
            .flat_map(|(first, count)| first..first + count)
            .collect();
        assert!(self.acknowledged.is_subset(&chunks), "changes are lost");
        assert!(chunks.is_subset(&self.begun), "more than was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_has_changed_is_told_exactly_after_a_death_at_every_step_of_storing_it() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut daemon = Daemon::start(dir, None);
    let client = daemon.ready("vol0").await;
    client.create(make(dir, PhysicalBlockSize::B512)).await.unwrap();
    let base = (client.status().await.unwrap().uuid, Lsid(0));
    let Changed::Known(none) = client.changed().await.unwrap() else {
        panic!("nothing was written")
    };
    let (mut touched, chunk) = (Touched::default(), none.chunk.bytes());
    // Nobody releases log: from the second half of the first lap on it is stored again and again.
    for (round, fault) in (0u64..).zip([
        "wdev.changed.before_store=crash@1",
        "wdev.overflow.before_mark=crash@1",
        "disk.rename.before=crash@1",
        "disk.rename.before=crash@2",
        "wdev.changed.stored=crash@1",
        "wdev.changed.before_store=crash@3",
        "wdev.log.part_written=crash@1200",
    ]) {
        daemon.terminate();
        daemon = Daemon::start(dir, Some(fault));
        daemon.ready("vol0").await;
        touched.write_until_it_dies(&dir.join("nbd"), round, chunk);
        daemon.died_by_itself();
        daemon = Daemon::start(dir, None);
        touched.check(&daemon.ready("vol0").await, base).await;
    }
    // A stop stores all of it, so that the next store is that of a reset.
    daemon.terminate();
    daemon = Daemon::start(dir, None);
    daemon.ready("vol0").await;
    // A reset carries it on, whether it happened or not.
    for fault in [
        "wdev.changed.before_store=crash",
        "wdev.changed.stored=crash",
        "wdev.reset.before_super_sector=crash",
        "wdev.reset.before_zero_block=crash",
    ] {
        // As after a death: a stop would store it.
        daemon.kill();
        daemon = Daemon::start(dir, Some(fault));
        let client = daemon.ready("vol0").await;
        client.reset_log().await.unwrap_err();
        daemon.died_by_itself();
        daemon = Daemon::start(dir, None);
        touched.check(&daemon.ready("vol0").await, base).await;
    }
    let client = daemon.ready("vol0").await;
    client.reset_log().await.unwrap();
    touched.check(&client, base).await;
    client.forget_changed().await.unwrap();
    let uuid = client.status().await.unwrap().uuid;
    Touched::default().check(&client, (uuid, Lsid(0))).await;
    daemon.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_daemon_stops_while_writes_wait_for_the_ring_and_keeps_the_policy() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut daemon = Daemon::start(dir, None);
    let client = daemon.ready("vol0").await;
    client.create(make(dir, PhysicalBlockSize::B512)).await.unwrap();
    client.set_on_ring_full(OnRingFull::Throttle).await.unwrap();
    let writer = write_until_it_waits(&client, dir).await;
    daemon.terminate();
    writer.join().unwrap();
    daemon = Daemon::start(dir, None);
    let client = daemon.ready("vol0").await;
    let status = client.status().await.unwrap();
    assert!(!status.overflow && status.on_ring_full == OnRingFull::Throttle);
    let writer = write_until_it_waits(&client, dir).await;
    client.delete(true).await.unwrap();
    writer.join().unwrap();
    daemon.terminate();
}

/// A guest that writes for as long as it can, once it cannot any more.
async fn write_until_it_waits(client: &WdevClient, dir: &Utf8Path) -> std::thread::JoinHandle<()> {
    let socket = dir.join("nbd");
    let writer = std::thread::spawn(move || Touched::default().write_until_it_dies(&socket, 0, BLOCK));
    while !client.status().await.unwrap().waits_for_ring {
        tokio::task::yield_now().await;
    }
    writer
}

#[tokio::test]
async fn an_error_of_the_log_device_fails_that_write_and_makes_the_device_read_only_until_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut daemon = Daemon::start(dir, None);
    let mut config = make(dir, PhysicalBlockSize::B512);
    config.limits.log_sync_interval_ms = 60_000;
    daemon.ready("vol0").await.create(config).await.unwrap();
    for (version, fault) in (1u64..).zip(["wdev.log.before_write=eio@2", "wdev.log.before_sync=eio@1"]) {
        daemon.terminate();
        daemon = Daemon::start(dir, Some(fault));
        let client = daemon.ready("vol0").await;
        let mut nbd = NbdClient::connect(dir.join("nbd").as_std_path(), "vol0").unwrap();
        nbd.write(0, &content(0, version)).unwrap();
        // Both the log write and the sync of the second, durable one can fail; the first was acknowledged.
        assert!(nbd.write_fua(BLOCK, &content(1, version)).is_err());
        assert!(nbd.write(BLOCK, &content(1, version)).is_err() && nbd.flush().is_err());
        assert!(client.status().await.unwrap().read_only);
        let refused = client.checkpoint().await.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::RepairDevice, "{refused:?}");
        assert!(
            client.read_data(0, 4096).await.unwrap() == content(0, version),
            "still readable"
        );
        drop(nbd);
        daemon.terminate();
        daemon = Daemon::start(dir, None);
        let client = daemon.ready("vol0").await;
        assert!(!client.status().await.unwrap().read_only);
        assert!(
            client.read_data(0, 4096).await.unwrap() == content(0, version),
            "redo brings it back"
        );
    }
    daemon.terminate();
}

#[tokio::test]
async fn after_an_error_of_the_data_device_guests_read_on_but_no_backup_does_until_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut daemon = Daemon::start(dir, None);
    let mut config = make(dir, PhysicalBlockSize::B512);
    config.limits.checkpoint_interval_ms = 0;
    daemon.ready("vol0").await.create(config).await.unwrap();
    for (version, fault) in (1u64..).zip([
        "wdev.data.before_write=eio@1",
        "wdev.checkpoint.before_data_sync=eio@1",
    ]) {
        daemon.terminate();
        daemon = Daemon::start(dir, Some(fault));
        let client = daemon.ready("vol0").await;
        let mut nbd = NbdClient::connect(dir.join("nbd").as_std_path(), "vol0").unwrap();
        nbd.write_fua(0, &content(0, version)).unwrap();
        assert!(client.checkpoint().await.is_err());
        assert!(client.status().await.unwrap().read_only);
        assert!(nbd.read(0, 4096).unwrap() == content(0, version));
        assert!(client.read_data(0, 4096).await.is_err());
        drop(nbd);
        daemon.terminate();
        daemon = Daemon::start(dir, None);
        let client = daemon.ready("vol0").await;
        assert!(client.read_data(0, 4096).await.unwrap() == content(0, version));
    }
    daemon.terminate();
}

#[tokio::test]
async fn one_bad_device_is_shown_and_the_others_run_and_clients_reconnect() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let daemon = Daemon::start(dir, None);
    let client = daemon.ready("vol0").await;
    client.create(make(dir, PhysicalBlockSize::B512)).await.unwrap();
    assert!(
        client.create(make_named(dir, "vol0")).await.is_err(),
        "the name is taken"
    );
    client.create(make_named(dir, "vol1")).await.unwrap();
    assert_eq!(
        client
            .who_uses(dir.join("vol1-log").to_string())
            .await
            .unwrap()
            .as_deref(),
        Some("vol1")
    );
    daemon.terminate();
    assert_eq!(client.status().await.unwrap_err().remedy(), Remedy::Retry);
    std::fs::remove_file(dir.join("vol1-log")).unwrap();
    let daemon = Daemon::start(dir, None);
    daemon.ready("vol0").await;
    let list = client.list().await.unwrap();
    assert!(
        list[0].failed.is_none() && list[1].failed.as_ref().unwrap().contains("vol1-log"),
        "{list:?}"
    );
    // The client made before the restart goes on.
    assert_eq!(client.status().await.unwrap().name, "vol0");
    let error = daemon.client("vol7").status().await.unwrap_err();
    assert!(format!("{error:?}").contains("vol0 vol1"), "{error:?}");
    daemon.client("vol1").delete(false).await.unwrap();
    client.delete(false).await.unwrap();
    assert!(client.list().await.unwrap().is_empty());
    daemon.terminate();
}

fn make_named(dir: &Utf8Path, name: &str) -> DeviceConfig {
    let (ldev, ddev) = (dir.join(format!("{name}-log")), dir.join(format!("{name}-data")));
    File::create(&ldev).unwrap().set_len(1 << 20).unwrap();
    File::create(&ddev).unwrap().set_len(1 << 20).unwrap();
    format_log_device(&ldev, &ddev, name, None, true).unwrap();
    DeviceConfig {
        name: name.to_owned(),
        ldev,
        ddev,
        nbd: None,
        nbd_guests: vec![],
        fuse: None,
        ublk: None,
        nbd_node: None,
        limits: Limits::default(),
    }
}
