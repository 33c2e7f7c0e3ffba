use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{ParseError, Timestamp};

/// Who answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// `storage`, `proxy` or `archive`.
    pub host_type: String,
    /// Its node id.
    pub node_id: String,
    /// Process id.
    pub pid: u32,
    /// Program version.
    pub version: String,
    /// Version of the log format it reads and writes.
    pub log_version: u32,
    /// Version of streams it speaks.
    pub stream_version: u32,
    /// When the process started.
    pub started: Timestamp,
    /// End of its certificate's validity.
    pub certificate_expires: Timestamp,
    /// Bytes of frames its streams have sent since the process started (before TLS).
    pub stream_bytes_sent: u64,
    /// Bytes of frames its streams have received since the process started (before TLS).
    pub stream_bytes_received: u64,
}

/// One line of the list of volumes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeBrief {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Why it cannot be used, when it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Body of `start`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// Storage: `target` or `standby`.
    #[serde(default)]
    pub role: Option<String>,
}

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// Let what runs end.
    #[default]
    Graceful,
    /// Abort what runs.
    Force,
    /// Proxy: first send everything.
    Empty,
}

impl FromStr for StopMode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "graceful" => Ok(Self::Graceful),
            "force" => Ok(Self::Force),
            "empty" => Ok(Self::Empty),
            _ => Err(ParseError::new("stop mode", text, "graceful, force or empty")),
        }
    }
}

/// Body of `stop`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How.
    #[serde(default)]
    pub mode: StopMode,
}

/// Body of `/v1/shutdown`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Abort what runs instead of letting it end.
    #[serde(default)]
    pub force: bool,
}
