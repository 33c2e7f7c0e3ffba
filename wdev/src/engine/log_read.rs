//! Reading the log for those who ship it: whole packs, permanent ones only, and never one that is being overwritten.

use std::io;

use bytes::{Bytes, BytesMut};
use walb_common::format::log_device::{LogpackHeader, Ring};
use walb_common::types::{Lsid, Uuid};

use super::{Engine, Shared};
use crate::client::Refusal;

/// Most log read in one go, so that guest writes hardly notice.
const READ_MAX_BYTES: usize = 1 << 20;
/// Largest single pack that can be handed out.
const PACK_MAX_BYTES: usize = crate::control::frame::BULK_MAX as usize;

/// Whole logpacks.
#[derive(Debug, Clone)]
pub struct LogPacks {
    /// The log sequence they belong to.
    pub uuid: Uuid,
    /// Its salt.
    pub salt: u32,
    /// The packs, contiguous.
    pub packs: Vec<Bytes>,
    /// Where the next read goes on.
    pub next: Lsid,
}

impl Engine {
    /// See [`crate::client::WalDevice::read_log`].
    pub fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogPacks, Refusal> {
        let shared = &self.shared;
        let max_bytes = max_bytes.min(READ_MAX_BYTES);
        let (uuid, layout, limit, epoch) = {
            let state = shared.lock();
            let gone = Shared::gone_below(&state);
            if from < state.lsids.oldest || (from < gone && !state.tail.begins_at(from)) {
                return Err(Refusal::LogGone { from, oldest: gone });
            }
            let limit = limit.min(state.lsids.permanent);
            let salt = state.layout.salt.0;
            let (uuid, salt) = (state.uuid, salt);
            if from >= limit {
                return Ok(LogPacks {
                    uuid,
                    salt,
                    packs: Vec::new(),
                    next: from,
                });
            }
            if let Some((packs, next)) = state.tail.read(from, limit, max_bytes) {
                return Ok(LogPacks {
                    uuid,
                    salt,
                    packs,
                    next,
                });
            }
            (uuid, state.layout, limit, state.epoch)
        };
        let read = read_packs(shared, &layout.ring, layout.salt, from, limit, max_bytes);
        // Whatever was read: if the writer may have come by meanwhile, it is not to be trusted.
        let state = shared.lock();
        let gone = Shared::gone_below(&state);
        if from < gone || state.epoch != epoch {
            return Err(Refusal::LogGone { from, oldest: gone });
        }
        drop(state);
        let (bytes, next) = read?;
        let packs = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
        Ok(LogPacks {
            uuid,
            salt: layout.salt.0,
            packs,
            next,
        })
    }
}

impl Shared {
    /// Log below this is released, or overwritten, or about to be.
    fn gone_below(state: &super::State) -> Lsid {
        let lap = state.lsids.latest.0.saturating_sub(state.layout.ring.size());
        state.lsids.oldest.max(Lsid(lap))
    }
}

fn read_packs(
    shared: &Shared,
    ring: &Ring,
    salt: walb_common::format::checksum::Salt,
    from: Lsid,
    limit: Lsid,
    max_bytes: usize,
) -> Result<(Bytes, Lsid), Refusal> {
    let pb = ring.pbs().bytes();
    let blocks = ((max_bytes / pb) as u64).clamp(1, limit.0 - from.0);
    let mut bytes = read_ring(shared, ring, from, blocks)?;
    let (mut next, mut used) = (from, 0);
    while next < limit && used < bytes.len() {
        let header = LogpackHeader::decode(&bytes[used..used + pb], ring.pbs(), salt, next).map_err(|e| {
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
            if whole > PACK_MAX_BYTES {
                let reason = format!("logpack of {whole} bytes, expected at most {PACK_MAX_BYTES}");
                return Err(Refusal::LogDamaged { lsid: next, reason });
            }
            bytes = read_ring(shared, ring, from, header.next_lsid().0 - from.0)?;
        }
        used += whole;
        next = header.next_lsid();
    }
    bytes.truncate(used);
    Ok((bytes.freeze(), next))
}

fn read_ring(shared: &Shared, ring: &Ring, from: Lsid, blocks: u64) -> Result<BytesMut, Refusal> {
    let failed = |e: io::Error| Refusal::Io {
        reason: format!("read the log device {} at lsid {from}: {e}", shared.log.path()),
    };
    let length =
        usize::try_from(blocks * ring.pbs().bytes() as u64).map_err(|e| failed(io::Error::other(e)))?;
    let mut bytes = BytesMut::zeroed(length);
    let mut at = 0;
    for (position, length) in ring.extents(from, blocks) {
        let length = usize::try_from(length).map_err(|e| failed(io::Error::other(e)))?;
        shared
            .log
            .read(&mut bytes[at..at + length], position)
            .map_err(failed)?;
        at += length;
    }
    Ok(bytes)
}
