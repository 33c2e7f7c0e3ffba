//! What a storage does next with a volume's log: where to mark snapshots, what to send, what to remember, what to erase.
//!
//! Pure functions over values. The task that owns a volume reads the device's lsids and its own records, asks here,
//! acts, and stores what comes out.
//!
//! ```text
//!  device log   |==== delivered ====|~~~~ to send ~~~~|~~~~ to send ~~~~|....  latest
//!                                 done             queue[0]          queue[1]
//!  diff                             |--- done.gid -> queue[0].gid ---|
//! ```
//!
//! Invariants: lsids and gids never decrease along `done`, queue\[0\], queue\[1\] ...; gids grow strictly. An explicit
//! snapshot always ends a diff, exactly at its gid. Between two neighbours there are enough gids for every split at the
//! transfer limit, unless packs leave the limit badly used; then one transfer may exceed it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walb_common::lineage::{DiffError, MetaDiff, Snapshot};
use walb_common::types::{Gid, Lsid, Timestamp};
use walb_wdev::client::Lsids;

/// A point of the log with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsidGid {
    /// Every write before this lsid is in.
    pub lsid: Lsid,
    /// The name of the point.
    pub gid: Gid,
    /// Whether the diff that starts here may be merged away; `false` marks an explicit snapshot.
    pub mergeable: bool,
    /// When it was marked.
    pub timestamp: Timestamp,
}

/// No snapshot can be marked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefused {
    /// Continuity is lost; only a backup makes a new beginning.
    #[error("the log has overflowed: no snapshot until a backup")]
    Overflowed,
    /// The device's log is not the one the records are about.
    #[error(
        "the log ends at lsid {latest}: expected at least {previous}, where the last snapshot was marked"
    )]
    LogWentBack {
        /// Where the log ends.
        latest: Lsid,
        /// Where it was once before.
        previous: Lsid,
    },
    /// The numbers are used up.
    #[error("no gid is left after {previous}")]
    NoGidLeft {
        /// The last gid.
        previous: Gid,
    },
}

/// The record of a new snapshot at the end of the log, to be made durable and then put last in the queue.
///
/// The gid leaves room for the intermediate gids that are needed when it takes several transfers of at most `max_pb` to
/// get there.
pub fn take_snapshot(
    done: &LsidGid,
    queue: &[LsidGid],
    latest: Lsid,
    overflowed: bool,
    max_pb: u64,
    mergeable: bool,
    now: Timestamp,
) -> Result<LsidGid, SnapshotRefused> {
    let previous = queue.last().unwrap_or(done);
    if overflowed {
        return Err(SnapshotRefused::Overflowed);
    }
    let Some(distance) = latest.0.checked_sub(previous.lsid.0) else {
        return Err(SnapshotRefused::LogWentBack {
            latest,
            previous: previous.lsid,
        });
    };
    // Gid::MAX stands for "none yet".
    let gid = previous
        .gid
        .0
        .checked_add(1)
        .and_then(|gid| gid.checked_add(distance / max_pb.max(1)))
        .filter(|gid| *gid < Gid::MAX.0)
        .ok_or(SnapshotRefused::NoGidLeft {
            previous: previous.gid,
        })?;
    Ok(LsidGid {
        lsid: latest,
        gid: Gid(gid),
        mergeable,
        timestamp: now,
    })
}

/// Whether a queue record is not newer than what is delivered, and so can be dropped.
pub fn is_delivered(done: &LsidGid, record: &LsidGid) -> bool {
    record.lsid < done.lsid || (record.lsid == done.lsid && record.gid <= done.gid)
}

/// The limits a storage is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest transfer, in physical blocks; at least 1.
    pub max_pb: u64,
    /// Least seconds between two implicit snapshots while others are waiting.
    pub snapshot_interval: u64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Take an implicit snapshot (mergeable), store it, and ask again.
    TakeSnapshot,
    /// Send.
    Send(Transfer),
    /// Nothing can be sent now. Look again when the device reports something new, and after this time if there is one.
    Wait(Option<Duration>),
    /// The device's log ends before what the records name: it is not the log they are about, and no waiting helps. Only
    /// a reset and a backup do.
    LogWentBack {
        /// Where the log ends.
        latest: Lsid,
        /// Where it was once before.
        recorded: Lsid,
    },
}

/// One transfer to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Where it starts: what is delivered.
    pub done: LsidGid,
    /// The snapshot it leads to, or towards.
    pub end: LsidGid,
    /// Send packs that end here or before. Everything before it is permanent.
    pub limit: Lsid,
}

impl Transfer {
    /// Its largest size in physical blocks, announced to the proxy.
    pub fn max_pb(&self) -> u64 {
        self.limit.0.saturating_sub(self.done.lsid.0)
    }
}

/// Decides what to do next. `queue` is oldest first; records that are delivered already are passed over.
pub fn choose_transfer(
    done: &LsidGid,
    queue: &[LsidGid],
    lsids: &Lsids,
    limits: Limits,
    now: Timestamp,
) -> Next {
    let recorded = queue.last().map_or(done.lsid, |r| r.lsid.max(done.lsid));
    if recorded > lsids.latest {
        return Next::LogWentBack {
            latest: lsids.latest,
            recorded,
        };
    }
    let waiting = &queue[queue.iter().take_while(|r| is_delivered(done, r)).count()..];
    let wait = Next::Wait(check_again_after(done, lsids, limits.max_pb));
    let Some(newest) = waiting.last() else {
        return if lsids.permanent > done.lsid {
            Next::TakeSnapshot
        } else {
            wait
        };
    };
    let age = now.0.saturating_sub(newest.timestamp.0);
    if newest.lsid < lsids.latest && age >= limits.snapshot_interval {
        return Next::TakeSnapshot;
    }
    let full = Lsid(done.lsid.0.saturating_add(limits.max_pb));
    // Implicit snapshots that fit one transfer collapse into one diff; an explicit one ends the diff.
    let mut chosen = 0;
    while waiting[chosen].mergeable
        && waiting
            .get(chosen + 1)
            .is_some_and(|next| next.lsid <= full && next.lsid <= lsids.permanent)
    {
        chosen += 1;
    }
    let end = waiting[chosen];
    let no_gid_between = chosen == 0 && end.gid == done.gid.next();
    let limit = if no_gid_between {
        end.lsid
    } else {
        full.min(end.lsid)
    };
    if lsids.permanent < limit {
        return wait;
    }
    Next::Send(Transfer {
        done: *done,
        end,
        limit,
    })
}

/// When to look again, if only time will tell: while some log is not yet permanent, or delivered but not yet erasable.
fn check_again_after(done: &LsidGid, lsids: &Lsids, max_pb: u64) -> Option<Duration> {
    if lsids.latest > lsids.permanent {
        return Some(next_check_delay(
            lsids.latest.0.saturating_sub(done.lsid.0),
            max_pb,
        ));
    }
    (lsids.oldest < done.lsid).then_some(CHECK_DELAY_MAX)
}

const CHECK_DELAY_MAX: Duration = Duration::from_secs(1);

/// How long to wait for log to become permanent: the sooner the more there is. 1000 ms up to a tenth of the transfer
/// limit, 100 ms from half of it, linear in between.
pub fn next_check_delay(remaining_pb: u64, max_pb: u64) -> Duration {
    let (remaining, max) = (u128::from(remaining_pb), u128::from(max_pb.max(1)));
    let tenths = (remaining * 10).clamp(max, max * 5);
    // 1000 - 900 * (share - 1/10) / (4/10), in milliseconds; the share of the limit runs from 1/10 to 5/10 here.
    let passed = 900 * (tenths - max) / (max * 4);
    CHECK_DELAY_MAX.saturating_sub(Duration::from_millis(u64::try_from(passed).unwrap_or(900)))
}

/// A transfer did not end where one can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not even one pack fits.
    #[error("the log pack at lsid {at} does not end by {limit}: it is larger than a transfer may be")]
    PackTooLarge {
        /// Where the pack starts.
        at: Lsid,
        /// Where it had to end.
        limit: Lsid,
    },
    /// It ended outside its own range.
    #[error("a transfer ended at lsid {reached}: expected it between {from} and {limit}")]
    OutOfRange {
        /// Where it ended.
        reached: Lsid,
        /// Where it started.
        from: Lsid,
        /// Where it had to end.
        limit: Lsid,
    },
    /// The records contradict each other.
    #[error("a transfer from gid {from} to gid {to} goes nowhere")]
    NoProgress {
        /// The gid of what was delivered.
        from: Gid,
        /// The gid to be reached.
        to: Gid,
        /// The rule broken.
        #[source]
        source: DiffError,
    },
}

/// What a transfer makes of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The diff sent to the proxy after the packs.
    pub diff: MetaDiff,
    /// What is delivered, to be stored only when the proxy has acknowledged.
    pub done: LsidGid,
}

/// The outcome of a transfer whose last pack ended at `reached`.
pub fn after_transfer(transfer: &Transfer, reached: Lsid) -> Result<Outcome, TransferError> {
    let Transfer { done, end, limit } = *transfer;
    if reached < done.lsid || reached > limit {
        return Err(TransferError::OutOfRange {
            reached,
            from: done.lsid,
            limit,
        });
    }
    let complete = reached == end.lsid;
    if !complete && reached == done.lsid {
        return Err(TransferError::PackTooLarge { at: reached, limit });
    }
    let next = if complete {
        end
    } else {
        LsidGid {
            lsid: reached,
            gid: done.gid.next(),
            mergeable: true,
            timestamp: done.timestamp,
        }
    };
    let diff = MetaDiff::new(Snapshot::clean(done.gid), Snapshot::clean(next.gid))
        .map_err(|source| TransferError::NoProgress {
            from: done.gid,
            to: next.gid,
            source,
        })?
        .with_mergeable(done.mergeable)
        .with_timestamp(end.timestamp);
    Ok(Outcome { diff, done: next })
}

/// What may be erased from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What is not delivered.
    Undelivered {
        /// What is delivered ends here.
        done: Lsid,
    },
    /// Nothing: a standby's log is thrown away.
    Nothing,
}

/// Where the log may start from now on, if that is later than it does. Never beyond what the last checkpoint recorded as
/// written: after a crash the device redoes from there, and must find its log.
pub fn erase_to(keep: Keep, lsids: &Lsids, overflowed: bool) -> Option<Lsid> {
    if overflowed {
        return None;
    }
    let to = match keep {
        Keep::Undelivered { done } => done.min(lsids.prev_written),
        Keep::Nothing => lsids.prev_written,
    };
    (to > lsids.oldest).then_some(to)
}

#[cfg(test)]
mod tests;
