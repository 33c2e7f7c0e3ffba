//! Goal: what walb-wdev acknowledged survives `kill -9` at any instant, after a restart alone. Method: the real daemon as a
//! child, written to over NBD by several clients, killed in the middle of writes; every block must then hold the last version
//! acknowledged, or the one that was in flight.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use walb_common::types::{Lsid, PhysicalBlockSize};
use walb_wdev::client::{DeviceError, Remedy, WalDevice, WdevClient};
use walb_wdev::config::{DeviceConfig, Limits};
use walb_wdev::engine::format_log_device;
use walb_wdev::nbd::client::NbdClient;

const SIZE: u64 = 4 << 20;
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
const CLIENTS: u64 = 3;

struct Daemon {
    child: Child,
    dir: Utf8PathBuf,
}

impl Daemon {
    fn start(dir: &Utf8Path, fault: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walb-wdev"));
        command.args([
            "--dir",
            dir.join("state").as_str(),
            "--socket",
            dir.join("control").as_str(),
        ]);
        command.env("WALB_LOG", "warn").env_remove("WALB_FAULT");
        if let Some(fault) = fault {
            command.env("WALB_FAULT", fault);
        }
        Self {
            child: command.spawn().unwrap(),
            dir: dir.to_owned(),
        }
    }

    fn client(&self, name: &str) -> WdevClient {
        WdevClient::new(Some(self.dir.join("control")), name.to_owned())
    }

    /// The daemon may still be opening its devices.
    async fn ready(&self, name: &str) -> WdevClient {
        let client = self.client(name);
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match client.list().await {
                Ok(_) => return client,
                Err(e) => assert!(e.remedy() == Remedy::Retry && Instant::now() < until, "{e:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn died_by_itself(mut self) {
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

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
        limits,
    }
}

/// `begun` and `acknowledged` version of every block; a client writes only its own blocks.
struct Versions(Vec<(AtomicU64, AtomicU64)>);

impl Versions {
    fn new() -> Self {
        Self(
            (0..SIZE / BLOCK)
                .map(|_| (AtomicU64::new(0), AtomicU64::new(0)))
                .collect(),
        )
    }
}

fn content(block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK_BYTES];
    }
    let word = (block << 40 | version).to_le_bytes();
    word.iter().copied().cycle().take(BLOCK_BYTES).collect()
}

fn write_until_it_dies(
    socket: &Utf8Path,
    client: u64,
    seed: u64,
    versions: &Versions,
    acknowledged: &AtomicU64,
) {
    let Ok(mut nbd) = NbdClient::connect(socket.as_std_path(), "vol0") else {
        return;
    };
    let mut random = seed * 1_000 + client * 7 + 1;
    loop {
        // A plain linear congruential generator: the seed tells the whole run.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let block = (random >> 33) % (SIZE / BLOCK / CLIENTS) * CLIENTS + client;
        let (begun, acked) = &versions.0[block as usize];
        let version = begun.fetch_add(1, Ordering::SeqCst) + 1;
        let data = content(block, version);
        let durable = (random >> 20).is_multiple_of(8);
        let written = if durable {
            nbd.write_fua(block * BLOCK, &data)
        } else {
            nbd.write(block * BLOCK, &data)
        };
        if written.is_err() {
            return;
        }
        acked.store(version, Ordering::SeqCst);
        acknowledged.fetch_add(1, Ordering::SeqCst);
        if (random >> 24).is_multiple_of(16) && nbd.flush().is_err() {
            return;
        }
    }
}

async fn verify(client: &WdevClient, versions: &Versions, seed: u64) {
    for (block, (begun, acked)) in (0u64..).zip(&versions.0) {
        let found = client.read_data(block * BLOCK, 4096).await.unwrap();
        let range = acked.load(Ordering::SeqCst)..=begun.load(Ordering::SeqCst);
        let good = range.clone().find(|v| found == content(block, *v));
        let Some(version) = good else {
            panic!("seed {seed}: block {block} holds none of the versions {range:?}")
        };
        // From now on that version is the truth.
        begun.store(version, Ordering::SeqCst);
        acked.store(version, Ordering::SeqCst);
    }
}

/// Writes until `enough` says so (given the number of acknowledged writes), then `end`s the daemon.
fn load(dir: &Utf8Path, seed: u64, versions: &Versions, end: impl FnOnce(&AtomicU64)) {
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (socket, acknowledged) = (dir.join("nbd"), &acknowledged);
            scope.spawn(move || write_until_it_dies(&socket, client, seed, versions, acknowledged));
        }
        end(&acknowledged);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn acknowledged_writes_survive_kill_9_at_any_instant() {
    for pbs in [PhysicalBlockSize::B512, PhysicalBlockSize::B4096] {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let config = make(dir, pbs);
        let versions = Versions::new();
        let mut daemon = Daemon::start(dir, None);
        daemon.ready("vol0").await.create(config).await.unwrap();
        for seed in 0..6u64 {
            let goal = 20 + seed * 37;
            load(dir, seed, &versions, |acknowledged| {
                let until = Instant::now() + Duration::from_secs(30);
                while acknowledged.load(Ordering::SeqCst) < goal {
                    assert!(Instant::now() < until, "seed {seed}: no progress");
                    std::thread::sleep(Duration::from_millis(1));
                }
                daemon.kill();
            });
            daemon = Daemon::start(dir, None);
            let client = daemon.ready("vol0").await;
            verify(&client, &versions, seed).await;
        }
        daemon.terminate();
        let daemon = Daemon::start(dir, None);
        let client = daemon.ready("vol0").await;
        verify(&client, &versions, 99).await;
        let status = client.status().await.unwrap();
        assert_eq!(status.lsids.prev_written, status.lsids.latest);
        daemon.terminate();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn acknowledged_writes_survive_a_death_at_every_fault_point() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let versions = Versions::new();
    let daemon = Daemon::start(dir, None);
    daemon
        .ready("vol0")
        .await
        .create(make(dir, PhysicalBlockSize::B512))
        .await
        .unwrap();
    daemon.terminate();
    for (seed, fault) in (0u64..).zip([
        "wdev.log.before_write=crash@20",
        "wdev.log.part_written=crash@23",
        "wdev.log.written=crash@31",
        "wdev.log.before_sync=crash@5",
        "wdev.log.synced=crash@6",
        "wdev.data.before_write=crash@30",
        "wdev.data.written=crash@40",
        "wdev.checkpoint.before_data_sync=crash@2",
        "wdev.checkpoint.data_synced=crash@2",
        "wdev.super_sector.before_write=crash@2",
        "wdev.super_sector.stored=crash@2",
    ]) {
        let daemon = Daemon::start(dir, Some(fault));
        daemon.ready("vol0").await;
        load(dir, seed, &versions, |_| daemon.died_by_itself());
        let daemon = Daemon::start(dir, None);
        verify(&daemon.ready("vol0").await, &versions, seed).await;
        daemon.kill();
    }
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
        limits: Limits::default(),
    }
}
