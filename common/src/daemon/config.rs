//! Configuration: a TOML file; unknown keys are refused with the keys that exist.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wire::tls::TlsFiles;

/// The configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML of the right form.
    #[error("configuration {path}: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, where, and what was expected.
        message: String,
    },
}

/// Reads a configuration file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        ConfigError::Parse {
            path: path.to_owned(),
            message: format!("line {line}: {}", error.message()),
        }
    })
}

/// The part of a configuration that every daemon has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Everything the daemon stores.
    pub data_dir: PathBuf,
    /// After binding, the address is written there (one line, durable). For tests and supervisors that use port 0.
    #[serde(default)]
    pub address_file: Option<PathBuf>,
    /// Most connections at once; further ones wait.
    #[serde(
        default = "default_max_connections",
        deserialize_with = "within::<1, 65_536, _, _>"
    )]
    pub max_connections: usize,
    /// Most foreground tasks at once (backups, receives, restores); further ones are refused.
    #[serde(default = "default_foreground", deserialize_with = "within::<1, 1024, _, _>")]
    pub max_foreground_tasks: usize,
    /// Most background transfers at once.
    #[serde(default = "default_background", deserialize_with = "within::<1, 1024, _, _>")]
    pub max_background_tasks: usize,
    /// Seconds to wait for a connection, or for an answer.
    #[serde(default = "default_timeout", deserialize_with = "within::<1, 3600, _, _>")]
    pub socket_timeout_seconds: u64,
    /// Seconds that running work may still take after the first signal to stop.
    #[serde(default = "default_grace", deserialize_with = "within::<0, 86_400, _, _>")]
    pub grace_seconds: u64,
    /// Our identity.
    pub tls: TlsFiles,
}

/// A number from `LEAST` to `MOST`: others make a daemon that serves nobody, or that cannot start.
fn within<'de, const LEAST: u64, const MOST: u64, D, N>(from: D) -> Result<N, D::Error>
where
    D: serde::Deserializer<'de>,
    N: TryFrom<u64>,
{
    let found = u64::deserialize(from)?;
    let number = N::try_from(found)
        .ok()
        .filter(|_| (LEAST..=MOST).contains(&found));
    number.ok_or_else(|| serde::de::Error::custom(format!("found {found}, expected {LEAST} to {MOST}")))
}

fn default_max_connections() -> usize {
    256
}
fn default_foreground() -> usize {
    8
}
fn default_background() -> usize {
    4
}
fn default_timeout() -> u64 {
    10
}
fn default_grace() -> u64 {
    20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<NodeConfig, toml::de::Error> {
        toml::from_str(&format!(
            "listen = '127.0.0.1:0'\ndata_dir = 'd'\n{more}\ntls = {{ ca = 'a', cert = 'b', key = 'c' }}"
        ))
    }

    #[test]
    fn numbers_no_daemon_can_work_with_are_refused() {
        assert_eq!(parse("").unwrap().max_connections, 256);
        assert_eq!(parse("grace_seconds = 0").unwrap().grace_seconds, 0);
        for (key, least, most) in [
            ("max_connections", 1, 65_536),
            ("max_foreground_tasks", 1, 1024),
            ("max_background_tasks", 1, 1024),
            ("socket_timeout_seconds", 1, 3600),
            ("grace_seconds", 0, 86400),
        ] {
            for good in [least, most] {
                parse(&format!("{key} = {good}")).unwrap();
            }
            for bad in [least - 1, most + 1, i64::MAX] {
                let error = parse(&format!("{key} = {bad}")).unwrap_err().to_string();
                let told = error.contains(&format!("expected {least} to {most}"));
                assert!(told || bad < 0, "{error}");
            }
        }
    }
}
