//! What the golden tests share: an image in memory, and the golden files with their manifest.

use std::cell::RefCell;
use std::fs;
use std::io;
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

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn manifest() -> Value {
    serde_json::from_slice(&bytes("manifest.json")).unwrap()
}

/// Runs `check` for every golden file of these kinds, telling which one failed. Files too large to keep here are
/// left out of the directory, not of the manifest.
pub fn each(kinds: &[&str], mut check: impl FnMut(&str, &Value)) {
    let manifest = manifest();
    let mut seen = 0;
    for vector in manifest["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        if kinds.contains(&vector["kind"].as_str().unwrap()) && path(name).exists() {
            let hash = sha256(&bytes(name));
            assert_eq!(vector["sha256"], hash, "{name} is not the golden file");
            println!("{name}");
            check(name, vector);
            seen += 1;
        }
    }
    assert!(seen > 0);
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
