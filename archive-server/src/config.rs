//! What an archive can be told: table `[node]` as every daemon has it, table `[archive]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walb_common::convert::DiscardMode;
use walb_common::daemon::config::{ConfigError, NodeConfig};

/// As read; unknown keys are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// What every daemon has.
    pub node: NodeConfig,
    /// What only an archive has.
    #[serde(default)]
    pub archive: ArchiveSection,
}

/// Table `[archive]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveSection {
    /// Where base and restored images are kept; default: `images` in the data directory.
    pub image_dir: Option<PathBuf>,
    /// What becomes of discarded ranges in restored images.
    pub discard: Discard,
    /// An incoming image is synced after so many bytes, so that the last sync is short.
    pub image_sync_bytes: u64,
}

impl Default for ArchiveSection {
    fn default() -> Self {
        Self {
            image_dir: None,
            discard: Discard::Zero,
            image_sync_bytes: 1 << 30,
        }
    }
}

/// What applying a diff does with discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// Leaves the old data. An image then differs from a scan of the device.
    Ignore,
    /// Makes them zeros.
    Zero,
    /// Discards the range of the image.
    Passdown,
}

impl Discard {
    /// Its name in configuration and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Zero => "zero",
            Self::Passdown => "passdown",
        }
    }
}

impl From<Discard> for DiscardMode {
    fn from(discard: Discard) -> Self {
        match discard {
            Discard::Ignore => Self::Ignore,
            Discard::Zero => Self::Zero,
            Discard::Passdown => Self::Passdown,
        }
    }
}

/// As used: every default settled.
#[derive(Debug, Clone)]
pub struct Config {
    /// What every daemon has.
    pub node: NodeConfig,
    /// Where base and restored images are kept.
    pub image_dir: PathBuf,
    /// What becomes of discarded ranges in restored images.
    pub discard: Discard,
    /// Bytes of an incoming image between two syncs; at least 1 MiB.
    pub image_sync_bytes: u64,
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        walb_common::daemon::config::load::<ConfigFile>(path).map(Self::from)
    }
}

impl From<ConfigFile> for Config {
    fn from(file: ConfigFile) -> Self {
        let ConfigFile {
            node,
            archive:
                ArchiveSection {
                    image_dir,
                    discard,
                    image_sync_bytes,
                },
        } = file;
        let image_dir = image_dir.unwrap_or_else(|| node.data_dir.join("images"));
        // Clients are told paths of images; those mean something to them only when absolute.
        let image_dir = std::path::absolute(&image_dir).unwrap_or(image_dir);
        Self {
            node,
            image_dir,
            discard,
            image_sync_bytes: image_sync_bytes.max(1 << 20),
        }
    }
}
