//! Both layouts of a wdiff, read and repaired.

use walb_common::format::compress::decompress;
use walb_common::types::Compression;

use super::effect::{Change, Step};
use super::{seal, sum, u16_at, u32_at, u64_at};

const FILE_HEADER: usize = 32;
const PACK_HEADER: usize = 4096;
const PACK_RECORD: usize = 32;
const PACK_RECORDS_MAX: usize = 127;
const INDEX_RECORD: usize = 48;
const INDEX_SUPER: usize = 24;

/// The records of a wdiff. None if bytes are missing.
pub fn read(bytes: &[u8]) -> Option<Vec<Step>> {
    match bytes.get(6)? {
        0 => read_sorted(bytes),
        _ => read_indexed(bytes),
    }
}

fn read_sorted(bytes: &[u8]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut pack = FILE_HEADER;
    loop {
        let count = usize::from(u16_at(bytes, pack + 4)?);
        let (flags, total) = (*bytes.get(pack + 6)?, u32_at(bytes, pack + 8)? as usize);
        if flags & 1 != 0 {
            return Some(steps);
        }
        let data = pack + PACK_HEADER;
        for record in (pack + 16..).step_by(PACK_RECORD).take(count) {
            let blocks = u64::from(u32_at(bytes, record + 8)?);
            let stored = data + u32_at(bytes, record + 16)? as usize;
            let stored = bytes.get(stored..stored + u32_at(bytes, record + 20)? as usize)?;
            let kind = *bytes.get(record + 13)?;
            steps.push(Step {
                address: u64_at(bytes, record)?,
                blocks,
                change: change(*bytes.get(record + 12)?, || image(kind, stored, blocks)),
            });
        }
        pack = data + total;
    }
}

fn read_indexed(bytes: &[u8]) -> Option<Vec<Step>> {
    let end = bytes.len().checked_sub(INDEX_SUPER)?;
    let index = usize::try_from(u64_at(bytes, end)?).ok()?;
    let count = u32_at(bytes, end + 8)? as usize;
    let mut steps = Vec::new();
    for record in (index..).step_by(INDEX_RECORD).take(count) {
        let blocks = u64::from(u32_at(bytes, record + 8)?);
        let raw = || {
            let stored = usize::try_from(u64_at(bytes, record + 16)?).ok()?;
            let stored = bytes.get(stored..stored.checked_add(u32_at(bytes, record + 24)? as usize)?)?;
            let skip = u32_at(bytes, record + 28)? as usize * 512;
            let whole = image(
                *bytes.get(record + 13)?,
                stored,
                u32_at(bytes, record + 32)?.into(),
            )?;
            Some(whole.get(skip..skip + blocks as usize * 512)?.to_vec())
        };
        steps.push(Step {
            address: u64_at(bytes, record)?,
            blocks,
            change: change(*bytes.get(record + 12)?, raw),
        });
    }
    Some(steps)
}

fn change(flags: u8, raw: impl FnOnce() -> Option<Vec<u8>>) -> Change {
    match flags & 6 {
        0 => raw().map_or(Change::Broken, Change::Data),
        2 => Change::Zero,
        _ => Change::Discard,
    }
}

fn image(kind: u8, stored: &[u8], blocks: u64) -> Option<Vec<u8>> {
    if blocks > 1 << 17 {
        return None;
    }
    decompress(Compression::from_id(kind)?, stored, blocks as usize * 512).ok()
}

/// Makes every sum of a wdiff right. `deep` also makes offsets and totals agree with the sizes, and the layout's
/// number one of the two that exist.
pub fn repair(bytes: &mut [u8], deep: bool) {
    if bytes.len() < FILE_HEADER {
        return;
    }
    if deep {
        bytes[4..6].copy_from_slice(&2_u16.to_le_bytes());
        bytes[6] &= 1;
    }
    seal(&mut bytes[..FILE_HEADER], 0, 0);
    if bytes[6] == 0 {
        repair_sorted(bytes, deep);
    } else {
        repair_indexed(bytes, deep);
    }
}

fn repair_sorted(bytes: &mut [u8], deep: bool) {
    let mut pack = FILE_HEADER;
    while let Some(header) = bytes.get(pack..pack + PACK_HEADER) {
        let mut header = header.to_vec();
        let data = pack + PACK_HEADER;
        let count = usize::from(u16_at(&header, 4).unwrap_or(0)).min(PACK_RECORDS_MAX);
        let mut total = 0_u32;
        for record in (16..).step_by(PACK_RECORD).take(count) {
            if deep {
                header[record + 16..record + 20].copy_from_slice(&total.to_le_bytes());
            }
            let offset = u32_at(&header, record + 16).unwrap_or(0);
            let size = u32_at(&header, record + 20).unwrap_or(0);
            total = total.saturating_add(size);
            let start = data + offset as usize;
            if let Some(stored) = bytes.get(start..start + size as usize) {
                header[record + 24..record + 28].copy_from_slice(&sum(stored, 0).to_le_bytes());
            }
        }
        if deep {
            header[4..6].copy_from_slice(&(count as u16).to_le_bytes());
            header[8..12].copy_from_slice(&total.to_le_bytes());
        } else {
            total = u32_at(&header, 8).unwrap_or(0);
        }
        seal(&mut header, 0, 0);
        bytes[pack..data].copy_from_slice(&header);
        if header[6] & 1 != 0 {
            return;
        }
        pack = data + total as usize;
    }
}

fn repair_indexed(bytes: &mut [u8], deep: bool) {
    let Some(end) = bytes.len().checked_sub(INDEX_SUPER) else {
        return;
    };
    let count = u32_at(bytes, end + 8).unwrap_or(0) as usize;
    let mut index = u64_at(bytes, end).unwrap_or(0);
    let size = count * INDEX_RECORD;
    if deep
        && let Some(start) = end.checked_sub(size)
        && start.is_multiple_of(8)
    {
        index = start as u64;
        bytes[end..end + 8].copy_from_slice(&index.to_le_bytes());
    }
    seal(&mut bytes[end..], 20, 0);
    let Ok(index) = usize::try_from(index) else { return };
    for n in 0..count {
        let at = index.saturating_add(n * INDEX_RECORD);
        let Some(record) = bytes.get(at..at.saturating_add(INDEX_RECORD)) else {
            return;
        };
        let mut record = record.to_vec();
        let stored = usize::try_from(u64_at(&record, 16).unwrap_or(0)).unwrap_or(usize::MAX);
        let size = u32_at(&record, 24).unwrap_or(0) as usize;
        if let Some(stored) = bytes.get(stored..stored.saturating_add(size)) {
            record[40..44].copy_from_slice(&sum(stored, 0).to_le_bytes());
        }
        seal(&mut record, 44, 0);
        bytes[at..at + INDEX_RECORD].copy_from_slice(&record);
    }
}
