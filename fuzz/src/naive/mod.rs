//! Readers as plain as possible: positions added up by hand, nothing checked but that the bytes are there.
//!
//! They share no code with the readers under test but the decompression, which has a target of its own. What a reader
//! under test accepts, it must give back as these do.

pub mod effect;
pub mod log;
pub mod lz4;
pub mod wdiff;

/// The little-endian number of two bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

/// The little-endian number of four bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// The little-endian number of eight bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// The formats' checksum, word by word.
pub fn sum(bytes: &[u8], salt: u32) -> u32 {
    let mut sum = salt;
    let mut at = 0;
    while at < bytes.len() {
        let mut word = 0;
        for i in 0..4 {
            word |= u32::from(bytes.get(at + i).copied().unwrap_or(0)) << (8 * i);
        }
        sum = sum.wrapping_add(word);
        at += 4;
    }
    0_u32.wrapping_sub(sum)
}

/// Sets the checksum field at `field` so that all of `bytes` sums to zero.
pub fn seal(bytes: &mut [u8], field: usize, salt: u32) {
    if bytes.len() >= field + 4 {
        bytes[field..field + 4].fill(0);
        let sum = sum(bytes, salt);
        bytes[field..field + 4].copy_from_slice(&sum.to_le_bytes());
    }
}
