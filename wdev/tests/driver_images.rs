//! Goal: our device takes over a device of the kernel driver, whatever state the driver left it in. Method: log and data
//! device images written by the real driver 1.5.1 (clean stops, crashes, torn packs, laps of the ring, overflow,
//! discards, a reset, a file system, a stale pack behind a torn one); after our redo the data device has the known digest.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::path::Path;

use camino::Utf8PathBuf;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use walb_wdev::config::{DeviceConfig, Limits};
use walb_wdev::engine::Engine;

/// One pair of images and what is known of it.
#[derive(Deserialize)]
struct Case {
    ldev: String,
    ddev: String,
    pbs: u32,
    ldev_sha256: String,
    ddev_sha256: String,
    /// The data device after a correct redo, discards done in full.
    redone_sha256: String,
    /// Where the log ends after redo.
    end_lsid: Option<u64>,
    verdict: String,
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn sha256(data: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(data).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unpack(name: &str, expected: &str, to: &Utf8PathBuf) {
    let file = std::fs::File::open(golden().join(name)).unwrap();
    let mut plain = Vec::new();
    liblzma::read::XzDecoder::new(file)
        .read_to_end(&mut plain)
        .unwrap();
    assert_eq!(sha256(&plain), expected, "{name} itself");
    std::fs::write(to, plain).unwrap();
}

#[test]
fn devices_of_the_kernel_driver_are_taken_over_in_every_state() {
    let text = std::fs::read_to_string(golden().join("driver_images.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8PathBuf::from_path_buf(dir.path().join(name)).unwrap();
        let (ldev, ddev) = (path("ldev"), path("ddev"));
        unpack(&case.ldev, &case.ldev_sha256, &ldev);
        unpack(&case.ddev, &case.ddev_sha256, &ddev);
        let config = DeviceConfig {
            name: "taken-over".to_owned(),
            ldev,
            ddev: ddev.clone(),
            nbd: None,
            nbd_guests: vec![],
            fuse: None,
            ublk: None,
            nbd_node: None,
            limits: Limits::default(),
        };
        let engine = Engine::open(&config, &path("state")).unwrap();
        let status = engine.status();
        engine.stop();
        drop(engine);
        assert_eq!(u32::from(status.pbs), case.pbs, "{}", case.ldev);
        if let Some(end) = case.end_lsid {
            assert_eq!(status.lsids.latest.0, end, "{}: end of the log", case.ldev);
        }
        assert_eq!(
            status.overflow,
            case.verdict == "overflow",
            "{}: overflow",
            case.ldev
        );
        assert_eq!(
            sha256(&std::fs::read(&ddev).unwrap()),
            case.redone_sha256,
            "{}: data after redo",
            case.ldev
        );
    }
}
