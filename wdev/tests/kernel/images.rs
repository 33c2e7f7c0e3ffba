//! The recorded devices, and a capture of their logs that knows nothing of our readers.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Case {
    pub ldev: String,
    pub ddev: String,
    pub pbs: u32,
    pub end_lsid: Option<u64>,
    pub verdict: String,
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(golden().join("driver_images.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn unpack(name: &str) -> Vec<u8> {
    let file = std::fs::File::open(golden().join(name)).unwrap();
    let mut plain = Vec::new();
    liblzma::read::XzDecoder::new(file)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

/// The case of this name, with its log and data device.
pub fn load(ldev: &str) -> (Case, Vec<u8>, Vec<u8>) {
    let case = cases().into_iter().find(|case| case.ldev == ldev).unwrap();
    let (log, data) = (unpack(&case.ldev), unpack(&case.ddev));
    (case, log, data)
}

/// The log `[from, to)`, block after block, each where the layout says it is.
pub fn capture(log: &[u8], pbs: u32, from: u64, to: u64) -> Vec<u8> {
    let pb = pbs as usize;
    let ring = u64::from_le_bytes(log[4096 + 72..4096 + 80].try_into().unwrap());
    let first = 4096 / pb + 2;
    (from..to)
        .flat_map(|lsid| {
            let at = (first + usize::try_from(lsid % ring).unwrap()) * pb;
            log[at..at + pb].to_vec()
        })
        .collect()
}
