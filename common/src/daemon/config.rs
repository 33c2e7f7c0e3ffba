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
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Most foreground tasks at once (backups, receives, restores); further ones are refused.
    #[serde(default = "default_foreground")]
    pub max_foreground_tasks: usize,
    /// Most background transfers at once.
    #[serde(default = "default_background")]
    pub max_background_tasks: usize,
    /// Seconds to wait for a connection, or for an answer.
    #[serde(default = "default_timeout")]
    pub socket_timeout_seconds: u64,
    /// Seconds that running work may still take after the first signal to stop.
    #[serde(default = "default_grace")]
    pub grace_seconds: u64,
    /// Our identity.
    pub tls: TlsFiles,
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
