//! A device's configuration: what `wdevc create-wdev` sends and `walb-wdev` keeps in `DIR/devices/NAME.toml`.

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// A device as it is stored. Unknown keys are refused; names carry units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// The device's name (1 to 64 characters of `0-9 a-z A-Z -`).
    pub name: String,
    /// The log device: a file or a block device, formatted.
    pub ldev: Utf8PathBuf,
    /// The data device: a file or a block device.
    pub ddev: Utf8PathBuf,
    /// Serve NBD on this unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd: Option<Utf8PathBuf>,
    /// Connect the kernel's NBD client `/dev/nbdN` with this number to that socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_node: Option<u32>,
    /// Offer it over TCP, inside TLS, to the guests with these node ids. Takes effect when walb-wdev listens for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nbd_guests: Vec<String>,
    /// Mount a directory with the device as one file here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuse: Option<Utf8PathBuf>,
    /// Show it as `/dev/ublkbN` with this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ublk: Option<u32>,
    /// Bounds, intervals, and how IO is done.
    #[serde(default)]
    pub limits: Limits,
}

/// Which system calls do what can be done at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IoEngine {
    /// `io_uring` where the system lets us, else threads.
    #[default]
    Auto,
    /// `io_uring`; a device does not start without it.
    IoUring,
    /// Plain calls on several threads.
    Threads,
}

/// Whether the log goes past the page cache. Stored as `"auto"`, `true` or `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredLogDirect", into = "StoredLogDirect")]
pub enum LogDirect {
    /// Past it where flushes are frequent, through it where there are none.
    #[default]
    Auto,
    /// Always past it.
    Always,
    /// Always through it.
    Never,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredLogDirect {
    Fixed(bool),
    Named(LogDirectName),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogDirectName {
    Auto,
}

impl From<StoredLogDirect> for LogDirect {
    fn from(stored: StoredLogDirect) -> Self {
        match stored {
            StoredLogDirect::Fixed(true) => Self::Always,
            StoredLogDirect::Fixed(false) => Self::Never,
            StoredLogDirect::Named(LogDirectName::Auto) => Self::Auto,
        }
    }
}

impl From<LogDirect> for StoredLogDirect {
    fn from(value: LogDirect) -> Self {
        match value {
            LogDirect::Always => Self::Fixed(true),
            LogDirect::Never => Self::Fixed(false),
            LogDirect::Auto => Self::Named(LogDirectName::Auto),
        }
    }
}

/// What happens when the ring is full of log that was not released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnRingFull {
    /// Writes go on and overwrite it: the log overflows.
    #[default]
    GoOn,
    /// Writes wait until log is released.
    Throttle,
}

impl std::fmt::Display for OnRingFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GoOn => "go-on",
            Self::Throttle => "throttle",
        })
    }
}

/// Bounds and intervals of a device, and how it does its IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes acknowledged and not yet on the data device; writers wait beyond it.
    pub pending_max_mib: u32,
    /// The log is synced at least so often while there is unsynced log.
    pub log_sync_interval_ms: u32,
    /// Between automatic checkpoints; 0 is off.
    pub checkpoint_interval_ms: u32,
    /// Log kept in memory for those who follow it.
    pub log_tail_mib: u32,
    /// Most data of one logpack.
    pub logpack_max_kib: u32,
    /// How reads and writes that can be done at once are done.
    pub io: IoEngine,
    /// The log past the page cache, where the log device takes that.
    pub log_direct: LogDirect,
    /// With [`LogDirect::Auto`]: requests without a flush after which the log goes through the page cache.
    pub log_cached_after: u32,
    /// The data past the page cache, where the data device takes that.
    pub data_direct: bool,
    /// Data in the page cache that may be waiting to be written out, where they go through it; 0: as the kernel likes.
    pub data_dirty_max_mib: u32,
    /// What happens when the ring is full of log that was not released.
    pub on_ring_full: OnRingFull,
    /// A thread of the device ends when it has had nothing to do for so long; the next request starts it again.
    pub thread_idle_ms: u32,
    /// NBD clients at once on the unix socket, and as many over TCP; further ones are refused.
    pub nbd_clients: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_max_mib: 64,
            log_sync_interval_ms: 100,
            checkpoint_interval_ms: 10_000,
            log_tail_mib: 16,
            logpack_max_kib: 1024,
            io: IoEngine::Auto,
            log_direct: LogDirect::Auto,
            log_cached_after: 128,
            data_direct: false,
            data_dirty_max_mib: 32,
            on_ring_full: OnRingFull::GoOn,
            thread_idle_ms: 10_000,
            nbd_clients: 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_the_log_is_stored_as_auto_true_or_false_and_read_back() {
        for (stored, log_direct) in [
            ("log_direct = \"auto\"", LogDirect::Auto),
            ("log_direct = true", LogDirect::Always),
            ("log_direct = false", LogDirect::Never),
            ("", LogDirect::Auto),
        ] {
            let limits: Limits = toml::from_str(stored).unwrap();
            let expected = Limits {
                log_direct,
                ..Limits::default()
            };
            assert_eq!(limits, expected);
            let text = toml::to_string(&limits).unwrap();
            assert!(text.contains(stored), "{text}");
            assert_eq!(toml::from_str::<Limits>(&text).unwrap(), expected);
            let json = serde_json::to_string(&limits).unwrap();
            assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), expected);
        }
        for bad in ["log_direct = 1", "log_direct = \"maybe\""] {
            toml::from_str::<Limits>(bad).unwrap_err();
        }
    }
}
