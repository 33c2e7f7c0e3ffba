//! The configuration file of walb-storage: tables `[node]` and `[storage]`.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use walb_common::daemon::config::{ConfigError, NodeConfig, load};
use walb_common::types::PhysicalBlockSize;

use crate::plan::Limits;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What every daemon has.
    pub node: NodeConfig,
    /// What a storage has.
    pub storage: StorageConfig,
}

/// Table `[storage]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// The primary archive, `HOST:PORT`.
    pub archive: String,
    /// Proxies in order of priority, `HOST:PORT` each.
    pub proxies: Vec<String>,
    /// Most MiB of log in one transfer.
    #[serde(default = "defaults::max_wlog_send_mb")]
    pub max_wlog_send_mb: u64,
    /// Least seconds between two implicit snapshots while others wait.
    #[serde(default = "defaults::snapshot_interval_seconds")]
    pub snapshot_interval_seconds: u64,
    /// Seconds to the first retry after a failure; doubles with each further one.
    #[serde(default = "defaults::retry_min_seconds")]
    pub retry_min_seconds: u64,
    /// Most seconds between retries.
    #[serde(default = "defaults::retry_max_seconds")]
    pub retry_max_seconds: u64,
    /// Most bytes a full backup reads per second; 0 is no limit.
    #[serde(default)]
    pub full_scan_bytes_per_second: u64,
    /// Milliseconds between new log and its transfer, so that more goes at once.
    #[serde(default = "defaults::send_delay_milliseconds")]
    pub send_delay_milliseconds: u64,
    /// Transfers that nobody asked for begin at least this far apart, so that a volume written to all the time makes about
    /// one diff a second, not ten. A snapshot, a kick and a backlog do not wait.
    #[serde(default = "defaults::transfer_interval_milliseconds")]
    pub transfer_interval_milliseconds: u64,
    /// Seconds between two looks at whether a proxy is there.
    #[serde(default = "defaults::probe_interval_seconds")]
    pub probe_interval_seconds: u64,
    /// A volume whose log was lost (overflow above all) is healed by a hash backup without being asked.
    #[serde(default = "defaults::heal_overflow")]
    pub heal_overflow: bool,
    /// Most seconds that a hash backup waits for the archive to get what the proxies still have.
    #[serde(default = "defaults::catch_up_seconds")]
    pub catch_up_seconds: u64,
}

mod defaults {
    pub(super) fn max_wlog_send_mb() -> u64 {
        128
    }
    pub(super) fn snapshot_interval_seconds() -> u64 {
        10
    }
    pub(super) fn retry_min_seconds() -> u64 {
        1
    }
    pub(super) fn retry_max_seconds() -> u64 {
        300
    }
    pub(super) fn send_delay_milliseconds() -> u64 {
        100
    }
    pub(super) fn transfer_interval_milliseconds() -> u64 {
        1000
    }
    pub(super) fn probe_interval_seconds() -> u64 {
        10
    }
    pub(super) fn heal_overflow() -> bool {
        true
    }
    pub(super) fn catch_up_seconds() -> u64 {
        30
    }
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration storage.{key}: expected {expected}, found {found}")]
pub struct BadValue {
    /// Which key.
    pub key: &'static str,
    /// What is allowed.
    pub expected: &'static str,
    /// What was given.
    pub found: String,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read or has another form.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A value is out of its range.
    #[error(transparent)]
    Value(#[from] BadValue),
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let config: Self = load(path)?;
        config.storage.check()?;
        Ok(config)
    }
}

impl StorageConfig {
    /// Checks what the types do not say.
    pub fn check(&self) -> Result<(), BadValue> {
        let address = "HOST:PORT";
        let bad = |key, expected, found: String| Err(BadValue { key, expected, found });
        if !is_address(&self.archive) {
            return bad("archive", address, self.archive.clone());
        }
        if self.proxies.is_empty() {
            return bad("proxies", "at least one HOST:PORT", "an empty list".to_owned());
        }
        if let Some(proxy) = self.proxies.iter().find(|p| !is_address(p)) {
            return bad("proxies", address, proxy.clone());
        }
        for (key, value, most) in [
            ("max_wlog_send_mb", self.max_wlog_send_mb, 1 << 20),
            (
                "snapshot_interval_seconds",
                self.snapshot_interval_seconds,
                86_400,
            ),
            ("retry_min_seconds", self.retry_min_seconds, 86_400),
            ("probe_interval_seconds", self.probe_interval_seconds, 86_400),
        ] {
            if value == 0 || value > most {
                return bad(key, "a number from 1 to 86400 (MiB: 1048576)", value.to_string());
            }
        }
        Ok(())
    }

    /// The limits of transfers from a device.
    pub fn limits(&self, pbs: PhysicalBlockSize) -> Limits {
        let bytes = self.max_wlog_send_mb << 20;
        Limits {
            max_pb: bytes / pbs.bytes() as u64,
            snapshot_interval: self.snapshot_interval_seconds,
        }
    }

    /// How long to wait after the `failures`-th failure in a row (from 1).
    pub fn retry_delay(&self, failures: u32) -> Duration {
        let factor = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
        let most = self.retry_max_seconds.max(self.retry_min_seconds);
        Duration::from_secs(self.retry_min_seconds.saturating_mul(factor).min(most))
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

#[cfg(test)]
impl StorageConfig {
    /// One that is right, with the defaults.
    pub(crate) fn sample() -> Self {
        Self {
            archive: "127.0.0.1:10200".to_owned(),
            proxies: vec!["[::1]:10100".to_owned()],
            max_wlog_send_mb: 128,
            snapshot_interval_seconds: 10,
            retry_min_seconds: 1,
            retry_max_seconds: 300,
            full_scan_bytes_per_second: 0,
            send_delay_milliseconds: 100,
            transfer_interval_milliseconds: 1000,
            probe_interval_seconds: 10,
            heal_overflow: true,
            catch_up_seconds: 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_double_up_to_their_limit() {
        let delays: Vec<_> = (1..=10)
            .map(|n| StorageConfig::sample().retry_delay(n).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(StorageConfig::sample().retry_delay(1000).as_secs(), 300);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        assert_eq!(StorageConfig::sample().check(), Ok(()));
        let without = StorageConfig {
            proxies: Vec::new(),
            ..StorageConfig::sample()
        };
        assert!(
            without
                .check()
                .unwrap_err()
                .to_string()
                .contains("storage.proxies")
        );
        let portless = StorageConfig {
            archive: "host".to_owned(),
            ..StorageConfig::sample()
        };
        assert!(portless.check().unwrap_err().to_string().contains("found host"));
        let zero = StorageConfig {
            max_wlog_send_mb: 0,
            ..StorageConfig::sample()
        };
        assert!(zero.check().is_err());
    }
}
