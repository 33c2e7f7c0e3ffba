//! The mark that log was lost: a small file beside the device's configuration, so that no restart forgets it.
//!
//! It names the log sequence (uuid) that overflowed: after a log reset the mark says nothing about the new sequence, so
//! the reset needs no second step that a crash could leave out.

use std::{fs, io};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use walb_common::disk::replace_durable;
use walb_common::types::Uuid;

/// Longest mark file believed.
const FILE_MAX: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    overflowed_log_uuid: Uuid,
}

/// Where the mark is kept.
#[derive(Debug)]
pub(super) struct OverflowMark {
    path: Utf8PathBuf,
}

impl OverflowMark {
    pub fn new(path: &Utf8Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Whether the log sequence `uuid` is marked.
    pub fn is_set(&self, uuid: Uuid) -> io::Result<bool> {
        let text = match fs::metadata(&self.path) {
            Ok(found) if found.len() <= FILE_MAX => fs::read_to_string(&self.path)?,
            Ok(found) => {
                return Err(io::Error::other(format!(
                    "{} bytes, expected at most {FILE_MAX}",
                    found.len()
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let stored: Stored = toml::from_str(&text).map_err(io::Error::other)?;
        Ok(stored.overflowed_log_uuid == uuid)
    }

    /// Sets it, durably.
    pub fn set(&self, uuid: Uuid) -> io::Result<()> {
        let text = toml::to_string(&Stored {
            overflowed_log_uuid: uuid,
        })
        .map_err(io::Error::other)?;
        replace_durable(self.path.as_std_path(), text.as_bytes())
    }
}
