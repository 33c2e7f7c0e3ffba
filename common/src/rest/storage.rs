//! walb-storage.

use serde::{Deserialize, Serialize};

use crate::lineage::Snapshot;
use crate::types::{Gid, Lb, Lsid, Timestamp, Uuid};

/// Body of `init`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// `wdev:NAME`, `wdev:SOCKET#NAME` or `/dev/walb/NAME`.
    pub device: String,
}

/// Body of `reset`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// The gid to begin with.
    #[serde(default)]
    pub gid: Gid,
}

/// Body of `full-backup`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Size of the chunks in bytes, 512 to 4 MiB; default 256 KiB.
    #[serde(default)]
    pub bulk_bytes: Option<u64>,
}

/// Body of `hash-backup`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashBackupRequest {
    /// Size of the chunks in bytes, 512 to 4 MiB; default 256 KiB.
    #[serde(default)]
    pub bulk_bytes: Option<u64>,
    /// Compare all of the volume, also where the device's bitmap says what has changed.
    #[serde(default)]
    pub full_compare: bool,
}

/// What a hash backup came to. Result of its job, and shown with the volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HashBackupReport {
    /// `bitmap`, `hashes`, or `bitmap, then hashes` after a cut.
    pub method: String,
    /// Why the device's bitmap was not used, if it was not.
    pub not_bitmap: Option<String>,
    /// Why it was made: `asked for`, or what it healed.
    pub why: String,
    /// The archive's snapshot that it starts from.
    pub from: Snapshot,
    /// The explicit snapshot that it leads to.
    pub gid: Gid,
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Bytes read from the device.
    pub read_bytes: u64,
    /// Bytes of the chunks that differ, or may.
    pub changed_bytes: u64,
    /// Bytes moved between storage and archive, in both directions.
    pub sent_bytes: u64,
    /// Bytes of the volume that were not moved.
    pub saved_bytes: u64,
    /// How often it was cut and went on.
    pub cuts: u32,
    /// Seconds it took.
    pub seconds: f32,
    /// When it ended.
    pub ended: Timestamp,
    /// The storage's state after it.
    pub state: String,
}

/// Answer of `snapshot`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotAnswer {
    /// The new explicit snapshot.
    pub gid: Gid,
}

/// A point of the log: everything before `lsid` belongs to snapshot `gid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    /// Position in the log.
    pub lsid: Lsid,
    /// The snapshot.
    pub gid: Gid,
    /// False: it was asked for and must stay.
    pub mergeable: bool,
    /// When it was taken.
    pub timestamp: Timestamp,
}

/// `/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Settings and identity.
    pub global: Global,
    /// The primary archive, `HOST:PORT`.
    pub archive: String,
    /// Proxies in order of priority.
    pub proxies: Vec<ProxyStatus>,
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
    pub max_wlog_send_mb: u64,
    pub min_delay_sec_for_retry: u64,
    pub max_delay_sec_for_retry: u64,
    pub max_connections: u64,
    pub max_foreground_tasks: u64,
    pub max_background_tasks: u64,
    pub socket_timeout: u64,
    pub full_scan_lb_per_sec: u64,
    /// Whether a volume whose log has overflowed is healed by a hash backup without being asked.
    #[serde(default)]
    pub heal_overflow: bool,
}

/// One proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `HOST:PORT`.
    pub address: String,
    /// Whether the last probe or transfer worked.
    pub available: bool,
    /// Seconds to the next probe.
    pub time_to_next_check: u64,
}

/// A waiting transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Which volume.
    pub volume: String,
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
    /// Running actions by name.
    pub actions: Vec<(String, u32)>,
    /// `NotStopping`, `Stopping` or `ForceStopping`.
    pub stop_state: String,
    /// Whether its log is watched.
    pub monitored: bool,
    /// Device as given to init-vol.
    pub device: Option<String>,
    /// What the device says; none when it cannot be asked.
    pub log: Option<DeviceLog>,
    /// What has been delivered.
    pub done: Option<LogPoint>,
    /// What has not, newest first.
    pub queue: Vec<LogPoint>,
    /// Uuid of the log as of the last reset.
    pub uuid: Uuid,
    /// The last failure of a transfer, if the last one failed.
    pub last_error: Option<String>,
    /// What is being done, or what somebody has to do, about a log that was lost.
    #[serde(default)]
    pub healing: Option<String>,
    /// The last hash backup.
    #[serde(default)]
    pub last_hash_backup: Option<HashBackupReport>,
}

/// A device and its log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names say it; lsids are those of docs/formats/log-device.md"
)]
pub struct DeviceLog {
    pub size: Lb,
    pub pbs: u32,
    pub salt: u32,
    pub overflow: bool,
    pub usage_pb: u64,
    pub capacity_pb: u64,
    pub oldest: Lsid,
    pub permanent: Lsid,
    pub latest: Lsid,
}

/// Body of `full-scan-limit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullScanLimitRequest {
    /// Bytes per second that each full or hash backup reads at most; 0 is no limit.
    pub bytes_per_second: u64,
}

/// Body of `kick`: an empty object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KickRequest {}
