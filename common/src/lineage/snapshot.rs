use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::MetaDiff;
use crate::types::{Gid, ParseError};

/// A pair of gids `B <= E`: what an image shows.
///
/// Clean (`B == E`): every block shows the volume at the instant named by the gid. Dirty: each block shows the volume
/// at some instant between B and E, possibly a different one for each block, as a scan of a live volume gives.
/// Text form: `|B|` when clean, `|B,E|` when dirty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Snapshot {
    begin: Gid,
    end: Gid,
}

/// Two gids that make no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad snapshot |{begin},{end}|: expected its begin gid not beyond its end gid")]
pub struct SnapshotError {
    /// The gid given as begin.
    pub begin: Gid,
    /// The gid given as end.
    pub end: Gid,
}

impl Snapshot {
    /// The clean snapshot at `gid`.
    pub const fn clean(gid: Gid) -> Self {
        Self { begin: gid, end: gid }
    }

    /// The snapshot between two gids; `begin` must not be beyond `end`.
    pub fn new(begin: Gid, end: Gid) -> Result<Self, SnapshotError> {
        if begin > end {
            return Err(SnapshotError { begin, end });
        }
        Ok(Self { begin, end })
    }

    /// The snapshot that starts at `begin` and is dirty at least up to `end`.
    pub(super) fn reaching(begin: Gid, end: Gid) -> Self {
        Self {
            begin,
            end: end.max(begin),
        }
    }

    /// The older gid: every write before it is in.
    pub const fn begin(self) -> Gid {
        self.begin
    }

    /// The newer gid: no write after it is in.
    pub const fn end(self) -> Gid {
        self.end
    }

    /// Whether every block shows the same instant.
    pub fn is_clean(self) -> bool {
        self.begin == self.end
    }

    /// The snapshot after applying `diff`, or `None` if it is not applicable.
    ///
    /// A clean diff removes dirt only as far as it reaches: `|0,10|` + `|0|-->|5|` = `|5,10|`.
    #[must_use]
    pub fn apply(self, diff: &MetaDiff) -> Option<Self> {
        if !diff.can_apply_to(self) {
            return None;
        }
        Some(if diff.is_clean() {
            Self::reaching(diff.end().begin, self.end)
        } else {
            diff.end()
        })
    }

    /// The snapshot after applying every diff of `list` in order, or `None` if one of them is not applicable.
    #[must_use]
    pub fn apply_all(self, list: &[MetaDiff]) -> Option<Self> {
        list.iter().try_fold(self, Self::apply)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            write!(f, "|{}|", self.begin)
        } else {
            write!(f, "|{},{}|", self.begin, self.end)
        }
    }
}

impl FromStr for Snapshot {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("snapshot", text, "|GID| or |GID,GID| with the smaller gid first");
        let inner = text
            .strip_prefix('|')
            .and_then(|t| t.strip_suffix('|'))
            .ok_or_else(bad)?;
        let (begin, end) = inner.split_once(',').unwrap_or((inner, inner));
        // As it is written, without leading zeros: a damaged text is not to pass for another.
        let gid = |text: &str| match text.parse::<Gid>() {
            Ok(gid) if gid.to_string() == text => Ok(gid),
            _ => Err(bad()),
        };
        let (begin, end) = (gid(begin)?, gid(end)?);
        Self::new(begin, end).map_err(|_| bad())
    }
}

impl TryFrom<String> for Snapshot {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> String {
        snapshot.to_string()
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
