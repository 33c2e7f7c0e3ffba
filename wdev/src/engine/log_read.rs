//! Reading the log for those who ship it: whole packs, permanent ones only, and never one that is being overwritten.

use bytes::Bytes;
use walb_common::types::{Lsid, Uuid};

use super::{Engine, Shared};
use crate::client::Refusal;
use crate::log_packs::PackReader;

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
        let reader = PackReader {
            log: &shared.log,
            path: shared.log.path(),
            ring: layout.ring,
            salt: layout.salt,
            pack_max: PACK_MAX_BYTES,
        };
        let read = reader.read(from, limit, max_bytes);
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
    pub(super) fn gone_below(state: &super::State) -> Lsid {
        let lap = state.lsids.latest.0.saturating_sub(state.layout.ring.size());
        state.lsids.oldest.max(Lsid(lap)).max(state.log_floor)
    }
}
