//! What is remembered of a volume, in memory as in the database.

use serde::{Deserialize, Serialize};
use walb_common::rest::storage::HashBackupReport;
use walb_common::state::storage::Static;
use walb_common::types::{Gid, Lb, Lsid, Timestamp, Uuid};

use crate::plan::{LsidGid, is_delivered};

/// The records of a volume that is not Clear.
#[derive(Debug, Clone, PartialEq)]
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
    /// A hash backup that has begun.
    pub backup: Option<Intent>,
    /// Where the log that a backup gave up had been delivered to; gone when a backup is done.
    pub shipped: Option<Shipped>,
    /// The last hash backup.
    pub last_backup: Option<HashBackupReport>,
}

/// A hash backup that has begun: what is known before the log is reset for it, and whether it has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The gid the new log begins with.
    pub gid: Gid,
    /// The device's log before the reset.
    pub old: Uuid,
    /// The log has been reset; `uuid` and `done` of the records are those of the new one.
    pub reset: bool,
    /// Size of the chunks.
    pub bulk: Lb,
    /// Everything is compared, whatever the bitmap says.
    pub full_compare: bool,
    /// Why it is made.
    pub why: String,
}

/// Up to where a log was delivered: everything before `lsid` has the name `gid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shipped {
    /// Life of the log.
    pub uuid: Uuid,
    /// Position in it.
    pub lsid: Lsid,
    /// Its name.
    pub gid: Gid,
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
            backup: None,
            shipped: None,
            last_backup: None,
        }
    }

    /// Where the last log that led to what the archive has was delivered to. A log that was reset for a backup that is
    /// not done does not count: the archive has nothing of it.
    pub fn shipped(&self) -> Option<Shipped> {
        let followed = matches!(self.state, Static::Target | Static::Stopped) && self.uuid != Uuid::NIL;
        if followed {
            Some(Shipped {
                uuid: self.uuid,
                lsid: self.done.lsid,
                gid: self.done.gid,
            })
        } else {
            self.shipped
        }
    }

    /// The newest gid that was ever given to a point of a log, unless there was none.
    pub fn newest_gid(&self) -> Option<Gid> {
        let newest = self.newest().gid;
        // One transfer of a part of the queue's first record has the gid after that of the done record.
        let partly = Gid(self.done.gid.0.saturating_add(1));
        (self.done.gid != Gid::MAX).then(|| newest.max(partly))
    }

    /// After a reset of the log: a new life `uuid`, beginning with `gid`.
    pub fn reset(&mut self, uuid: Uuid, gid: Gid, now: Timestamp) {
        self.shipped = self.shipped();
        self.backup = None;
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
