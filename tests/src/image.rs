//! Images: their digests, and where two of them differ.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

/// SHA-256 of an image, and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// In hex.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

/// Reads a stream to its end.
pub fn digest(mut input: impl Read) -> std::io::Result<Captured> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
    let mut sha256 = String::new();
    for byte in hash.finalize() {
        write!(sha256, "{byte:02x}").map_err(std::io::Error::other)?;
    }
    Ok(Captured { sha256, size })
}

/// Digest of a file.
pub fn digest_file(path: &Path) -> anyhow::Result<Captured> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    digest(file).with_context(|| format!("read {}", path.display()))
}

/// The first 512-byte block in which two equally long images differ.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.chunks(512).zip(b.chunks(512)).position(|(x, y)| x != y)
}
