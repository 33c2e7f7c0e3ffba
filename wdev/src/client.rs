//! What `walb-storage` and `wdevc` need of a WalB device, whoever implements it.
//!
//! [`DeviceSpec`] names a device, [`open`] turns it into a [`WalDevice`]. Our own devices are reached through the control
//! socket of `walb-wdev` ([`WdevClient`]); those of the kernel driver through [`crate::kernel`].

mod changed;
mod error;
mod spec;
mod wdev_client;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use walb_common::types::{Lb, Lsid, PhysicalBlockSize, Uuid};

pub use crate::chunk_set::ChunkSetError;
pub use changed::{Changed, ChangedChunks, ChangedHeader};
pub use error::{DeviceError, Refusal, Remedy};
pub use spec::{DEFAULT_SOCKET, DeviceSpec, SOCKET_ENV, default_socket};
pub use wdev_client::WdevClient;

use crate::config::OnRingFull;
use crate::kernel::KernelDevice;

/// A WalB device as seen by those who take its log.
#[async_trait]
pub trait WalDevice: Send + Sync {
    /// The device's state at this instant.
    async fn status(&self) -> Result<DeviceStatus, DeviceError>;

    /// Waits until log beyond `after` is permanent, at most `within`; answers the permanent lsid of that instant (which may
    /// still be `after` or less at the deadline, and is less after a log reset). Notified by walb-wdev; beside
    /// the kernel driver, looked at ten times a second.
    async fn wait_for_log(&self, after: Lsid, within: Duration) -> Result<Lsid, DeviceError>;

    /// Reads whole logpacks from `from` on: only packs that end at or below both `limit` and the permanent lsid, and about
    /// `max_bytes` (at most 1 MiB counts; but always at least one pack if there is one). An empty chunk with `next == from`
    /// means that there is no such pack yet.
    ///
    /// The log may be overwritten while it is read; then the answer is [`DeviceError::LogGone`], never wrong data. The caller
    /// compares [`LogChunk::uuid`] with the log it means to read.
    async fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogChunk, DeviceError>;

    /// Releases the log below `lsid`: `oldest <= lsid <= prev_written`, and a logpack must begin there.
    async fn set_oldest(&self, lsid: Lsid) -> Result<(), DeviceError>;

    /// Drops all log: lsids restart at 0 with a new uuid and salt, overflow is cleared. The device's data is kept.
    async fn reset_log(&self) -> Result<DeviceStatus, DeviceError>;

    /// Reads the device's present data (offset and length in bytes, multiples of 512, at most 4 MiB), pending writes included.
    async fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError>;

    /// Makes everything written so far durable, hence permanent in the log.
    async fn flush(&self) -> Result<(), DeviceError>;

    /// Writes back everything permanent and records it as written (`prev_written` moves).
    async fn checkpoint(&self) -> Result<(), DeviceError>;

    /// Holds back writes; returns when none is under way. With a timeout the device melts by itself.
    async fn freeze(&self, timeout: Option<Duration>) -> Result<(), DeviceError>;

    /// Ends a freeze. A device that is not frozen is a success.
    async fn melt(&self) -> Result<(), DeviceError>;

    /// Which chunks have changed since the log was last released. After an overflow too, and through restarts. A log reset
    /// carries them on: until the new log is released beyond 0 they count from the last position of the old one.
    async fn changed(&self) -> Result<Changed, DeviceError>;

    /// Forgets what a log reset carried on: changes count from the beginning of the present log then.
    async fn forget_changed(&self) -> Result<(), DeviceError>;

    /// Grows the device; `None` takes the data device's size.
    async fn resize(&self, size: Option<Lb>) -> Result<DeviceStatus, DeviceError>;
}

/// The named positions of a log; everything below one of them is ...
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lsids {
    /// ... no longer needed by anybody.
    pub oldest: Lsid,
    /// ... on the data device, as recorded in the super sector.
    pub prev_written: Lsid,
    /// ... on the data device.
    pub written: Lsid,
    /// ... durable on the log device.
    pub permanent: Lsid,
    /// ... covered by a flush that has been issued.
    pub flush: Lsid,
    /// ... written to the log device, perhaps still in a cache.
    pub completed: Lsid,
    /// ... given to logpacks.
    pub latest: Lsid,
}

/// The state of a device at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// The device's name.
    pub name: String,
    /// The log sequence: changes at format and log reset.
    pub uuid: Uuid,
    /// The checksum salt of the log; changes with the uuid.
    pub salt: u32,
    /// The physical block size, in which lsids count.
    pub pbs: PhysicalBlockSize,
    /// The device's size.
    pub size: Lb,
    /// The log's positions.
    pub lsids: Lsids,
    /// The ring's size in physical blocks.
    pub log_capacity_pb: u64,
    /// `latest - oldest`; beyond the capacity after an overflow.
    pub log_usage_pb: u64,
    /// Log was overwritten before it was released; stays until a log reset.
    pub overflow: bool,
    /// Writes are held back.
    pub frozen: bool,
    /// Writes are refused since an IO error.
    pub read_only: bool,
    /// Bytes acknowledged and not yet on the data device.
    pub pending_bytes: u64,
    /// What happens when the ring is full of log that was not released.
    #[serde(default)]
    pub on_ring_full: OnRingFull,
    /// Writes wait for released log.
    #[serde(default)]
    pub waits_for_ring: bool,
    /// Bytes in chunks that have changed since the last release, at most; `None`: not known.
    #[serde(default)]
    pub changed_bytes: Option<u64>,
    /// Why what has changed is not known, or cannot be stored.
    #[serde(default)]
    pub changed_problem: Option<String>,
    /// Milliseconds between automatic checkpoints; 0 is off.
    pub checkpoint_interval_ms: u32,
    /// The log device.
    pub ldev: String,
    /// The data device.
    pub ddev: String,
    /// The block device that shows it, if it is shown by one of ours: `/dev/ublkbN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Whole logpacks, headers and data, as they are on the log device but contiguous (padding included).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The log sequence they belong to.
    pub uuid: Uuid,
    /// The salt they are checksummed with.
    pub salt: u32,
    /// The packs, one after another.
    pub bytes: Bytes,
    /// Where the next read goes on.
    pub next: Lsid,
}

/// Connects nothing yet; gives the implementation for the kind of device that `spec` names.
pub fn open(spec: &DeviceSpec) -> Result<Arc<dyn WalDevice>, DeviceError> {
    match spec {
        DeviceSpec::Wdev { socket, name } => Ok(Arc::new(WdevClient::new(socket.clone(), name.clone()))),
        DeviceSpec::Kernel { path } => Ok(Arc::new(KernelDevice::at(path))),
    }
}
