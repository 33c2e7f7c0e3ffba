use std::fmt;

use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::types::Timestamp;

/// What is known about a diff without reading it: where it starts, where it leads, and three facts more.
///
/// Invariants: `begin.B < end.B` and `begin.E <= end.E`. Two diffs are the same iff begin and end are equal
/// ([`MetaDiff::is_same_as`]); `==` compares every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct MetaDiff {
    begin: Snapshot,
    end: Snapshot,
    mergeable: bool,
    compared: bool,
    timestamp: Timestamp,
    size: u64,
}

/// As serialised; validated on the way in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    begin: Snapshot,
    end: Snapshot,
    mergeable: bool,
    compared: bool,
    timestamp: Timestamp,
    size: u64,
}

/// Two snapshots between which there can be no diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The begin side does not move forward.
    #[error("bad diff {begin}-->{end}: expected it to end at a later begin gid than it starts from")]
    NoProgress {
        /// Where the diff starts.
        begin: Snapshot,
        /// Where it leads.
        end: Snapshot,
    },
    /// The end side moves back.
    #[error("bad diff {begin}-->{end}: expected an end gid not before that of its begin snapshot")]
    EndMovesBack {
        /// Where the diff starts.
        begin: Snapshot,
        /// Where it leads.
        end: Snapshot,
    },
}

/// How a diff stands to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It leads on from there.
    Applicable,
    /// It is a compared diff made for another snapshot.
    NotApplicable,
    /// It starts beyond the snapshot: something in between is missing.
    TooNew,
    /// It ends at or before the snapshot: it adds nothing.
    TooOld,
}

impl MetaDiff {
    /// A mergeable log diff without time and size; refine with the `with_` methods.
    pub fn new(begin: Snapshot, end: Snapshot) -> Result<Self, DiffError> {
        if begin.begin() >= end.begin() {
            return Err(DiffError::NoProgress { begin, end });
        }
        if begin.end() > end.end() {
            return Err(DiffError::EndMovesBack { begin, end });
        }
        Ok(Self {
            begin,
            end,
            mergeable: true,
            compared: false,
            timestamp: Timestamp::NONE,
            size: 0,
        })
    }

    /// The same diff, (not) allowed to be merged onto the one before it.
    #[must_use]
    pub const fn with_mergeable(mut self, mergeable: bool) -> Self {
        self.mergeable = mergeable;
        self
    }

    /// The same diff, (not) made by comparing two images.
    #[must_use]
    pub const fn with_compared(mut self, compared: bool) -> Self {
        self.compared = compared;
        self
    }

    /// The same diff, leading to a snapshot taken at `timestamp`.
    #[must_use]
    pub const fn with_timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// The same diff in a file of `size` bytes.
    #[must_use]
    pub const fn with_size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// The snapshot it starts from.
    pub const fn begin(&self) -> Snapshot {
        self.begin
    }

    /// The snapshot it leads to.
    pub const fn end(&self) -> Snapshot {
        self.end
    }

    /// Whether it may be merged onto the diff before it. `false` means: the snapshot it starts from is explicit.
    pub const fn is_mergeable(&self) -> bool {
        self.mergeable
    }

    /// Whether it holds only blocks that differ between its two ends, so that it fits exactly its begin snapshot.
    pub const fn is_compared(&self) -> bool {
        self.compared
    }

    /// The time of the snapshot it leads to.
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Bytes of its file; information only.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether both ends are clean.
    pub fn is_clean(&self) -> bool {
        self.begin.is_clean() && self.end.is_clean()
    }

    /// Whether it leads from and to the same snapshots as `other`.
    pub fn is_same_as(&self, other: &Self) -> bool {
        (self.begin, self.end) == (other.begin, other.end)
    }

    /// How this diff stands to `snapshot`.
    pub fn relation(&self, snapshot: Snapshot) -> Relation {
        let at = snapshot.begin();
        if self.compared {
            if self.begin.begin() == at {
                Relation::Applicable
            } else {
                Relation::NotApplicable
            }
        } else if self.begin.begin() > at {
            Relation::TooNew
        } else if self.end.begin() <= at {
            Relation::TooOld
        } else {
            Relation::Applicable
        }
    }

    /// Whether this diff leads on from `snapshot`. A log diff may start before it.
    pub fn can_apply_to(&self, snapshot: Snapshot) -> bool {
        self.relation(snapshot) == Relation::Applicable
    }

    /// Whether `later` can be merged onto this diff. Overlap is allowed, a gap is not; this diff need not be mergeable
    /// itself, because the flag only forbids a diff to be absorbed by its predecessor.
    pub fn can_merge(&self, later: &Self) -> bool {
        later.mergeable
            && !self.compared
            && !later.compared
            && self.begin.begin() <= later.begin.begin()
            && later.begin.begin() <= self.end.begin()
            && self.end.begin() < later.end.begin()
    }

    /// This diff with `later` merged onto it, or `None` if that is not allowed. Its size is the sum, an estimate until
    /// the merged file is written.
    #[must_use]
    pub fn merge(&self, later: &Self) -> Option<Self> {
        if !self.can_merge(later) {
            return None;
        }
        let end = if later.is_clean() {
            Snapshot::reaching(later.end.begin(), self.end.end())
        } else {
            later.end
        };
        Some(Self {
            begin: self.begin,
            end,
            mergeable: self.mergeable,
            compared: false,
            timestamp: later.timestamp,
            size: self.size.saturating_add(later.size),
        })
    }

    /// The merge of `list`, or `None` if it is empty or cannot be merged.
    #[must_use]
    pub fn merge_all(list: &[Self]) -> Option<Self> {
        let (first, rest) = list.split_first()?;
        rest.iter().try_fold(*first, |merged, next| merged.merge(next))
    }

    /// Whether `other` lies within this diff, so that this one makes it superfluous.
    pub fn contains(&self, other: &Self) -> bool {
        self.begin.begin() <= other.begin.begin() && other.end.begin() <= self.end.begin()
    }

    /// The order of preference among candidates: reach farthest, then start latest (the smallest file that reaches as
    /// far). The rest only makes the choice independent of the order of arrival: the cleaner end, then a log diff.
    pub(super) fn preference(&self) -> impl Ord + use<> {
        (
            self.end.begin(),
            self.begin.begin(),
            std::cmp::Reverse(self.end.end()),
            !self.compared,
            self.begin.end(),
        )
    }

    /// The long form of listings: `|2|-->|3| M- 2026-11-22T14:03:00 293920`.
    pub fn listing(&self) -> String {
        let mergeable = if self.mergeable { 'M' } else { '-' };
        let compared = if self.compared { 'C' } else { '-' };
        format!("{self} {mergeable}{compared} {} {}", self.timestamp, self.size)
    }
}

/// The short form: `|8|-->|10,12|`.
impl fmt::Display for MetaDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-->{}", self.begin, self.end)
    }
}

impl TryFrom<Stored> for MetaDiff {
    type Error = DiffError;
    fn try_from(stored: Stored) -> Result<Self, DiffError> {
        let Stored {
            begin,
            end,
            mergeable,
            compared,
            timestamp,
            size,
        } = stored;
        Ok(Self {
            mergeable,
            compared,
            timestamp,
            size,
            ..Self::new(begin, end)?
        })
    }
}

impl From<MetaDiff> for Stored {
    fn from(diff: MetaDiff) -> Stored {
        let MetaDiff {
            begin,
            end,
            mergeable,
            compared,
            timestamp,
            size,
        } = diff;
        Stored {
            begin,
            end,
            mergeable,
            compared,
            timestamp,
            size,
        }
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
