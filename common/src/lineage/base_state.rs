use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{MetaDiff, Snapshot};
use crate::types::{ParseError, Timestamp};

/// What a base image shows.
///
/// Idle: the image is a snapshot. Applying: it is being moved (or was, before a crash) from one snapshot to another, and
/// any block may already show the value of the target or still that of the start.
///
/// Text form: `<|5|>` or `<|0,10|-->|25|>`; the stored form appends the time, `<|0,1|>-20261122140000`. Equality ignores
/// the time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseState {
    at: Snapshot,
    /// `Some` while applying; then its begin gid is beyond that of `at`.
    target: Option<Snapshot>,
    timestamp: Timestamp,
}

/// A list of diffs does not lead on from a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotApplicable {
    /// A diff does not fit where the ones before it lead.
    #[error("diff {diff} cannot be applied to {at}")]
    Gap {
        /// Where the diffs before it lead.
        at: Snapshot,
        /// The diff that does not fit.
        diff: MetaDiff,
    },
    /// The list ends before the target of an interrupted apply, so the image would still mean nothing.
    #[error(
        "the diffs lead from {from} to {reached} only: expected at least {target}, which was being applied"
    )]
    ShortOfTarget {
        /// Where the interrupted apply started.
        from: Snapshot,
        /// Where the list leads.
        reached: Snapshot,
        /// Where the interrupted apply was going.
        target: Snapshot,
    },
}

impl BaseState {
    /// The image is `at`, a snapshot of `timestamp`.
    pub const fn idle(at: Snapshot, timestamp: Timestamp) -> Self {
        Self {
            at,
            target: None,
            timestamp,
        }
    }

    /// The image is on its way from `at` to `target`, a snapshot of `timestamp`. `None` if that is no way forward.
    pub fn applying(at: Snapshot, target: Snapshot, timestamp: Timestamp) -> Option<Self> {
        (at.begin() < target.begin()).then_some(Self {
            at,
            target: Some(target),
            timestamp,
        })
    }

    /// The snapshot the image shows when idle; where it comes from when applying.
    pub const fn snapshot(&self) -> Snapshot {
        self.at
    }

    /// Where an apply is going, if one is under way.
    pub const fn target(&self) -> Option<Snapshot> {
        self.target
    }

    /// Whether an apply is under way (or was interrupted).
    pub const fn is_applying(&self) -> bool {
        self.target.is_some()
    }

    /// The time of the snapshot reached, or to be reached.
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether `list` leads on from here, beyond the target of an interrupted apply if there is one.
    pub fn can_apply(&self, list: &[MetaDiff]) -> bool {
        self.end_of(list).is_ok()
    }

    /// The state to store durably before the first block of `list` is written. An empty list changes nothing; beginning
    /// twice gives the same.
    pub fn begin_applying(&self, list: &[MetaDiff]) -> Result<Self, NotApplicable> {
        let Some(last) = list.last() else { return Ok(*self) };
        Ok(Self {
            at: self.at,
            target: Some(self.end_of(list)?),
            timestamp: last.timestamp(),
        })
    }

    /// The state to store durably once every block of `list` is. An empty list changes nothing. The result is the same
    /// whether or not the list was begun here.
    pub fn end_applying(&self, list: &[MetaDiff]) -> Result<Self, NotApplicable> {
        let Some(last) = list.last() else { return Ok(*self) };
        Ok(Self::idle(self.end_of(list)?, last.timestamp()))
    }

    /// Where `list` leads. An empty one leads nowhere from an interrupted apply: that image means nothing.
    pub(super) fn end_of(&self, list: &[MetaDiff]) -> Result<Snapshot, NotApplicable> {
        let mut at = self.at;
        for diff in list {
            at = at.apply(diff).ok_or(NotApplicable::Gap { at, diff: *diff })?;
        }
        match self.target {
            Some(target) if at.begin() < target.begin() => Err(NotApplicable::ShortOfTarget {
                from: self.at,
                reached: at,
                target,
            }),
            _ => Ok(at),
        }
    }

    /// The form with time, as stored and listed: `<|0,1|>-20261122140000`.
    pub fn with_time(&self) -> String {
        format!("{self}-{}", self.timestamp.compact())
    }

    /// Reads either form; `default` is the time if the text has none.
    pub fn parse(text: &str, default: Timestamp) -> Result<Self, ParseError> {
        let bad = || {
            ParseError::new(
                "base state",
                text,
                "<SNAPSHOT> or <SNAPSHOT-->SNAPSHOT> moving forward, optionally followed by -YYYYMMDDhhmmss",
            )
        };
        let rest = text.strip_prefix('<').ok_or_else(bad)?;
        // The arrow also holds a '>', so the closing one is the last.
        let (inner, time) = rest.rsplit_once('>').ok_or_else(bad)?;
        let timestamp = match time.strip_prefix('-') {
            Some(time) => Timestamp::from_compact(time).map_err(|_| bad())?,
            None if time.is_empty() => default,
            None => return Err(bad()),
        };
        match inner.split_once("-->") {
            None => Ok(Self::idle(inner.parse().map_err(|_| bad())?, timestamp)),
            Some((at, target)) => {
                let at = at.parse().map_err(|_| bad())?;
                let target = target.parse().map_err(|_| bad())?;
                Self::applying(at, target, timestamp).ok_or_else(bad)
            }
        }
    }
}

impl PartialEq for BaseState {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.target) == (other.at, other.target)
    }
}

impl Eq for BaseState {}

/// The form without time.
impl fmt::Display for BaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            None => write!(f, "<{}>", self.at),
            Some(target) => write!(f, "<{}-->{target}>", self.at),
        }
    }
}

/// A missing time is read as none; where another default is wanted, use [`BaseState::parse`].
impl FromStr for BaseState {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text, Timestamp::NONE)
    }
}

impl TryFrom<String> for BaseState {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// With time.
impl From<BaseState> for String {
    fn from(state: BaseState) -> String {
        state.with_time()
    }
}

#[cfg(test)]
#[path = "base_state_tests.rs"]
mod tests;
