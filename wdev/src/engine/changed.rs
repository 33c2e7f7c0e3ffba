//! What has changed since the log was last released; see [`crate::client::ChangedChunks`].

mod log_scan;

use super::{Engine, Shared};
use crate::chunk_set::chunk_for;
use crate::client::{Changed, ChangedChunks, Refusal};
use std::sync::atomic::Ordering;
use walb_common::types::Lb;

impl Engine {
    /// See [`crate::client::WalDevice::changed`].
    pub fn changed(&self) -> Result<Changed, Refusal> {
        let shared = &self.shared;
        let (uuid, layout, lsids, overflow, epoch) = {
            let state = shared.lock();
            (state.uuid, state.layout, state.lsids, state.overflow, state.epoch)
        };
        let unknown = |reason| Ok(Changed::Unknown { reason });
        if overflow {
            return unknown("log was overwritten before it was released".to_owned());
        }
        let size = Lb(shared.size.load(Ordering::Relaxed));
        let range = (lsids.oldest, lsids.completed);
        let scanned = log_scan::scan(
            &shared.log,
            (layout.ring, layout.salt),
            range,
            size,
            chunk_for(size),
        );
        let state = shared.lock();
        if state.epoch != epoch || Shared::gone_below(&state) > lsids.oldest {
            return unknown("the log was released or reset meanwhile: ask again".to_owned());
        }
        drop(state);
        match scanned {
            Ok(set) => Ok(Changed::Known(ChangedChunks::new(
                (uuid, lsids.oldest),
                size,
                set,
            ))),
            Err(fault) => unknown(fault.to_string()),
        }
    }

    /// See [`crate::client::WalDevice::forget_changed`].
    pub fn forget_changed(&self) -> Result<(), Refusal> {
        self.shared.lock().check_writable()
    }
}
