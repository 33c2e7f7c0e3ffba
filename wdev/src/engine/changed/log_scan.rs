//! What a stretch of the log changes, read from its headers alone.

use std::io;

use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{LogpackHeader, LogpackHeaderError, RecordKind, Ring};
use walb_common::format::read_at::ReadAt;
use walb_common::types::{Lb, Lsid};

use crate::chunk_set::ChunkSet;

/// Read at once: many small packs, or the header of a large one and little more.
const WINDOW_BYTES: usize = 64 << 10;

/// Why a stretch of the log does not tell what it changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanFault {
    #[error("read the log at lsid {lsid}: {source}")]
    Io { lsid: Lsid, source: io::Error },
    #[error("the log at lsid {lsid} is gone or damaged: {source}")]
    NoPack { lsid: Lsid, source: LogpackHeaderError },
    #[error("the pack at lsid {lsid} ends at {end}, expected {to} at most")]
    NoPackEnds { lsid: Lsid, end: Lsid, to: Lsid },
}

/// Chunks changed by the packs of `[from, to)`; packs begin at both. Each header carries its lsid and a checksum, so a
/// stretch that was overwritten is an error and never taken for another one.
pub(super) fn scan(
    log: &impl ReadAt,
    (ring, salt): (Ring, Salt),
    (from, to): (Lsid, Lsid),
    device_size: Lb,
    chunk: Lb,
) -> Result<ChunkSet, ScanFault> {
    let mut set = ChunkSet::new(chunk);
    let pb = ring.pbs().bytes();
    let most = (WINDOW_BYTES / pb) as u64;
    let mut window = vec![0; WINDOW_BYTES];
    let (mut lsid, mut window_at, mut window_end) = (from, from, from);
    while lsid < to {
        if lsid >= window_end {
            let count = most.min(ring.left_at(lsid)).min(to.0 - lsid.0);
            (window_at, window_end) = (lsid, Lsid(lsid.0 + count));
            let bytes = &mut window[..usize::try_from(count).unwrap_or(WINDOW_BYTES / pb) * pb];
            log.read_exact_at(bytes, ring.offset_of(lsid))
                .map_err(|source| ScanFault::Io { lsid, source })?;
        }
        let at = usize::try_from(lsid.0 - window_at.0).unwrap_or_default() * pb;
        let header = LogpackHeader::decode(&window[at..at + pb], ring.pbs(), salt, lsid)
            .map_err(|source| ScanFault::NoPack { lsid, source })?;
        let end = header.next_lsid();
        if end > to {
            return Err(ScanFault::NoPackEnds { lsid, end, to });
        }
        for record in header.records() {
            // Redo skips what lies beyond the end as well.
            let inside = record.offset.0.saturating_add(record.size.0) <= device_size.0;
            if record.kind != RecordKind::Padding && inside {
                set.mark(record.offset, record.size);
            }
        }
        lsid = end;
    }
    Ok(set)
}
