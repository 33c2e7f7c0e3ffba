//! Requests and answers of the control socket.

use serde::{Deserialize, Serialize};
use walb_common::types::{Lb, Lsid, Uuid};

use crate::client::{ChangedHeader, DeviceStatus, Refusal};
use crate::config::{DeviceConfig, OnRingFull};

/// A request. `device` is empty for those about the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The device's name.
    pub device: String,
    /// What to do.
    pub call: Call,
}

/// What can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Call {
    /// The daemon's version.
    Version,
    /// Every device, failed ones too.
    List,
    /// Whether a path is the log or data device of a device here.
    WhoUses {
        /// The path.
        path: String,
    },
    /// Adds a device: opens it and remembers it.
    Create(Box<DeviceConfig>),
    /// Stops a device and forgets it; its log and data stay.
    Delete {
        /// Also when a front-end is in use.
        force: bool,
    },
    /// See `WalDevice::status`.
    Status,
    /// See `WalDevice::wait_for_log`.
    WaitForLog {
        /// Wait for log beyond this.
        after: Lsid,
        /// At most so long.
        within_ms: u64,
    },
    /// See `WalDevice::read_log`.
    ReadLog {
        /// First pack.
        from: Lsid,
        /// No pack may end beyond.
        limit: Lsid,
        /// About so much.
        max_bytes: u64,
    },
    /// See `WalDevice::set_oldest`.
    SetOldest {
        /// The new oldest lsid.
        lsid: Lsid,
    },
    /// See `WalDevice::reset_log`.
    ResetLog,
    /// See `WalDevice::read_data`.
    ReadData {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// See `WalDevice::flush`.
    Flush,
    /// See `WalDevice::checkpoint`.
    Checkpoint,
    /// See `WalDevice::freeze`.
    Freeze {
        /// 0 is none.
        timeout_ms: u64,
    },
    /// See `WalDevice::melt`.
    Melt,
    /// See `WalDevice::resize`.
    Resize {
        /// `None` takes the data device's size.
        size: Option<Lb>,
    },
    /// See `WalDevice::changed`.
    Changed,
    /// See `WalDevice::forget_changed`.
    ForgetChanged,
    /// What happens when the ring is full, now and after restarts.
    SetOnRingFull {
        /// The policy.
        policy: OnRingFull,
    },
    /// Milliseconds between automatic checkpoints, 0 is off.
    SetCheckpointInterval {
        /// At most a day.
        ms: u32,
    },
}

/// An answer; `bulk` raw bytes follow it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    /// The result.
    pub result: Result<Reply, Refusal>,
    /// How many bytes follow.
    pub bulk: u32,
}

/// What a successful call answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// The daemon's version.
    Version(String),
    /// Every device.
    List(Vec<ListEntry>),
    /// The name of the device that uses the path, if any.
    UsedBy(Option<String>),
    /// A device's state.
    Status(Box<DeviceStatus>),
    /// The permanent lsid.
    Permanent(Lsid),
    /// Log follows as bulk.
    Log {
        /// Of this sequence,
        uuid: Uuid,
        /// checksummed with this salt;
        salt: u32,
        /// the next read begins here.
        next: Lsid,
    },
    /// Data follows as bulk.
    Data,
    /// What is known of changes; if there is a header, the set follows as bulk.
    Changed(Result<ChangedHeader, String>),
}

/// A device in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// Its name.
    pub name: String,
    /// Why it is not running, if so.
    pub failed: Option<String>,
}
