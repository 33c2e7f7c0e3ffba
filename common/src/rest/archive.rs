//! walb-archive.

use serde::{Deserialize, Serialize};

use crate::lineage::{MetaDiff, Snapshot};
use crate::types::{Gid, Lb, Timestamp, Uuid};

/// Body of `init`: an empty object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {}

/// Body of `restore`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Which snapshot.
    pub gid: Gid,
}

/// One restored image; answer of GET `restored/{gid}`, element of GET `restored`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restored {
    /// Which snapshot.
    pub gid: Gid,
    /// Path on the archive host.
    pub path: String,
}

/// Element of `restorable[?all=true]`, ascending.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restorable {
    /// The snapshot; clean.
    pub gid: Gid,
    /// Its time.
    pub timestamp: Timestamp,
    /// Whether it was asked for.
    pub explicit: bool,
}

/// Answer of `diffs[?gid0=&gid1=]` (by begin gid, `gid0` inclusive, `gid1` exclusive) and `applicable-diffs[?max=]`.
pub type Diffs = Vec<MetaDiff>;

/// `/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Settings and identity.
    pub global: Global,
    /// All volumes but Clear ones.
    pub volumes: Vec<VolumeStatus>,
}

/// Settings and identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it; they are those of `walbc status`")]
pub struct Global {
    pub node_id: String,
    pub base_dir: String,
    /// Where base and restored images are kept.
    pub image_dir: String,
    pub max_connections: u64,
    pub max_foreground_tasks: u64,
    pub socket_timeout: u64,
    pub discard: String,
}

/// `/v1/volumes/{vol}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Name.
    pub name: String,
    /// State; `Clear` for a volume nothing is known of.
    pub state: String,
    /// Why it cannot be used, when it cannot; the other volumes go on.
    pub failed: Option<String>,
    /// Merge, Apply, Restore, ReplSyncAsClient, Resize: running, and when the last one began.
    pub actions: Vec<ActionStatus>,
    /// `NotStopping`, `Stopping` or `ForceStopping`.
    pub stop_state: String,
    /// When the last full or hash backup ended.
    pub last_sync: Timestamp,
    /// When the last wdiff arrived.
    pub last_wdiff_received: Timestamp,
    /// Position of a running full backup.
    pub progress: Lb,
    /// Size of the base image, if there is one.
    pub size: Option<Lb>,
    /// Uuid of the log that the diffs come from.
    pub uuid: Uuid,
    /// Uuid of this lineage of archive data.
    pub archive_uuid: Uuid,
    /// Base state with time, `<|B|>-YYYYMMDDhhmmss`.
    pub base: String,
    /// Where the chain of diffs leads from there.
    pub latest: Option<Snapshot>,
    /// Time of that snapshot.
    pub latest_timestamp: Timestamp,
    /// Number of restored images.
    pub num_restored: u64,
    /// Number of explicit restorable snapshots.
    pub num_restorable: u64,
    /// Number of all restorable snapshots.
    pub num_restorable_all: u64,
    /// Number of diffs.
    pub num_diff: u64,
    /// Their bytes.
    pub wdiff_total_size: u64,
    /// What somebody should look at, a line each: a gap in the diffs above all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One kind of action of a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ActionStatus {
    /// Its name.
    pub name: String,
    /// How many run.
    pub running: u32,
    /// When the last one began since the process started; none: 0.
    pub last_began: Timestamp,
}
