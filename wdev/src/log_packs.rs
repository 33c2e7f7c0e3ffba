//! Whole logpacks out of a ring, for whoever reads a log device: our engine, or beside the kernel driver.

use std::io;

use bytes::{Bytes, BytesMut};
use camino::Utf8Path;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{LogpackHeader, Ring};
use walb_common::format::read_at::ReadAt;
use walb_common::types::Lsid;

use crate::client::Refusal;

/// A log device of which the geometry is known.
pub(crate) struct PackReader<'a, R> {
    pub log: &'a R,
    /// The device's path, for messages.
    pub path: &'a Utf8Path,
    pub ring: Ring,
    pub salt: Salt,
    /// Largest single pack that can be handed out, bytes.
    pub pack_max: usize,
}

impl<R: ReadAt> PackReader<'_, R> {
    /// Packs from `from` on that end at or below `limit` (which is beyond `from`), of about `max_bytes`: at least one if there
    /// is one. Whether the writer came by meanwhile is for the caller to find out, before it trusts either result.
    pub fn read(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<(Bytes, Lsid), Refusal> {
        let pb = self.ring.pbs().bytes();
        // A header more: the largest pack would otherwise fall short by it, and be read twice.
        let blocks = ((max_bytes / pb) as u64 + 1).min(limit.0 - from.0);
        let mut bytes = self.blocks(from, blocks)?;
        let (mut next, mut used) = (from, 0);
        while next < limit && used < bytes.len() {
            let block = &bytes[used..used + pb];
            let header = LogpackHeader::decode(block, self.ring.pbs(), self.salt, next).map_err(|e| {
                Refusal::LogDamaged {
                    lsid: next,
                    reason: e.to_string(),
                }
            })?;
            let whole = pb + header.data_bytes();
            if header.next_lsid() > limit {
                break;
            }
            if used + whole > bytes.len() {
                if used > 0 {
                    break;
                }
                // A single pack larger than asked for: it is read whole, or nobody would ever get past it.
                if whole > self.pack_max {
                    let reason = format!("logpack of {whole} bytes, expected at most {}", self.pack_max);
                    return Err(Refusal::LogDamaged { lsid: next, reason });
                }
                bytes = self.blocks(from, header.next_lsid().0 - from.0)?;
            }
            used += whole;
            next = header.next_lsid();
        }
        bytes.truncate(used);
        Ok((bytes.freeze(), next))
    }

    fn blocks(&self, from: Lsid, count: u64) -> Result<BytesMut, Refusal> {
        let failed = |e: io::Error| Refusal::Io {
            reason: format!("read the log device {} at lsid {from}: {e}", self.path),
        };
        let length = usize::try_from(count * self.ring.pbs().bytes() as u64)
            .map_err(|e| failed(io::Error::other(e)))?;
        let mut bytes = BytesMut::zeroed(length);
        let mut at = 0;
        for (position, length) in self.ring.extents(from, count) {
            let length = usize::try_from(length).map_err(|e| failed(io::Error::other(e)))?;
            self.log
                .read_exact_at(&mut bytes[at..at + length], position)
                .map_err(failed)?;
            at += length;
        }
        Ok(bytes)
    }
}
