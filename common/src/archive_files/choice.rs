use crate::lineage::{BaseState, DiffSet, MetaDiff, NotApplicable, Restorable, Snapshot};
use crate::types::{Gid, Timestamp};

/// A snapshot that can be restored, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What the base image shows.
    pub base: BaseState,
    /// The snapshot.
    pub gid: Gid,
    /// Its time.
    pub timestamp: Timestamp,
    /// The diffs to lay over the base image, in this order.
    pub diffs: Vec<MetaDiff>,
}

/// Why a snapshot cannot be restored, and which ones near it can.
#[derive(Debug, thiserror::Error)]
pub enum NotRestorable {
    /// Nothing can: a diff of an interrupted apply is missing.
    #[error("no snapshot can be restored: the base image is {base}, and a diff on that way is missing")]
    Nothing {
        /// What the base image shows.
        base: BaseState,
        /// How far the diffs lead.
        #[source]
        source: NotApplicable,
    },
    /// There is no clean snapshot at all.
    #[error(
        "no snapshot can be restored: the base image is {base}, the diffs lead to {latest}, and nothing on that way is clean"
    )]
    NothingClean {
        /// What the base image shows.
        base: BaseState,
        /// How far the diffs lead.
        latest: Snapshot,
    },
    /// The base image is beyond it.
    #[error("gid {gid} cannot be restored: the base image is {base} already; the oldest is gid {oldest}")]
    TooOld {
        /// What was asked for.
        gid: Gid,
        /// What the base image shows.
        base: BaseState,
        /// The oldest there is.
        oldest: Gid,
    },
    /// The diffs do not lead there.
    #[error("gid {gid} cannot be restored: {why}; the newest is gid {newest}")]
    TooNew {
        /// What was asked for.
        gid: Gid,
        /// Where the diffs end.
        why: String,
        /// The newest there is.
        newest: Gid,
    },
    /// It lies between two that can.
    #[error("gid {gid} cannot be restored: {why}; the nearest are gid {before} and gid {after}")]
    Between {
        /// What was asked for.
        gid: Gid,
        /// Why there is none.
        why: String,
        /// The one before.
        before: Gid,
        /// The one after.
        after: Gid,
    },
    /// All are later than a time.
    #[error("nothing at or before {time} can be restored: the oldest is gid {oldest} of {of}")]
    TooEarly {
        /// What was asked for.
        time: Timestamp,
        /// The oldest there is.
        oldest: Gid,
        /// Its time.
        of: Timestamp,
    },
}

impl Choice {
    /// The snapshots that can be restored, oldest first, at least one.
    pub fn list(base: &BaseState, diffs: &DiffSet) -> Result<Vec<Restorable>, NotRestorable> {
        let nothing = |source| NotRestorable::Nothing { base: *base, source };
        let list = diffs.restorable(base, true).map_err(nothing)?;
        if list.is_empty() {
            let latest = diffs.latest(base).map_err(nothing)?.snapshot();
            return Err(NotRestorable::NothingClean { base: *base, latest });
        }
        Ok(list)
    }

    /// The way to the snapshot `gid`.
    pub fn of_gid(base: &BaseState, diffs: &DiffSet, gid: Gid) -> Result<Self, NotRestorable> {
        let list = Self::list(base, diffs)?;
        let found = list.iter().find(|r| r.gid == gid);
        match found.zip(diffs.materialise(base, gid, true)) {
            Some((found, way)) => Ok(Self {
                base: *base,
                gid,
                timestamp: found.timestamp,
                diffs: way,
            }),
            None => Err(Self::why_not(base, diffs, gid, &list)),
        }
    }

    /// The way to the newest snapshot.
    pub fn newest(base: &BaseState, diffs: &DiffSet) -> Result<Self, NotRestorable> {
        let list = Self::list(base, diffs)?;
        let newest = list.last().expect("at least one");
        Self::of_gid(base, diffs, newest.gid)
    }

    /// The way to the newest snapshot taken at or before `time`.
    pub fn at_time(base: &BaseState, diffs: &DiffSet, time: Timestamp) -> Result<Self, NotRestorable> {
        let list = Self::list(base, diffs)?;
        match list.iter().rev().find(|r| r.timestamp <= time) {
            Some(found) => Self::of_gid(base, diffs, found.gid),
            None => Err(NotRestorable::TooEarly {
                time,
                oldest: list[0].gid,
                of: list[0].timestamp,
            }),
        }
    }

    fn why_not(base: &BaseState, diffs: &DiffSet, gid: Gid, list: &[Restorable]) -> NotRestorable {
        let before = list.iter().rev().find(|r| r.gid < gid).map(|r| r.gid);
        let after = list.iter().find(|r| r.gid > gid).map(|r| r.gid);
        match (before, after) {
            (None, oldest) => NotRestorable::TooOld {
                gid,
                base: *base,
                oldest: oldest.unwrap_or(gid),
            },
            (Some(newest), None) => {
                let why = beyond(base, diffs, gid);
                NotRestorable::TooNew { gid, why, newest }
            }
            (Some(before), Some(after)) => {
                let why = passed_over(base, diffs, gid);
                NotRestorable::Between {
                    gid,
                    why,
                    before,
                    after,
                }
            }
        }
    }
}

/// Why the diffs do not lead to `gid`, which is beyond everything restorable.
fn beyond(base: &BaseState, diffs: &DiffSet, gid: Gid) -> String {
    let Ok(latest) = diffs.latest(base).map(|latest| latest.snapshot()) else {
        return "the diffs do not lead on".to_owned();
    };
    let next = diffs.iter().find(|d| d.begin().begin() > latest.begin());
    match next {
        Some(next) if next.begin().begin() <= gid => format!(
            "no diff leads from gid {} to gid {}, where the next one starts",
            latest.begin(),
            next.begin().begin()
        ),
        _ if latest.begin() >= gid => format!("there the image is only {latest}, not clean"),
        _ => format!("the diffs lead to {latest}"),
    }
}

/// Why `gid`, between two that can be restored, cannot.
fn passed_over(base: &BaseState, diffs: &DiffSet, gid: Gid) -> String {
    let mut at = base.snapshot();
    for diff in diffs.chain(at) {
        let Some(next) = at.apply(&diff) else { break };
        if next.begin() == gid {
            return format!("there the image is only {next}, not clean");
        }
        if next.begin() > gid {
            return format!("no snapshot ends there, {} passes over it", diff.file_name());
        }
        at = next;
    }
    "no snapshot ends there".to_owned()
}
