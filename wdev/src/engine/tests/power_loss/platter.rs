//! What a disk with a cache holds.
//!
//! It keeps apart what is durable and what was written since: every version that a sector had since the last sync may be the
//! one that a power loss leaves, or none of them. So writes are torn, reordered and lost as a cache would. A sector of 512
//! bytes is written whole or not at all.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;

pub const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// See the module.
#[derive(Default)]
pub struct Platter {
    pub durable: Vec<u8>,
    /// What is read: durable, or written since, or lost by a failed sync.
    pub cache: Vec<u8>,
    unsynced: BTreeMap<usize, Vec<Sector>>,
}

impl Platter {
    /// With these bytes, all durable.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            durable: bytes.clone(),
            cache: bytes,
            unsynced: BTreeMap::new(),
        }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.cache[at..at + bytes.len()].copy_from_slice(bytes);
        for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
            let now = &self.cache[sector * SECTOR..][..SECTOR];
            let now = Sector::try_from(now).expect("a sector");
            self.unsynced.entry(sector).or_default().push(now);
        }
    }

    /// Everything written becomes durable.
    pub fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if let Some(last) = versions.last() {
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(last);
            }
        }
    }

    /// Some of what is unsynced becomes durable, and no later sync knows of the rest.
    pub fn lose(&mut self, rng: &mut StdRng) -> usize {
        let kept = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        let mut lost = 0;
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if rng.random_bool(kept) {
                let version = versions[rng.random_range(0..versions.len())];
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(&version);
            } else {
                lost += 1;
            }
        }
        lost
    }

    /// What is cached and clean goes: what a failed sync lost shows now.
    pub fn forget_cache(&mut self) {
        self.cache.copy_from_slice(&self.durable);
        for (sector, versions) in &self.unsynced {
            if let Some(last) = versions.last() {
                self.cache[sector * SECTOR..][..SECTOR].copy_from_slice(last);
            }
        }
    }
}
