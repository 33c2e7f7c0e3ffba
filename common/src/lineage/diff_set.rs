use std::collections::BTreeMap;

use super::{BaseState, MetaDiff, NotApplicable, Snapshot};
use crate::types::Gid;

/// Sorted by begin gid first, which is what every choice looks candidates up by.
type Key = (Snapshot, Snapshot);

/// The diffs held for one volume. They may overlap (originals and merge results); no two have equal begin and end.
///
/// Choices never search the whole set at each step: the gids of a chain only grow, so one sweep over the begin gids
/// finds every candidate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffSet {
    diffs: BTreeMap<Key, MetaDiff>,
}

/// A diff whose flag changed; its file has to be renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagChange {
    /// As it was.
    pub old: MetaDiff,
    /// As it is.
    pub new: MetaDiff,
}

/// No diff starts at a gid: it names the newest snapshot, none at all, or one swallowed by a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no diff starts at gid {gid}: expected the gid of a snapshot that is neither merged away nor the newest"
)]
pub struct NoSuchSnapshot {
    /// The gid asked for.
    pub gid: Gid,
}

impl DiffSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self {
            diffs: BTreeMap::new(),
        }
    }

    /// Adds a diff; returns the one with equal begin and end it replaces. (That one's file, if named differently, has to
    /// go.)
    pub fn insert(&mut self, diff: MetaDiff) -> Option<MetaDiff> {
        self.diffs.insert(key(&diff), diff)
    }

    /// Removes the diff with the begin and end of `diff`.
    pub fn remove(&mut self, diff: &MetaDiff) -> Option<MetaDiff> {
        self.diffs.remove(&key(diff))
    }

    /// The diff between two snapshots.
    pub fn get(&self, begin: Snapshot, end: Snapshot) -> Option<&MetaDiff> {
        self.diffs.get(&(begin, end))
    }

    /// Whether a diff with the begin and end of `diff` is held.
    pub fn contains(&self, diff: &MetaDiff) -> bool {
        self.diffs.contains_key(&key(diff))
    }

    /// Every diff, by begin snapshot, then end snapshot.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MetaDiff> + ExactSizeIterator {
        self.diffs.values()
    }

    /// How many diffs are held.
    pub fn len(&self) -> usize {
        self.diffs.len()
    }

    /// Whether no diff is held.
    pub fn is_empty(&self) -> bool {
        self.diffs.is_empty()
    }

    /// Removes every diff.
    pub fn clear(&mut self) {
        self.diffs.clear();
    }

    /// Diffs that start at or after `gid`, in order.
    pub(super) fn starting_from(&self, gid: Gid) -> impl Iterator<Item = &MetaDiff> {
        self.diffs.range(first_key(gid)..).map(|(_, diff)| diff)
    }

    /// Diffs that start exactly at `gid`, in order.
    pub fn starting_at(&self, gid: Gid) -> impl Iterator<Item = &MetaDiff> {
        self.starting_from(gid)
            .take_while(move |d| d.begin().begin() == gid)
    }

    /// The applicable list from `from`: at each step the diff that reaches farthest.
    pub fn chain(&self, from: Snapshot) -> Vec<MetaDiff> {
        self.chain_while(from, |_, _| true)
    }

    /// The applicable list from `from` up to the largest reachable snapshot whose begin gid is not beyond `limit`.
    pub fn chain_by_gid(&self, from: Snapshot, limit: Gid) -> Vec<MetaDiff> {
        self.chain_while(from, |_, reached| reached.begin() <= limit)
    }

    /// The applicable list from `from` for as long as `goes_on(diff, the snapshot it leads to)`.
    ///
    /// It is asked about the best candidate only: with limit gid 4 and the diffs `|0|-->|5|` and `|0|-->|3|` the list is
    /// empty. So every such list is a prefix of [`DiffSet::chain`].
    pub fn chain_while(
        &self,
        from: Snapshot,
        mut goes_on: impl FnMut(&MetaDiff, Snapshot) -> bool,
    ) -> Vec<MetaDiff> {
        let mut list = Vec::new();
        let mut at = from;
        let mut ahead = self.diffs.values().peekable();
        // The best log diff that starts at or before `at`. Older ones that it beats never come back: they end earlier.
        let mut best_log: Option<&MetaDiff> = None;
        loop {
            let mut best_compared: Option<&MetaDiff> = None;
            while let Some(diff) = ahead.next_if(|d| d.begin().begin() <= at.begin()) {
                if !diff.is_compared() {
                    best_log = Some(better(best_log, diff));
                } else if diff.can_apply_to(at) {
                    best_compared = Some(better(best_compared, diff));
                }
            }
            let best_log_here = best_log.filter(|d| d.can_apply_to(at));
            let Some(best) = best_log_here
                .into_iter()
                .chain(best_compared)
                .max_by_key(|d| d.preference())
            else {
                return list;
            };
            let reached = at.apply(best).expect("chosen among the applicable");
            if !goes_on(best, reached) {
                return list;
            }
            list.push(*best);
            at = reached;
        }
    }

    /// The diffs that have to be applied together before the image means anything again: none when idle. An error means
    /// that a diff of an interrupted apply is lost.
    ///
    /// This is the shortest prefix of the chain that reaches the target. It may pass the target, when a diff that covers
    /// more has arrived since.
    pub fn minimum(&self, base: &BaseState) -> Result<Vec<MetaDiff>, NotApplicable> {
        let Some(target) = base.target() else {
            return Ok(Vec::new());
        };
        let mut at = base.snapshot();
        let list = self.chain_while(base.snapshot(), |_, reached| {
            let short = at.begin() < target.begin();
            at = reached;
            short
        });
        base.end_of(&list)?;
        Ok(list)
    }

    /// The newest state reachable from `base`. An error means that a diff of an interrupted apply is lost.
    pub fn latest(&self, base: &BaseState) -> Result<BaseState, NotApplicable> {
        let chain = self.chain(base.snapshot());
        base.end_of(&chain)?;
        base.end_applying(&chain)
    }

    /// Makes the snapshots at `gids` explicit or implicit, all of them or none. Returns the diffs that changed.
    pub fn set_explicit(&mut self, gids: &[Gid], explicit: bool) -> Result<Vec<FlagChange>, NoSuchSnapshot> {
        if let Some(gid) = gids.iter().find(|gid| self.starting_at(**gid).next().is_none()) {
            return Err(NoSuchSnapshot { gid: *gid });
        }
        let mut changes = Vec::new();
        for gid in gids {
            let old: Vec<MetaDiff> = self.starting_at(*gid).copied().collect();
            for old in old.into_iter().filter(|d| d.is_mergeable() == explicit) {
                let new = old.with_mergeable(!explicit);
                self.insert(new);
                changes.push(FlagChange { old, new });
            }
        }
        Ok(changes)
    }
}

impl FromIterator<MetaDiff> for DiffSet {
    fn from_iter<I: IntoIterator<Item = MetaDiff>>(diffs: I) -> Self {
        let mut set = Self::new();
        set.extend(diffs);
        set
    }
}

impl Extend<MetaDiff> for DiffSet {
    fn extend<I: IntoIterator<Item = MetaDiff>>(&mut self, diffs: I) {
        self.diffs.extend(diffs.into_iter().map(|d| (key(&d), d)));
    }
}

fn key(diff: &MetaDiff) -> Key {
    (diff.begin(), diff.end())
}

/// Not beyond the key of any diff that starts at `gid` or later.
fn first_key(gid: Gid) -> Key {
    (Snapshot::clean(gid), Snapshot::clean(Gid(0)))
}

/// The one of two candidates to prefer.
pub(super) fn better<'a>(best: Option<&'a MetaDiff>, diff: &'a MetaDiff) -> &'a MetaDiff {
    best.filter(|best| best.preference() >= diff.preference())
        .unwrap_or(diff)
}

#[cfg(test)]
#[path = "diff_set_tests.rs"]
mod tests;
