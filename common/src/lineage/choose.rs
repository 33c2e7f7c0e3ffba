//! Lists of diffs chosen for a purpose: restore, apply, merge, send, remove.

use super::diff_set::better;
use super::{BaseState, DiffSet, MetaDiff, NotApplicable, Snapshot};
use crate::types::{Gid, Timestamp, Uuid};

/// A clean snapshot that can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restorable {
    /// Its gid.
    pub gid: Gid,
    /// Its time.
    pub timestamp: Timestamp,
    /// Whether it was asked for, so that it stays. The snapshot of the base image itself is never counted as such.
    pub explicit: bool,
}

/// How far a merge goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeUntil {
    /// While the input files have at most so many bytes together; the first is always taken.
    Size(u64),
    /// Up to the first diff that starts at or beyond this gid.
    Gid(Gid),
}

/// How much may be sent as one diff. The first file always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeLimits {
    /// Bytes of all input files together.
    pub bytes: u64,
    /// Number of input files.
    pub files: usize,
}

/// Fewer than two diffs would be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("There is no mergeable diff")]
pub struct NoMergeableDiff;

impl DiffSet {
    /// The clean snapshots that can be restored, oldest first: the one of the base, the explicit ones and the newest; or
    /// every clean one if `all`.
    pub fn restorable(&self, base: &BaseState, all: bool) -> Result<Vec<Restorable>, NotApplicable> {
        let chain = self.chain(base.snapshot());
        let minimum = self.minimum(base)?.len();
        let start = base.end_applying(&chain[..minimum])?;
        let mut found = Vec::new();
        let mut output = |at: Snapshot, timestamp, explicit, listed| {
            if at.is_clean() && listed {
                found.push(Restorable {
                    gid: at.begin(),
                    timestamp,
                    explicit,
                });
            }
        };
        let mut at = start.snapshot();
        output(at, start.timestamp(), false, true);
        for (i, diff) in chain.iter().enumerate().skip(minimum) {
            at = at.apply(diff).expect("a chain is applicable");
            let explicit = chain.get(i + 1).is_none_or(|next| !next.is_mergeable());
            output(at, diff.timestamp(), explicit, explicit || all);
        }
        Ok(found)
    }

    /// The diffs that make the image of `gid` from the base; `None` if there is no such snapshot (or, if `must_be_clean`,
    /// only a dirty one). Restores want it clean, scans need not.
    pub fn materialise(&self, base: &BaseState, gid: Gid, must_be_clean: bool) -> Option<Vec<MetaDiff>> {
        let list = self.chain_by_gid(base.snapshot(), gid);
        // Fails for a list shorter than the minimum of an interrupted apply.
        let reached = base
            .end_applying(&list)
            .ok()
            .filter(|s| !s.is_applying())?
            .snapshot();
        (reached.begin() == gid && (reached.is_clean() || !must_be_clean)).then_some(list)
    }

    /// The diffs to apply next to move the base to the largest reachable snapshot not beyond `gid`: at most `max_files`,
    /// but always enough to complete an interrupted apply. Empty when there is nothing to do.
    pub fn apply_list(
        &self,
        base: &BaseState,
        gid: Gid,
        max_files: usize,
    ) -> Result<Vec<MetaDiff>, NotApplicable> {
        let minimum = self.minimum(base)?;
        let mut list = self.chain_by_gid(base.snapshot(), gid);
        list.truncate(max_files.max(1));
        Ok(if list.len() < minimum.len() { minimum } else { list })
    }

    /// Every diff that merges into one, starting from the first at or after `gid`: at each step the mergeable one that
    /// reaches farthest.
    pub(super) fn longest_merge(&self, gid: Gid) -> Vec<MetaDiff> {
        let Some(first_gid) = self.starting_from(gid).next().map(|d| d.begin().begin()) else {
            return Vec::new();
        };
        let Some(first) = self
            .starting_at(first_gid)
            .fold(None, |best, diff| Some(better(best, diff)))
        else {
            return Vec::new();
        };
        let mut list = vec![*first];
        let mut merged = *first;
        let mut ahead = self.starting_from(first_gid).peekable();
        let mut best: Option<&MetaDiff> = None;
        loop {
            while let Some(diff) = ahead.next_if(|d| d.begin().begin() <= merged.end().begin()) {
                if diff.is_mergeable() && !diff.is_compared() {
                    best = Some(better(best, diff));
                }
            }
            let Some((next, longer)) = best.and_then(|d| Some((d, merged.merge(d)?))) else {
                return list;
            };
            list.push(*next);
            merged = longer;
        }
    }

    /// The diffs to merge into one, starting from the first at or after `gid`; at least two.
    pub fn merge_list(&self, gid: Gid, until: MergeUntil) -> Result<Vec<MetaDiff>, NoMergeableDiff> {
        let mut list = self.longest_merge(gid);
        match until {
            MergeUntil::Size(bytes) => cut_to_limits(
                &mut list,
                MergeLimits {
                    bytes,
                    files: usize::MAX,
                },
            ),
            MergeUntil::Gid(end) => {
                let n = list.iter().take_while(|d| d.begin().begin() < end).count();
                list.truncate(n);
            }
        }
        if list.len() < 2 {
            return Err(NoMergeableDiff);
        }
        Ok(list)
    }

    /// The diffs a proxy sends next, merged into one: the oldest ones, all of one storage uuid. `uuid_of` reads it from
    /// the file; it is asked in order, and not beyond the first that differs.
    pub fn proxy_send_list<E>(
        &self,
        limits: MergeLimits,
        mut uuid_of: impl FnMut(&MetaDiff) -> Result<Uuid, E>,
    ) -> Result<Vec<MetaDiff>, E> {
        let mut list = self.longest_merge(Gid(0));
        cut_to_limits(&mut list, limits);
        let Some((first, rest)) = list.split_first() else {
            return Ok(list);
        };
        let uuid = uuid_of(first)?;
        let mut same = 1;
        for diff in rest {
            if uuid_of(diff)? != uuid {
                break;
            }
            same += 1;
        }
        list.truncate(same);
        Ok(list)
    }

    /// The diffs an archive sends next to another that stands at `destination`, merged into one.
    pub fn replication_send_list(&self, destination: Snapshot, limits: MergeLimits) -> Vec<MetaDiff> {
        let mut list = self.chain(destination);
        let Some(first) = list.first() else { return list };
        let mut merged = *first;
        let mut n = 1;
        while let Some(longer) = list.get(n).and_then(|next| merged.merge(next)) {
            merged = longer;
            n += 1;
        }
        list.truncate(n);
        cut_to_limits(&mut list, limits);
        list
    }

    /// What an apply up to `gid` made superfluous: diffs that end at or before it.
    pub fn garbage_before(&self, gid: Gid) -> Vec<MetaDiff> {
        self.iter()
            .take_while(|d| d.begin().begin() < gid)
            .filter(|d| d.end().begin() <= gid)
            .copied()
            .collect()
    }

    /// What a diff received between two gids made superfluous: those within, except the one with exactly these begin
    /// gids.
    pub fn garbage_in_range(&self, begin: Gid, end: Gid) -> Vec<MetaDiff> {
        self.starting_from(begin)
            .take_while(|d| d.begin().begin() < end)
            .filter(|d| d.end().begin() <= end)
            .filter(|d| (d.begin().begin(), d.end().begin()) != (begin, end))
            .copied()
            .collect()
    }

    /// Every diff the chain from the base does not use.
    pub fn garbage_full(&self, base: &BaseState) -> Vec<MetaDiff> {
        let used: Self = self.chain(base.snapshot()).into_iter().collect();
        self.iter().filter(|d| !used.contains(d)).copied().collect()
    }
}

fn cut_to_limits(list: &mut Vec<MetaDiff>, limits: MergeLimits) {
    let mut sum = 0_u64;
    let n = list
        .iter()
        .take_while(|d| {
            sum = sum.saturating_add(d.size());
            sum <= limits.bytes
        })
        .count();
    list.truncate(n.min(limits.files).max(1));
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
