//! What the operator says: table `[node]`, common to all daemons, and table `[proxy]`.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use walb_common::daemon::config::{self, ConfigError, NodeConfig};
use walb_common::lineage::MergeLimits;
use walb_common::types::{Compression, CompressionSetting};

use crate::reaction::RetryPolicy;

/// The whole configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What every daemon has.
    pub node: NodeConfig,
    /// What only a proxy has.
    #[serde(default)]
    pub proxy: ProxyConfig,
}

/// Table `[proxy]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Diffs are merged into one transfer up to so many MiB of files; a single larger one is still sent.
    pub max_wdiff_send_mb: u64,
    /// Most files in one transfer.
    pub max_wdiff_send_count: usize,
    /// First wait after a refusal; doubles from there.
    pub retry_min_seconds: u64,
    /// Longest wait after a refusal.
    pub retry_max_seconds: u64,
    /// Without a new wlog for so long, a refusal that may be for ever raises the error flag.
    pub retry_timeout_seconds: u64,
    /// A log is refused when less than so many MiB would be left beside it.
    pub min_free_mb: u64,
    /// How received wdiffs are stored.
    pub compression: CompressionSetting,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            max_wdiff_send_mb: 128,
            max_wdiff_send_count: 1000,
            retry_min_seconds: 1,
            retry_max_seconds: 300,
            retry_timeout_seconds: 1800,
            min_free_mb: 1,
            compression: CompressionSetting::of(Compression::Lz4),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::load(path)?;
        let wrong = |message: &str| ConfigError::Parse {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let ProxyConfig {
            max_wdiff_send_count,
            retry_min_seconds,
            retry_max_seconds,
            ..
        } = config.proxy;
        if max_wdiff_send_count == 0 {
            return Err(wrong("max_wdiff_send_count: expected at least 1, found 0"));
        }
        if retry_min_seconds == 0 || retry_max_seconds < retry_min_seconds {
            return Err(wrong(&format!(
                "retry_min_seconds and retry_max_seconds: expected 1 <= min <= max, found {retry_min_seconds} and {retry_max_seconds}"
            )));
        }
        Ok(config)
    }
}

impl ProxyConfig {
    /// When to try again.
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            delay: Duration::from_secs(self.retry_min_seconds),
            max_delay: Duration::from_secs(self.retry_max_seconds),
            give_up_after: self.retry_timeout_seconds,
        }
    }

    /// How much goes into one transfer.
    pub fn send_limits(&self) -> MergeLimits {
        MergeLimits {
            bytes: self.max_wdiff_send_mb.saturating_mul(1 << 20),
            files: self.max_wdiff_send_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(proxy: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.toml");
        let node =
            "[node]\nlisten = '127.0.0.1:0'\ndata_dir = '/d'\n[node.tls]\nca = 'a'\ncert = 'b'\nkey = 'c'\n";
        std::fs::write(&path, format!("{node}{proxy}")).unwrap();
        Config::load(&path)
    }

    #[test]
    fn the_proxy_table_may_be_left_out_and_unknown_keys_are_refused_by_name() {
        assert_eq!(load("").unwrap().proxy.max_wdiff_send_mb, 128);
        assert_eq!(
            load("[proxy]\ncompression = 'zstd:3:2'\n")
                .unwrap()
                .proxy
                .compression
                .level,
            3
        );
        let error = load("[proxy]\nretry_mim_seconds = 1\n").unwrap_err().to_string();
        assert!(
            error.contains("retry_mim_seconds") && error.contains("retry_min_seconds"),
            "{error}"
        );
        assert!(load("[proxy]\nretry_min_seconds = 9\nretry_max_seconds = 3\n").is_err());
    }
}
