//! walb-proxy.

use serde::{Deserialize, Serialize};

use crate::lineage::MetaDiff;
use crate::types::{CompressionSetting, Gid, Lb, Timestamp};

/// Where and how to send the diffs of a volume. Body of PUT and POST, answer of GET `archives/{name}`.
///
/// POST adds and fails when the name exists; PUT adds or replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveInfo {
    /// `HOST:PORT`.
    pub address: String,
    /// How wdiffs are compressed on the way.
    pub compression: CompressionSetting,
    /// Seconds a diff waits before it is sent.
    pub delay_seconds: u64,
}

/// Body of `kick`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KickRequest {
    /// Only this volume.
    #[serde(default)]
    pub volume: Option<String>,
    /// Only this archive of the volume.
    #[serde(default)]
    pub archive: Option<String>,
}

/// `/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Settings and identity.
    pub global: Global,
    /// Transfers that wait.
    pub tasks: Vec<TaskStatus>,
    /// All volumes but Clear ones.
    pub volumes: Vec<VolumeStatus>,
}

/// Settings and identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it; they are those of `walbc status`")]
pub struct Global {
    pub node_id: String,
    pub base_dir: String,
    pub max_wdiff_send_mb: u64,
    pub min_delay_sec_for_retry: u64,
    pub max_delay_sec_for_retry: u64,
    pub retry_timeout: u64,
    pub max_connections: u64,
    pub max_foreground_tasks: u64,
    pub max_background_tasks: u64,
    pub socket_timeout: u64,
}

/// A waiting transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Which volume.
    pub volume: String,
    /// To which archive.
    pub archive: String,
    /// Due time minus now.
    pub time_diff_ms: i64,
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
    /// `NotStopping`, `Stopping`, `ForceStopping` or `WaitingForEmpty`.
    pub stop_state: String,
    /// The largest size announced by a storage.
    pub size: Lb,
    /// Diffs received and not yet distributed.
    pub num_diff: u64,
    /// Their bytes.
    pub total_size: u64,
    /// When the last wlog was received.
    pub last_wlog_received: Timestamp,
    /// Each registered archive, by name.
    pub archives: Vec<ArchiveStatus>,
    /// What somebody should look at, a line each: an archive that lacks an earlier diff above all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One archive of a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Its name.
    pub name: String,
    /// Where and how to send.
    pub info: ArchiveInfo,
    /// Whether a transfer runs.
    pub sending: bool,
    /// Diffs that wait for it.
    pub num_diff: u64,
    /// Their bytes.
    pub total_size: u64,
    /// Begin gid of the oldest of them.
    pub min_gid: Option<Gid>,
    /// End gid of the newest of them.
    pub max_gid: Option<Gid>,
    /// Timestamp of the newest of them.
    pub newest: Timestamp,
    /// When something was last delivered.
    pub last_sent: Timestamp,
    /// The error flag: until a new wlog, a kick or a start it is tried but seldom.
    pub send_error: bool,
    /// The last failure, if the last transfer failed.
    pub last_error: Option<String>,
    /// Age of the oldest waiting diff in seconds.
    pub delay_measured: u64,
    /// Diffs that turned out to be damaged: their files were set aside (renamed to `*.bad`) and are not sent.
    #[serde(default)]
    pub damaged: Vec<String>,
}

/// Answer of GET `archives`: by name.
pub type Archives = std::collections::BTreeMap<String, ArchiveInfo>;

/// Answer of `diffs[?archive=NAME]`: by begin gid.
pub type Diffs = Vec<MetaDiff>;
