//! Goal: what the algebra says about snapshots is true of the blocks. Method: a volume of 16 blocks, a random history of
//! writes, diffs made of it by the two rules diffs come about by, and every operation done on metadata and data alike.
//!
//! Rule 1: a log diff from where the archive stands to any later gid. Rule 2: what differs between the archive's image
//! and a scan of the live volume between two later gids (a hash backup).

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fixture::snap;
use super::{BaseState, DiffSet, MetaDiff, Snapshot};
use crate::types::{Gid, Timestamp};

pub const BLOCKS: usize = 16;
pub type Image = [u64; BLOCKS];
pub type Blocks = BTreeMap<usize, u64>;

/// The gid of an instant is the number of writes before it; write number i puts i + 1 into one block, or, so that blocks
/// can also return to an old value, 1.
#[derive(Debug, Clone)]
pub struct History(pub Vec<(usize, bool)>);

impl History {
    fn value(&self, write: usize) -> u64 {
        if self.0[write].1 { 1 } else { write as u64 + 1 }
    }

    pub fn image_at(&self, gid: Gid) -> Image {
        let mut image = [0; BLOCKS];
        for (block, value) in self.log(Gid(0), gid) {
            image[block] = value;
        }
        image
    }

    pub fn log(&self, from: Gid, to: Gid) -> Blocks {
        let n = |gid: Gid| usize::try_from(gid.0).unwrap().min(self.0.len());
        (n(from)..n(to)).map(|i| (self.0[i].0, self.value(i))).collect()
    }

    /// A scan: each block at some instant of the snapshot.
    pub fn scan(&self, at: Snapshot, instants: &[u64; BLOCKS]) -> Image {
        let width = at.end().0 - at.begin().0 + 1;
        std::array::from_fn(|block| self.image_at(Gid(at.begin().0 + instants[block] % width))[block])
    }

    /// Whether every block of the image shows an instant of the snapshot.
    pub fn conforms(&self, image: &Image, at: Snapshot) -> bool {
        let instants: Vec<Image> = (at.begin().0..=at.end().0)
            .map(|g| self.image_at(Gid(g)))
            .collect();
        (0..BLOCKS).all(|block| instants.iter().any(|i| i[block] == image[block]))
    }
}

pub fn applied(image: &Image, diff: &Blocks) -> Image {
    let mut image = *image;
    for (block, value) in diff {
        image[*block] = *value;
    }
    image
}

/// The blocks in which `newer` differs from `older`.
pub fn changed(older: &Image, newer: &Image) -> Blocks {
    let differ = (0..BLOCKS).filter(|b| newer[*b] != older[*b]);
    differ.map(|b| (b, newer[b])).collect()
}

pub fn merged(older: &Blocks, newer: &Blocks) -> Blocks {
    let mut all = older.clone();
    all.extend(newer);
    all
}

/// Snapshots and images s0, s1 ... and the diffs between neighbours.
#[derive(Debug, Clone)]
struct Lineage {
    history: History,
    snapshots: Vec<Snapshot>,
    images: Vec<Image>,
    diffs: Vec<(MetaDiff, Blocks)>,
}

#[derive(Debug, Clone)]
enum Step {
    Log {
        length: u64,
    },
    Hash {
        gap: u64,
        width: u64,
        instants: [u64; BLOCKS],
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u64..8).prop_map(|length| Step::Log { length }),
        1 => (1_u64..4, 1_u64..6, any::<[u64; BLOCKS]>())
            .prop_map(|(gap, width, instants)| Step::Hash { gap, width, instants }),
    ]
}

fn any_lineage() -> impl Strategy<Value = Lineage> {
    (
        prop::collection::vec((0..BLOCKS, prop::bool::weighted(0.2)), 0..60),
        0_u64..8,
        any::<[u64; BLOCKS]>(),
        prop::collection::vec(any_step(), 1..9),
    )
        .prop_map(|(writes, dirt, instants, steps)| build(History(writes), dirt, &instants, steps))
}

fn build(history: History, dirt: u64, instants: &[u64; BLOCKS], steps: Vec<Step>) -> Lineage {
    let mut at = Snapshot::new(Gid(0), Gid(dirt)).unwrap();
    let mut image = history.scan(at, instants);
    let (mut snapshots, mut images, mut diffs) = (vec![at], vec![image], vec![]);
    for step in steps {
        let (meta, blocks) = match step {
            Step::Log { length } => {
                let to = Gid(at.begin().0 + length);
                let meta = MetaDiff::new(Snapshot::clean(at.begin()), Snapshot::clean(to)).unwrap();
                (meta, history.log(at.begin(), to))
            }
            Step::Hash { gap, width, instants } => {
                let begin = at.end().0 + gap;
                let to = Snapshot::new(Gid(begin), Gid(begin + width)).unwrap();
                let blocks = changed(&image, &history.scan(to, &instants));
                (MetaDiff::new(at, to).unwrap(), blocks)
            }
        };
        let meta = meta.with_timestamp(Timestamp(meta.end().begin().0));
        at = at.apply(&meta).expect("the rules make applicable diffs");
        image = applied(&image, &blocks);
        snapshots.push(at);
        images.push(image);
        diffs.push((meta, blocks));
    }
    Lineage {
        history,
        snapshots,
        images,
        diffs,
    }
}

impl Lineage {
    /// The merge of the diffs `range`, metadata and data.
    fn merge(&self, range: std::ops::Range<usize>) -> (MetaDiff, Blocks) {
        let list = &self.diffs[range];
        let metas: Vec<MetaDiff> = list.iter().map(|d| d.0).collect();
        let meta = MetaDiff::merge_all(&metas).expect("neighbours merge");
        let blocks = list.iter().fold(Blocks::new(), |all, d| merged(&all, &d.1));
        (meta, blocks)
    }
}

/// Where to cut the lineage into merged pieces: a cut before diff i iff `cuts[i]`.
fn pieces(lineage: &Lineage, cuts: &[bool]) -> Vec<(MetaDiff, Blocks)> {
    let n = lineage.diffs.len();
    let mut starts: Vec<usize> = (0..n).filter(|i| *i == 0 || cuts[*i % cuts.len()]).collect();
    starts.push(n);
    starts.windows(2).map(|w| lineage.merge(w[0]..w[1])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn images_show_what_their_snapshots_say(lineage in any_lineage()) {
        for (image, at) in lineage.images.iter().zip(&lineage.snapshots) {
            prop_assert!(lineage.history.conforms(image, *at), "{at}");
        }
    }

    #[test]
    fn the_end_of_a_snapshot_never_goes_back(lineage in any_lineage()) {
        prop_assert!(lineage.snapshots.is_sorted_by_key(|s| s.end()));
        prop_assert!(lineage.snapshots.is_sorted_by_key(|s| s.begin()));
    }

    #[test]
    fn applying_one_after_the_other_equals_applying_their_merge(lineage in any_lineage()) {
        // Originals and everything merged of neighbours: pairs that adjoin and pairs that overlap.
        let n = lineage.diffs.len();
        let all: Vec<_> = (0..n).flat_map(|i| (i + 1..=n).map(move |k| i..k)).map(|r| lineage.merge(r)).collect();
        for (s, image) in lineage.snapshots.iter().zip(&lineage.images) {
            for (x, x_data) in &all {
                let Some(once) = s.apply(x) else { continue };
                for (y, y_data) in &all {
                    let (Some(twice), Some(merge)) = (once.apply(y), x.merge(y)) else { continue };
                    prop_assert_eq!(s.apply(&merge), Some(twice), "{} {} {}", s, x, y);
                    let in_turn = applied(&applied(image, x_data), y_data);
                    let at_once = applied(image, &merged(x_data, y_data));
                    prop_assert_eq!(in_turn, at_once);
                    let reached = lineage.snapshots.iter().position(|t| *t == twice);
                    prop_assert_eq!(Some(in_turn), reached.map(|i| lineage.images[i]), "{} {} {}", s, x, y);
                }
            }
        }
    }

    #[test]
    fn only_neighbours_merge_and_only_the_next_diff_applies(lineage in any_lineage()) {
        for (i, (d, _)) in lineage.diffs.iter().enumerate() {
            for (j, (e, _)) in lineage.diffs.iter().enumerate() {
                prop_assert_eq!(d.can_merge(e), j == i + 1, "{} {}", d, e);
            }
            for (j, s) in lineage.snapshots.iter().enumerate() {
                prop_assert_eq!(d.can_apply_to(*s), i == j, "{} {}", s, d);
            }
        }
    }

    #[test]
    fn a_merged_diff_leads_from_all_it_covers_to_the_same_end(lineage in any_lineage()) {
        for i in 0..lineage.diffs.len() {
            for k in i + 1..=lineage.diffs.len() {
                let (meta, blocks) = lineage.merge(i..k);
                for (j, s) in lineage.snapshots.iter().enumerate() {
                    let expected = (i..k).contains(&j).then(|| lineage.snapshots[k]);
                    prop_assert_eq!(s.apply(&meta), expected, "{} {}", s, meta);
                    if expected.is_some() {
                        prop_assert_eq!(applied(&lineage.images[j], &blocks), lineage.images[k]);
                    }
                }
            }
        }
    }

    #[test]
    fn an_interrupted_apply_can_always_be_completed_whatever_merges_since(
        lineage in any_lineage(),
        from in any::<prop::sample::Index>(),
        length in any::<prop::sample::Index>(),
        torn in any::<[bool; BLOCKS]>(),
        cuts in prop::collection::vec(any::<bool>(), 9),
    ) {
        let n = lineage.diffs.len();
        let from = from.index(n);
        let to = from + 1 + length.index(n - from);
        let list: Vec<MetaDiff> = lineage.diffs[from..to].iter().map(|d| d.0).collect();
        let begun = BaseState::idle(lineage.snapshots[from], Timestamp::NONE).begin_applying(&list).unwrap();
        prop_assert_eq!(begun.target(), Some(lineage.snapshots[to]));
        let image: Image =
            std::array::from_fn(|b| lineage.images[if torn[b] { to } else { from }][b]);

        let pieces = pieces(&lineage, &cuts);
        let held: DiffSet = pieces.iter().map(|p| p.0).collect();
        let minimum = held.minimum(&begun).unwrap();
        let ended = begun.end_applying(&minimum).unwrap();
        let reached = lineage.snapshots.iter().position(|s| *s == ended.snapshot());
        prop_assert!(reached.is_some_and(|i| i >= to), "{}", ended);
        let blocks = minimum.iter().map(|d| &pieces.iter().find(|p| p.0 == *d).unwrap().1);
        prop_assert_eq!(blocks.fold(image, |i, b| applied(&i, b)), lineage.images[reached.unwrap()]);
    }

    #[test]
    fn what_is_listed_as_restorable_is_restored_exactly(
        lineage in any_lineage(),
        cuts in prop::collection::vec(any::<bool>(), 9),
    ) {
        // Originals and merged ones together: overlaps.
        let all: Vec<_> = pieces(&lineage, &cuts).into_iter().chain(lineage.diffs.iter().cloned()).collect();
        let held: DiffSet = all.iter().map(|d| d.0).collect();
        let base = BaseState::idle(lineage.snapshots[0], Timestamp::NONE);
        for restorable in held.restorable(&base, true).unwrap() {
            let list = held.materialise(&base, restorable.gid, true).expect("listed");
            let blocks = list.iter().map(|d| &all.iter().find(|p| p.0.is_same_as(d)).unwrap().1);
            let image = blocks.fold(lineage.images[0], |i, b| applied(&i, b));
            prop_assert_eq!(image, lineage.history.image_at(restorable.gid));
        }
        let latest = held.latest(&base).unwrap();
        prop_assert_eq!(latest.snapshot(), *lineage.snapshots.last().unwrap());
    }

    #[test]
    fn choices_equal_those_of_a_search_of_the_whole_set(
        picked in prop::collection::vec((0_u64..20, 0_u64..3, 1_u64..8, 0_u64..3, any::<bool>(), 0..4), 0..40),
        at in 0_u64..20,
    ) {
        let held: DiffSet = picked
            .iter()
            .filter_map(|(b, dirt_b, length, dirt_e, mergeable, compared)| {
                let begin = Snapshot::new(Gid(*b), Gid(b + dirt_b)).unwrap();
                let end = Snapshot::new(Gid(b + length), Gid(b + length + dirt_e)).unwrap();
                let diff = MetaDiff::new(begin, end).ok()?;
                Some(diff.with_mergeable(*mergeable).with_compared(*compared == 0))
            })
            .collect();

        let mut expected = Vec::new();
        let mut now = Snapshot::clean(Gid(at));
        while let Some(best) = held.iter().filter(|d| d.can_apply_to(now)).max_by_key(|d| d.preference()) {
            expected.push(*best);
            now = now.apply(best).unwrap();
        }
        prop_assert_eq!(held.chain(Snapshot::clean(Gid(at))), &expected[..]);

        let mut expected = Vec::new();
        if let Some(start) = held.iter().map(|d| d.begin().begin()).find(|g| *g >= Gid(at)) {
            let mut running = *held.starting_at(start).max_by_key(|d| d.preference()).unwrap();
            expected.push(running);
            while let Some(best) = held.iter().filter(|d| running.can_merge(d)).max_by_key(|d| d.preference()) {
                expected.push(*best);
                running = running.merge(best).unwrap();
            }
        }
        prop_assert_eq!(held.longest_merge(Gid(at)), expected);
    }
}

/// Every snapshot with gids below 5, every pair of diffs between such: not only what the rules make.
#[test]
fn merging_then_applying_equals_applying_in_order() {
    let snapshots: Vec<Snapshot> = (0..5)
        .flat_map(|b| (b..5).map(move |e| Snapshot::new(Gid(b), Gid(e)).unwrap()))
        .collect();
    let diffs: Vec<MetaDiff> = snapshots
        .iter()
        .flat_map(|b| snapshots.iter().filter_map(|e| MetaDiff::new(*b, *e).ok()))
        .collect();
    let mut checked = 0;
    for x in &diffs {
        for y in &diffs {
            let Some(merged) = x.merge(y) else { continue };
            for s in &snapshots {
                let Some((once, twice)) = s.apply(x).and_then(|t| Some((t, t.apply(y)?))) else {
                    continue;
                };
                let at_once = s.apply(&merged).expect("applicable where the first is");
                assert_eq!(at_once.begin(), twice.begin(), "{s} {x} {y}");
                // A dirty diff is made for a snapshot no dirtier than its begin. Otherwise merging may keep more dirt
                // than there is, never less.
                let fits = |s: Snapshot, d: &MetaDiff| d.is_clean() || s.end() <= d.begin().end();
                if fits(*s, x) && fits(once, y) {
                    assert_eq!(at_once, twice, "{s} {x} {y}");
                } else {
                    assert!(at_once.end() >= twice.end(), "{s} {x} {y}");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}

/// Exactly so where dirty diffs are made for what comes before them, as both rules do; elsewhere the known dirt may differ.
#[test]
fn merging_is_associative() {
    let all: Vec<MetaDiff> = [
        "|0|", "|0,3|", "|1|", "|1,4|", "|2|", "|3|", "|3,5|", "|4|", "|5|",
    ]
    .iter()
    .flat_map(|b| ["|1|", "|2|", "|2,6|", "|3|", "|4|", "|5,8|", "|7|"].map(|e| (snap(b), snap(e))))
    .filter_map(|(b, e)| MetaDiff::new(b, e).ok())
    .collect();
    for x in &all {
        for y in &all {
            for z in &all {
                let left = x.merge(y).and_then(|xy| xy.merge(z));
                let right = y.merge(z).and_then(|yz| x.merge(&yz));
                let (Some(left), Some(right)) = (left, right) else {
                    continue;
                };
                let fits =
                    |d: &MetaDiff, before: &MetaDiff| d.is_clean() || before.end().end() <= d.begin().end();
                if fits(y, x) && fits(z, x) && fits(z, y) {
                    assert_eq!(left, right, "{x} {y} {z}");
                }
                assert_eq!(
                    (left.begin(), left.end().begin()),
                    (right.begin(), right.end().begin())
                );
            }
        }
    }
}
