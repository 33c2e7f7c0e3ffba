//! The control messages of every stream, in the order in which they are sent.
//!
//! ```text
//! wlog         storage -> proxy     WlogBegin, Answer, bulk (whole logpacks, tag = lsid of the first), end,
//!                                   WlogCommit, Done
//! wdiff        proxy -> archive     WdiffBegin, Answer, bulk (bytes of a sorted wdiff file), end, Done
//! full backup  storage -> archive   FullBegin, Answer, FullReset, Done, bulk (blocks, tag = address in lb), end, Done,
//!                                   FullCommit, Done
//! hash backup  storage -> archive   HashBegin, HashAnswer, HashStart, Done, then by method, Done, HashCommit, Done
//!   hashes:  archive -> storage  per section: bulk (a hash for each of its chunks, tag = address in lb; no payload:
//!                                all of them zeros), always one section ahead of
//!            storage -> archive  bulk (chunks that differ, tag = address in lb), end
//!   bitmap:  storage -> archive  bulk (changed chunks, tag = address in lb), end
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lineage::{MetaDiff, Snapshot};
use crate::rest::ErrorCode;
use crate::types::{Gid, Lb, Lsid, PhysicalBlockSize, Timestamp, Uuid, VolumeName};

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Logpacks, storage to proxy.
    Wlog,
    /// A sorted wdiff, proxy to archive.
    Wdiff,
    /// A full image, storage to archive.
    FullBackup,
    /// What differs from the latest snapshot, storage to archive.
    HashBackup,
}

impl StreamKind {
    /// The path segment: `/v1/streams/SEGMENT/VOL`.
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Wlog => "wlog",
            Self::Wdiff => "wdiff",
            Self::FullBackup => "full-backup",
            Self::HashBackup => "hash-backup",
        }
    }

    /// The path to request the upgrade at.
    pub fn path(self, volume: &VolumeName) -> String {
        format!("/v1/streams/{}/{volume}", self.segment())
    }
}

/// First message of either side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::STREAM_VERSION`] of the sender. Stays the first field for ever.
    pub version: u32,
    /// What the stream carries.
    pub kind: StreamKind,
    /// The sender's node id, for logs.
    pub node: String,
    /// The volume it is about.
    pub volume: VolumeName,
}

/// Why a peer refused or gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The receiver's answer to a `...Begin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Go on.
    Accept,
    /// Do not; nothing has changed.
    Refuse(Refusal),
}

/// Why a transfer was not accepted. What the sender does about each is decided by the sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people.
    pub message: String,
}

/// The reasons of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// The diff's end is not beyond the latest snapshot.
    TooOldDiff,
    /// The diff begins beyond the latest snapshot.
    TooNewDiff,
    /// The sender's log lineage is not that of the last backup.
    DifferentUuid,
    /// A full or hash backup is running.
    Syncing,
    /// Another wdiff transfer for the volume is running.
    WdiffRecv,
    /// The volume is stopped or starting.
    Stopped,
    /// The base image is smaller than the volume.
    SmallerSize,
    /// Nothing is known of the volume.
    ArchiveNotFound,
    /// The volume's state does not allow it.
    BadState,
    /// A limit of the receiving process is reached; try later.
    Limit,
    /// No room on the receiver's disk.
    NoSpace,
    /// Anything else.
    Other,
}

/// A stage of the transfer is durable at the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Storage to proxy: what will come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WlogBegin {
    /// Life of the log device.
    pub uuid: Uuid,
    /// Its physical block size.
    pub pbs: PhysicalBlockSize,
    /// Salt of its checksums.
    pub salt: u32,
    /// Size of the volume.
    pub size: Lb,
    /// lsid of the first logpack.
    pub begin: Lsid,
    /// At most so many physical blocks will be sent.
    pub max_pb: u64,
}

/// Storage to proxy: everything was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WlogCommit {
    /// The lsid after the last logpack sent.
    pub end: Lsid,
    /// What the logpacks amount to; clean. Its size is not known yet (0).
    pub diff: MetaDiff,
}

/// Proxy to archive: what will come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WdiffBegin {
    /// Life of the log device that the data came from.
    pub uuid: Uuid,
    /// Size of the volume.
    pub size: Lb,
    /// The (merged) diff.
    pub diff: MetaDiff,
}

/// Storage to archive: a full image will come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FullBegin {
    /// Size of the volume.
    pub size: Lb,
    /// When the backup began.
    pub timestamp: Timestamp,
    /// Size of the chunks.
    pub bulk: Lb,
}

/// Storage to archive: the log was reset, this is its new life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FullReset {
    /// The new uuid.
    pub uuid: Uuid,
}

/// Storage to archive: the snapshot that the image amounts to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FullCommit {
    /// `(0, gE)`.
    pub snapshot: Snapshot,
}

/// Storage to archive: what differs from the latest snapshot will come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HashBegin {
    /// Size of the volume.
    pub size: Lb,
    /// When the backup began.
    pub timestamp: Timestamp,
    /// Size of the chunks that are compared.
    pub bulk: Lb,
    /// The log's uuid if it was reset for this backup already, and the gid it began with.
    pub reset: Option<(Uuid, Gid)>,
}

/// Archive to storage: where a hash backup stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashAnswer {
    /// Nothing stands against it: the log may be reset. Nothing has changed yet.
    Ready {
        /// The snapshot it will start from.
        latest: Snapshot,
        /// Life of the log that leads to it.
        uuid: Uuid,
    },
    /// The backup with the reset log named has begun here, and goes on.
    GoOn {
        /// The snapshot it starts from.
        from: Snapshot,
        /// Life of the log that leads to it.
        uuid: Uuid,
        /// Everything below is stored here.
        address: Lb,
        /// Size of the chunks, as it began.
        bulk: Lb,
    },
    /// The backup with the reset log named has been taken up.
    Committed,
    /// Do not; nothing has changed.
    Refuse(Refusal),
}

/// How the storage finds what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashMethod {
    /// By hashes of the archive's chunks.
    Hashes,
    /// By the device's bitmap of changed chunks.
    Bitmap,
}

/// Storage to archive: the log was reset, this is its new life; or it goes on after a cut.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HashStart {
    /// The new uuid.
    pub uuid: Uuid,
    /// The gid the log begins with: beyond the snapshot the backup starts from.
    pub gid: Gid,
    /// What comes over this connection.
    pub method: HashMethod,
}

/// Storage to archive: the snapshot that the diff leads to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HashCommit {
    /// `(gid, gE)`.
    pub snapshot: Snapshot,
}
