//! Logpacks, read and repaired where they lie: in a wlog, or in the ring of a log device.

use super::effect::{Change, Step};
use super::{seal, sum, u16_at, u32_at, u64_at};

const HEADER: usize = 24;
const RECORD: usize = 32;

/// Where the bytes of a log come from.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// Physical block size.
    pub pb: usize,
    /// Of its checksums.
    pub salt: u32,
}

impl Log {
    fn capacity(self) -> usize {
        (self.pb - HEADER) / RECORD
    }

    /// Physical blocks behind the header in `block` that it says are its pack's data.
    pub fn data_blocks(block: &[u8]) -> usize {
        u16_at(block, 6).unwrap_or(0).into()
    }

    /// The changes of a pack, header and data, in order. None if bytes are missing.
    pub fn steps(self, pack: &[u8]) -> Option<Vec<Step>> {
        let count = usize::from(u16_at(pack, 16)?);
        let mut steps = Vec::new();
        for record in (HEADER..).step_by(RECORD).take(count) {
            let (flags, address) = (u32_at(pack, record + 4)?, u64_at(pack, record + 8)?);
            let blocks = u64::from(u32_at(pack, record + 16)?);
            let start = usize::from(u16_at(pack, record + 20)?) * self.pb;
            let change = match flags & 7 {
                1 => Change::Data(pack.get(start..start + blocks as usize * 512)?.to_vec()),
                5 => Change::Discard,
                _ => continue,
            };
            steps.push(Step {
                address,
                blocks,
                change,
            });
        }
        Some(steps)
    }

    /// Makes the sums of a pack right: `pack` starts with its header, and may be cut. `deep` also makes the places of
    /// the records and the total agree, for a pack at `lsid`.
    pub fn repair(self, pack: &mut [u8], lsid: u64, deep: bool) {
        if pack.len() < self.pb {
            return;
        }
        let count = usize::from(u16_at(pack, 16).unwrap_or(0)).min(self.capacity());
        let (mut local, mut paddings) = (1_usize, 0_u16);
        for record in (HEADER..).step_by(RECORD).take(count) {
            let flags = u32_at(pack, record + 4).unwrap_or(0) & 7;
            let size = u32_at(pack, record + 16).unwrap_or(0) as usize;
            if deep {
                pack[record + 20..record + 22].copy_from_slice(&(local as u16).to_le_bytes());
                let lsid = lsid.wrapping_add(local as u64);
                pack[record + 24..record + 32].copy_from_slice(&lsid.to_le_bytes());
                if flags != 5 {
                    local += (size * 512).div_ceil(self.pb).min(65535);
                }
                paddings += u16::from(flags == 3);
            }
            let start = usize::from(u16_at(pack, record + 20).unwrap_or(0)) * self.pb;
            if flags == 1
                && let Some(data) = pack.get(start..start.saturating_add(size * 512))
            {
                let sum = sum(data, self.salt);
                pack[record..record + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        if deep && count > 0 {
            pack[4..6].copy_from_slice(&3_u16.to_le_bytes());
            pack[6..8].copy_from_slice(&((local - 1) as u16).to_le_bytes());
            pack[8..16].copy_from_slice(&lsid.to_le_bytes());
            pack[16..18].copy_from_slice(&(count as u16).to_le_bytes());
            pack[18..20].copy_from_slice(&paddings.to_le_bytes());
        }
        seal(&mut pack[..self.pb], 0, self.salt);
    }
}
