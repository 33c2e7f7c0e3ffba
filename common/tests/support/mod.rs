//! What the golden tests share: an image in memory, and the golden files with their manifest.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod log;

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use walb_common::convert::ImageTarget;

/// An image in memory.
pub struct MemImage(pub RefCell<Vec<u8>>);

impl MemImage {
    pub fn zero(bytes: u64) -> Self {
        Self(RefCell::new(vec![0; bytes as usize]))
    }

    pub fn sha256(&self) -> String {
        sha256(&self.0.borrow())
    }

    pub fn fill(&self, byte: u8, position: u64, length: u64) {
        self.0.borrow_mut()[position as usize..][..length as usize].fill(byte);
    }
}

impl ImageTarget for MemImage {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }
    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        self.0.borrow_mut()[position as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn write_zeroes(&self, position: u64, length: u64) -> io::Result<()> {
        self.fill(0, position, length);
        Ok(())
    }
    fn discard(&self, position: u64, length: u64) -> io::Result<()> {
        self.fill(0, position, length);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// The directory of the golden files and of their manifest.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn path(name: &str) -> PathBuf {
    golden().join(name)
}

pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// An image of the kernel driver's. They are kept compressed, beside the tests that take over such devices.
pub fn driver_image(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../wdev/tests/golden/{name}.xz"));
    let file = fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut plain = vec![];
    liblzma::read::XzDecoder::new(file)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

pub fn manifest() -> Value {
    serde_json::from_slice(&bytes("manifest.json")).unwrap()
}

pub fn driver_manifest() -> Value {
    serde_json::from_slice(&bytes("driver/manifest.json")).unwrap()
}

/// What a golden file is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// To be read, with these outcomes.
    Sound,
    /// To be refused, for this reason.
    Damaged,
}

/// How many files there are of each kind and class. A walk that misses one, or a file of another kind, fails.
const COUNTS: [(&str, Class, usize); 8] = [
    ("wlog", Class::Sound, 18),
    ("wlog", Class::Damaged, 10),
    ("wlog-stream", Class::Sound, 1),
    ("wdiff", Class::Sound, 42),
    ("wdiff", Class::Damaged, 21),
    ("wdiff-merge", Class::Sound, 6),
    ("ldev", Class::Sound, 24 + 25),
    ("ldev", Class::Damaged, 6),
];

fn class(vector: &Value) -> Class {
    match (vector["kind"].as_str(), vector["expect"]["verdict"].as_str()) {
        // Torn and overflowed logs are read, up to a point.
        (Some("ldev"), Some("ok" | "torn" | "overflow")) | (_, None) => Class::Sound,
        _ => Class::Damaged,
    }
}

/// Runs `check(name, bytes, facts)` for every golden file of a kind and class, telling which one failed; log devices
/// include the kernel driver's.
pub fn each(kind: &str, wanted: Class, mut check: impl FnMut(&str, &[u8], &Value)) {
    let (ours, drivers) = (manifest(), driver_manifest());
    let common = ours["vectors"].as_array().unwrap().iter().map(|v| (v, false));
    let driver = drivers["vectors"].as_array().unwrap().iter().map(|v| (v, true));
    let mut seen = 0;
    for (vector, of_driver) in common.chain(driver) {
        if vector["kind"] != kind || class(vector) != wanted {
            continue;
        }
        let name = vector["name"].as_str().unwrap();
        let stored = if of_driver {
            driver_image(name)
        } else {
            bytes(name)
        };
        assert_eq!(vector["sha256"], sha256(&stored), "{name} is not the golden file");
        println!("{name}");
        check(name, &stored, vector);
        seen += 1;
    }
    let expected = COUNTS.iter().find(|(k, c, _)| *k == kind && *c == wanted);
    assert_eq!(
        Some(seen),
        expected.map(|e| e.2),
        "files of kind {kind}, {wanted:?}"
    );
}

/// Every file of the manifests is of a kind and class that the tests walk, and none lies about unlisted.
pub fn nothing_is_left_out() {
    let (ours, drivers) = (manifest(), driver_manifest());
    let listed: Vec<&Value> = ours["vectors"].as_array().unwrap().iter().collect();
    let of_driver = drivers["vectors"].as_array().unwrap();
    assert_eq!((listed.len(), of_driver.len()), (128, 25));
    for vector in listed.iter().copied().chain(of_driver) {
        let known = COUNTS
            .iter()
            .any(|(k, c, _)| vector["kind"] == *k && class(vector) == *c);
        assert!(known, "{} is of no kind that is walked", vector["name"]);
    }
    assert_eq!(COUNTS.iter().map(|c| c.2).sum::<usize>(), 128 + 25);
    for entry in fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = ["README.md", "manifest.json", "driver"].contains(&&*name)
            || listed.iter().any(|v| v["name"] == *name);
        assert!(known, "{name} is not in the manifest");
    }
}

/// The whole chain of an error, as an operator sees it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += ": ";
        text += &inner.to_string();
        source = inner.source();
    }
    text
}
