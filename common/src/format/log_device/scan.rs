//! Following the packs of a log device from an lsid to the end of the log, for redo and for extraction.
//!
//! Validity alone decides where the log ends: the first block that is not a header for its own lsid, or the first
//! record whose data do not match. A read error is an error, never an end.

use std::io;

use bytes::Bytes;

use super::{DataChecksumError, Logpack, LogpackHeader, LogpackHeaderError, Ring};
use crate::format::checksum::Salt;
use crate::format::read_at::ReadAt;
use crate::types::Lsid;

/// Why and where a scan ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEnd {
    /// The normal end: no header for this lsid.
    NoHeader {
        /// The end of the log.
        lsid: Lsid,
        /// What was found instead.
        found: LogpackHeaderError,
    },
    /// A pack that was not written whole.
    Torn {
        /// The end of the log: after what is left of the pack.
        lsid: Lsid,
        /// The first bad record.
        bad: DataChecksumError,
        /// The header that redo stores in place of the torn one, durably, before anything is added to the log. None
        /// if nothing of the pack is left; then the block stays as it is.
        rewrite: Option<LogpackHeader>,
    },
}

impl ScanEnd {
    /// The end of the log: where the next pack goes.
    pub fn lsid(&self) -> Lsid {
        match self {
            Self::NoHeader { lsid, .. } | Self::Torn { lsid, .. } => *lsid,
        }
    }
}

/// The log device could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {length} bytes at byte {position} of the log device (lsid {lsid})")]
pub struct ScanError {
    /// The lsid wanted.
    pub lsid: Lsid,
    /// Its byte position.
    pub position: u64,
    /// Bytes wanted.
    pub length: u64,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Walks the packs of a ring. A torn last pack comes out cut to its good records, as redo applies it.
#[derive(Debug)]
pub struct Scanner<D> {
    device: D,
    ring: Ring,
    salt: Salt,
    at: Lsid,
    end: Option<ScanEnd>,
}

impl<D: ReadAt> Scanner<D> {
    /// A scan from the pack at `from`.
    pub fn new(device: D, ring: Ring, salt: Salt, from: Lsid) -> Self {
        Self {
            device,
            ring,
            salt,
            at: from,
            end: None,
        }
    }

    /// The next pack, its data verified. None at the end of the log; [`Scanner::end`] tells why.
    pub fn next_pack(&mut self) -> Result<Option<Logpack>, ScanError> {
        let Some((header, block)) = self.header_here()? else {
            return Ok(None);
        };
        let data = self.read(Lsid(header.lsid().0 + 1), header.total_io_pb().into())?;
        let pack = Logpack::from_stored(header, block, data);
        let Err(bad) = pack.verify(self.salt) else {
            self.at = pack.header().next_lsid();
            return Ok(Some(pack));
        };
        let left = pack.shrunk_to(bad.index, self.salt);
        let lsid = left.as_ref().map_or(self.at, |p| p.header().next_lsid());
        let rewrite = left.as_ref().map(|p| p.header().clone());
        self.at = lsid;
        self.end = Some(ScanEnd::Torn { lsid, bad, rewrite });
        Ok(left)
    }

    /// The next header, without looking at its data. None at the end of the log.
    pub fn next_header(&mut self) -> Result<Option<LogpackHeader>, ScanError> {
        let Some((header, _)) = self.header_here()? else {
            return Ok(None);
        };
        self.at = header.next_lsid();
        Ok(Some(header))
    }

    /// Where the next pack would be.
    pub fn next_lsid(&self) -> Lsid {
        self.at
    }

    /// Why the scan ended; None while it has not.
    pub fn end(&self) -> Option<&ScanEnd> {
        self.end.as_ref()
    }

    fn header_here(&mut self) -> Result<Option<(LogpackHeader, Bytes)>, ScanError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let block = self.read(self.at, 1)?;
        let decoded = LogpackHeader::decode(&block, self.ring.pbs(), self.salt, self.at);
        let decoded = decoded.and_then(|header| {
            // A pack longer than the ring would lie upon itself.
            let (found, room) = (header.total_io_pb(), self.ring.size() - 1);
            if u64::from(found) > room {
                return Err(LogpackHeaderError::Total { found, actual: room });
            }
            Ok(header)
        });
        match decoded {
            Ok(header) => Ok(Some((header, block))),
            Err(found) => {
                self.end = Some(ScanEnd::NoHeader { lsid: self.at, found });
                Ok(None)
            }
        }
    }

    fn read(&self, from: Lsid, count: u64) -> Result<Bytes, ScanError> {
        let mut buf = vec![0; count as usize * self.ring.pbs().bytes()];
        read_ring(&self.device, &self.ring, from, count, &mut buf)?;
        Ok(buf.into())
    }
}

fn read_ring<D: ReadAt>(
    device: &D,
    ring: &Ring,
    lsid: Lsid,
    count: u64,
    buf: &mut [u8],
) -> Result<(), ScanError> {
    let mut done = 0;
    for (position, length) in ring.extents(lsid, count) {
        let part = &mut buf[done..done + length as usize];
        device.read_exact_at(part, position).map_err(|source| ScanError {
            lsid,
            position,
            length,
            source,
        })?;
        done += length as usize;
    }
    Ok(())
}

/// Finds the headers after the end of the log that a later scan would take for valid.
///
/// With several packs in flight at a crash, an earlier one may be torn and a later one intact. Redo ends at the torn
/// one; once new packs happen to end where the intact one starts, the next redo would go on into it and put old
/// writes over newer, acknowledged ones. So the blocks of the lsids returned here are zeroed, durably, before the
/// first new pack is written.
///
/// `span` is how many blocks after `end` packs can have been in flight. The search never enters `[oldest, end)`: what
/// lies there is live log, whose data may hold anything, the copy of a header included.
pub fn stale_headers<D: ReadAt>(
    device: &D,
    ring: &Ring,
    salt: Salt,
    oldest: Lsid,
    end: Lsid,
    span: u64,
) -> Result<Vec<Lsid>, ScanError> {
    const CHUNK_BYTES: usize = 1 << 20;
    let pb = ring.pbs().bytes();
    let live = end.0.saturating_sub(oldest.0).min(ring.size());
    let stop = end
        .0
        .saturating_add(span.min(ring.size() - live))
        .min(Lsid::MAX.0);
    let mut found = Vec::new();
    let mut buf = vec![0; CHUNK_BYTES];
    let mut at = end.0;
    while at < stop {
        let count = (stop - at).min((CHUNK_BYTES / pb) as u64);
        let blocks = &mut buf[..count as usize * pb];
        read_ring(device, ring, Lsid(at), count, blocks)?;
        for (lsid, block) in (at..).map(Lsid).zip(blocks.chunks_exact(pb)) {
            // Looking at the lsid first spares nearly every checksum.
            if block[8..16] == lsid.0.to_le_bytes()
                && LogpackHeader::decode(block, ring.pbs(), salt, lsid).is_ok()
            {
                found.push(lsid);
            }
        }
        at += count;
    }
    Ok(found)
}
