//! What is remembered of a volume, in memory as in the database.

use walb_common::state::storage::Static;
use walb_common::types::{Gid, Lsid, Timestamp, Uuid};

use crate::plan::{LsidGid, is_delivered};

/// The records of a volume that is not Clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// The state at rest.
    pub state: Static,
    /// The device, as given to init-vol.
    pub device: String,
    /// The life of the log that `done` and `queue` are about; nil before the first reset.
    pub uuid: Uuid,
    /// What is delivered.
    pub done: LsidGid,
    /// What is marked and not delivered yet, oldest first. Every lsid in it was permanent when it was stored.
    pub queue: Vec<LsidGid>,
    /// Why the volume was stopped, when it stopped by itself; gone with the next reset.
    pub failed: Option<String>,
}

impl Records {
    /// Of a volume just made known: nothing delivered, nothing marked.
    pub fn initial(device: String, now: Timestamp) -> Self {
        let done = LsidGid {
            lsid: Lsid::INVALID,
            gid: Gid::MAX,
            mergeable: false,
            timestamp: now,
        };
        Self {
            state: Static::SyncReady,
            device,
            uuid: Uuid::NIL,
            done,
            queue: Vec::new(),
            failed: None,
        }
    }

    /// After a reset of the log: a new life `uuid`, beginning with `gid`.
    pub fn reset(&mut self, uuid: Uuid, gid: Gid, now: Timestamp) {
        self.uuid = uuid;
        self.done = LsidGid {
            lsid: Lsid(0),
            gid,
            mergeable: false,
            timestamp: now,
        };
        self.queue.clear();
        self.failed = None;
    }

    /// After a delivery: `done` moves on, and what it covers leaves the queue.
    pub fn delivered(&mut self, done: LsidGid) {
        self.done = done;
        self.queue.retain(|record| !is_delivered(&done, record));
    }

    /// The latest point marked.
    pub fn newest(&self) -> &LsidGid {
        self.queue.last().unwrap_or(&self.done)
    }
}
