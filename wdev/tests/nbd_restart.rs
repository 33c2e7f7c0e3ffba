//! Goal: to a guest that reconnects, a restart of walb-wdev is a pause: the same export, the same size, no write lost.
//! Method: the real daemon, killed and started again while qemu-nbd (`reconnect-delay`) writes to it, over a
//! unix socket and over TCP; its own guest notices nothing, and every byte is what it wrote.
//! Debian packages: qemu-utils, libnbd-bin.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::pki::Pki;
use support::program::{Running, qemu_nbd};
use support::raw::until;
use support::{noise, run_tool, tool};
use walb_common::wire::identity::Role;
use walb_common::wire::tls::TlsFiles;
use walb_wdev::nbd::client::NbdClient;

const SIZE: u64 = 32 << 20;
const BLOCK: u64 = 16 << 10;

struct Place {
    dir: tempfile::TempDir,
    pki: Pki,
    tls: TlsFiles,
    /// The same port in every life.
    address: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let tls = pki.files(Role::Storage, "s0");
        for (name, size) in [("log", 16 << 20), ("data", SIZE)] {
            File::create(dir.path().join(name))
                .unwrap()
                .set_len(size)
                .unwrap();
        }
        let address = "127.0.0.1:0".to_owned();
        Self {
            dir,
            pki,
            tls,
            address,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn wdevc(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wdevc"));
        command
            .args(args)
            .env("WALB_WDEV_SOCKET", self.path("control"))
            .stderr(Stdio::null());
        let output = command.output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn start(&mut self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walb-wdev"));
        command.args(["--dir", &self.path("state"), "--socket", &self.path("control")]);
        command.args([
            "--nbd-listen",
            &self.address,
            "--nbd-address-file",
            &self.path("address"),
        ]);
        command.arg("--tls-ca").arg(&self.tls.ca);
        command.arg("--tls-cert").arg(&self.tls.cert);
        command.arg("--tls-key").arg(&self.tls.key);
        let daemon = Running(command.env("WALB_LOG", "error").spawn().unwrap());
        until("the daemon answers", || self.wdevc(&["list"]).is_some());
        self.address = std::fs::read_to_string(self.path("address")).unwrap();
        daemon
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }
}

#[test]
fn a_guest_behind_qemu_writes_on_through_kill_9_and_restarts_and_no_write_is_lost() {
    let mut place = Place::new();
    let (log, data, local) = (place.path("log"), place.path("data"), place.path("nbd"));
    place.wdevc(&["format-ldev", &log, &data, "-n", "vol0"]).unwrap();
    let mut daemon = place.start();
    assert!(
        place
            .wdevc(&["create-wdev", &log, &data, "-nbd", &local, "-nbd-guest", "g0"])
            .is_some()
    );
    let guest = place.pki.directory(Role::Guest, "g0");
    let over_tcp = format!(
        "server.type=inet,server.host=localhost,server.port={},tls-creds=tls0",
        place.port()
    );
    let over_unix = format!("server.type=unix,server.path={local}");
    let fronts = [place.path("front0"), place.path("front1")];
    let _qemu = [
        qemu_nbd("vol0", &over_unix, &guest, &fronts[0]),
        qemu_nbd("vol0", &over_tcp, &guest, &fronts[1]),
    ];
    let blocks = SIZE / BLOCK;
    let written = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (half, front) in (0_u64..).zip(&fronts) {
            let written = &written;
            // Each writes its half of the blocks, and never hears of an error.
            scope.spawn(move || {
                let mut disk = NbdClient::connect(Path::new(front), "vol0").unwrap();
                disk.set_timeout(Some(Duration::from_secs(90))).unwrap();
                for block in (half..blocks).step_by(2) {
                    disk.write(block * BLOCK, &noise(block + 1, usize::try_from(BLOCK).unwrap()))
                        .unwrap();
                    if block % 64 < 2 {
                        disk.flush().unwrap();
                    }
                    written.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
        for life in 1..=3 {
            until("more is written", || {
                written.load(std::sync::atomic::Ordering::SeqCst) > life * blocks / 5
            });
            daemon.kill();
            daemon = place.start();
        }
    });
    let expected: Vec<u8> = (0..blocks)
        .flat_map(|b| noise(b + 1, usize::try_from(BLOCK).unwrap()))
        .collect();
    let certificates = format!("tls-certificates={}", guest.display());
    for (nth, uri) in [
        format!("nbd+unix:///vol0?socket={}", fronts[0]),
        format!("nbd+unix:///vol0?socket={}", fronts[1]),
        format!("nbd+unix:///vol0?socket={local}"),
        format!("nbds://localhost:{}/vol0?{certificates}", place.port()),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(
            tool("libnbd-bin", "nbdinfo", &["--size", uri]).trim(),
            SIZE.to_string()
        );
        let copy = place.path(&format!("copy{nth}"));
        tool("libnbd-bin", "nbdcopy", &[uri, &copy]);
        assert!(std::fs::read(&copy).unwrap() == expected, "{uri}");
    }
}

#[test]
fn a_flush_of_one_client_makes_durable_what_was_answered_to_another() {
    let mut place = Place::new();
    let (log, data, local) = (place.path("log"), place.path("data"), place.path("nbd"));
    place.wdevc(&["format-ldev", &log, &data, "-n", "vol0"]).unwrap();
    let _daemon = place.start();
    // No sync of the log by itself.
    let create = ["create-wdev", &log, &data, "-nbd", &local, "-fp", "3600000"];
    place.wdevc(&create).unwrap();
    let lsid = |which: &str| {
        place
            .wdevc(&[which, "vol0"])
            .unwrap()
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    let mut writer = NbdClient::connect(Path::new(&local), "vol0").unwrap();
    let mut flusher = NbdClient::connect(Path::new(&local), "vol0").unwrap();
    for block in 0..100 {
        writer.write(block * 4096, &noise(block, 4096)).unwrap();
    }
    let answered = lsid("get-completed-lsid");
    assert!(lsid("get-permanent-lsid") < answered, "not durable yet");
    flusher.flush().unwrap();
    assert!(lsid("get-permanent-lsid") >= answered);
}

#[test]
fn a_device_with_guests_needs_a_daemon_that_listens_for_them_and_loses_them_when_it_goes() {
    let mut place = Place::new();
    let (log, data) = (place.path("log"), place.path("data"));
    place.wdevc(&["format-ldev", &log, &data, "-n", "vol0"]).unwrap();
    let create = ["create-wdev", &log, &data, "-nbd-guest", "g0"];
    let mut deaf = Command::new(env!("CARGO_BIN_EXE_walb-wdev"));
    deaf.args(["--dir", &place.path("deaf"), "--socket", &place.path("control")]);
    let deaf = Running(deaf.env("WALB_LOG", "error").spawn().unwrap());
    until("the daemon answers", || place.wdevc(&["list"]).is_some());
    assert!(place.wdevc(&create).is_none());
    drop(deaf);
    let _daemon = place.start();
    assert!(
        place
            .wdevc(&["create-wdev", &log, &data, "-nbd-guest", "g 0"])
            .is_none(),
        "no node id"
    );
    place.wdevc(&create).unwrap();
    let guest = place.pki.directory(Role::Guest, "g0");
    let server = format!(
        "server.type=inet,server.host=localhost,server.port={},tls-creds=tls0",
        place.port()
    );
    let qemu = qemu_nbd("vol0", &server, &guest, &place.path("front"));
    assert!(place.wdevc(&["delete-wdev", "vol0"]).is_none(), "in use");
    drop(qemu);
    until("it is not in use any more", || {
        place.wdevc(&["delete-wdev", "vol0"]).is_some()
    });
    let uri = format!(
        "nbds://localhost:{}/vol0?tls-certificates={}",
        place.port(),
        guest.display()
    );
    assert!(!run_tool("libnbd-bin", "nbdinfo", &[&uri]).status.success());
}
