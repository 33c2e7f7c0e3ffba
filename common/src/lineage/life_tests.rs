//! Goal: whatever happens to an archive - overlaps, doubles, merges, snapshots enabled and disabled, an apply that broke
//! off anywhere, a lost file, a hash backup over the gap - what it lists as restorable it restores exactly, and what was
//! to be kept is kept. Method: a life at random, on metadata and data alike, and every promise checked after every step.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::block_model::{BLOCKS, Blocks, History, Image, applied, changed, merged};
use super::{BaseState, DiffSet, MergeUntil, MetaDiff, Relation, Snapshot};
use crate::types::{Gid, Timestamp};

#[derive(Debug, Clone)]
enum Event {
    /// The volume's log goes on by so many gids; the snapshot where it starts may be an explicit one.
    Log {
        length: u64,
        explicit: bool,
    },
    /// The same, but lost on the way: nothing comes after it until a hash backup.
    LostOnTheWay {
        length: u64,
    },
    /// A proxy sends again, merging what it has sent already.
    Again {
        from: Index,
        count: usize,
    },
    /// A hash backup from where the archive stands.
    Hash {
        gap: u64,
        width: u64,
        instants: [u64; BLOCKS],
    },
    /// A merge, by gid or by number of files; a crash may leave its inputs.
    Merge {
        from: Index,
        until: Option<Index>,
        files: u64,
        inputs_stay: bool,
    },
    /// An apply; `torn` tells which blocks were written if it breaks off, `ended` whether its end was stored.
    Apply {
        gid: Index,
        max_files: usize,
        torn: Option<[bool; BLOCKS]>,
        garbage_stays: bool,
    },
    /// A start of the archive.
    Collect,
    Enable {
        gid: Index,
        explicit: bool,
    },
    /// A diff's file is gone.
    LoseFile {
        which: Index,
    },
}

fn any_event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        8 => (1_u64..5, prop::bool::weighted(0.3)).prop_map(|(length, explicit)| Event::Log { length, explicit }),
        1 => (1_u64..4).prop_map(|length| Event::LostOnTheWay { length }),
        3 => (index(), 1_usize..5).prop_map(|(from, count)| Event::Again { from, count }),
        2 => (1_u64..3, 1_u64..5, any::<[u64; BLOCKS]>())
            .prop_map(|(gap, width, instants)| Event::Hash { gap, width, instants }),
        4 => (index(), prop::option::of(index()), 2_u64..6, any::<bool>())
            .prop_map(|(from, until, files, inputs_stay)| Event::Merge { from, until, files, inputs_stay }),
        4 => (index(), 1_usize..5, prop::option::of(any::<[bool; BLOCKS]>()), any::<bool>())
            .prop_map(|(gid, max_files, torn, garbage_stays)| Event::Apply { gid, max_files, torn, garbage_stays }),
        2 => Just(Event::Collect),
        2 => (index(), any::<bool>()).prop_map(|(gid, explicit)| Event::Enable { gid, explicit }),
        1 => index().prop_map(|which| Event::LoseFile { which }),
    ]
}

/// An archive, and the world that sends to it.
struct Life {
    history: History,
    base: BaseState,
    image: Image,
    held: DiffSet,
    data: BTreeMap<(Snapshot, Snapshot), Blocks>,
    /// Where the next log diff starts.
    sent: Gid,
    /// What a proxy may send again: the log diffs since the last backup.
    log: Vec<(MetaDiff, Blocks)>,
}

impl Life {
    fn new(history: History, dirt: u64, instants: &[u64; BLOCKS]) -> Self {
        let at = Snapshot::new(Gid(0), Gid(dirt)).unwrap();
        Self {
            image: history.scan(at, instants),
            history,
            base: BaseState::idle(at, Timestamp(1)),
            held: DiffSet::new(),
            data: BTreeMap::new(),
            sent: Gid(0),
            log: vec![],
        }
    }

    /// The archive's image after a list of its diffs.
    fn after(&self, list: &[MetaDiff]) -> Image {
        let blocks = list.iter().map(|d| &self.data[&(d.begin(), d.end())]);
        blocks.fold(self.image, |image, blocks| applied(&image, blocks))
    }

    /// What an archive does with a diff that comes: only what leads on from its latest snapshot is taken.
    fn receive(&mut self, diff: MetaDiff, blocks: Blocks) {
        let Ok(latest) = self.held.latest(&self.base) else {
            return;
        };
        if diff.relation(latest.snapshot()) == Relation::Applicable {
            self.held.insert(diff.with_size(1));
            self.data.insert((diff.begin(), diff.end()), blocks);
        }
    }

    fn remove(&mut self, list: &[MetaDiff]) {
        for diff in list {
            self.held.remove(diff);
            self.data.remove(&(diff.begin(), diff.end()));
        }
    }

    /// A gid at which something may start or end.
    fn pick(&self, index: Index) -> Gid {
        let mut gids = vec![self.base.snapshot().begin()];
        gids.extend(
            self.held
                .iter()
                .flat_map(|d| [d.begin().begin(), d.end().begin()]),
        );
        *index.get(&gids)
    }

    fn live(&mut self, event: &Event) {
        match event {
            Event::Log { length, explicit } => {
                let (from, to) = (self.sent, Gid(self.sent.0 + length));
                let diff = MetaDiff::new(Snapshot::clean(from), Snapshot::clean(to)).unwrap();
                let diff = diff.with_mergeable(!explicit).with_timestamp(Timestamp(to.0));
                let blocks = self.history.log(from, to);
                self.sent = to;
                self.log.push((diff, blocks.clone()));
                self.receive(diff, blocks);
            }
            Event::LostOnTheWay { length } => {
                self.sent.0 += length;
                self.log.clear();
            }
            Event::Again { from, count } => {
                if self.log.is_empty() {
                    return;
                }
                // A proxy does not know what was made explicit, or not, at the archive since. What it sends again could
                // contradict that; here it does not, as the promises below are those of the algebra alone.
                let flag = |d: &MetaDiff| {
                    let there = self.held.starting_at(d.begin().begin()).next();
                    there.unwrap_or(d).is_mergeable()
                };
                let from = from.index(self.log.len());
                let (mut diff, mut blocks) = self.log[from].clone();
                diff = diff.with_mergeable(flag(&diff));
                for (next, more) in self.log[from + 1..].iter().take(count - 1) {
                    let Some(longer) = diff.merge(next).filter(|_| flag(next)) else {
                        break;
                    };
                    (diff, blocks) = (longer, merged(&blocks, more));
                }
                self.receive(diff, blocks);
            }
            Event::Hash { gap, width, instants } => {
                let Ok(latest) = self.held.latest(&self.base) else {
                    return;
                };
                let from = latest.snapshot();
                let image = self.after(&self.held.chain(self.base.snapshot()));
                let begin = from.end().max(self.sent).0 + gap;
                let to = Snapshot::new(Gid(begin), Gid(begin + width)).unwrap();
                let diff = MetaDiff::new(from, to).unwrap().with_mergeable(!from.is_clean());
                let blocks = changed(&image, &self.history.scan(to, instants));
                // A new life of the log: what proxies still hold of the old one is refused by its uuid.
                self.sent = to.begin();
                self.log.clear();
                self.receive(diff, blocks);
            }
            Event::Merge {
                from,
                until,
                files,
                inputs_stay,
            } => {
                let until = match until {
                    Some(gid) => MergeUntil::Gid(self.pick(*gid)),
                    None => MergeUntil::Size(*files),
                };
                let Ok(list) = self.held.merge_list(self.pick(*from), until) else {
                    return;
                };
                let diff = MetaDiff::merge_all(&list).expect("what is chosen can be merged");
                let blocks = list.iter().fold(Blocks::new(), |all, d| {
                    merged(&all, &self.data[&(d.begin(), d.end())])
                });
                if !inputs_stay {
                    self.remove(&list);
                }
                self.held.insert(diff.with_size(1));
                self.data.insert((diff.begin(), diff.end()), blocks);
            }
            Event::Apply {
                gid,
                max_files,
                torn,
                garbage_stays,
            } => {
                let Ok(list) = self.held.apply_list(&self.base, self.pick(*gid), *max_files) else {
                    return;
                };
                let done = self.after(&list);
                self.base = self
                    .base
                    .begin_applying(&list)
                    .expect("what is chosen is applicable");
                if let Some(torn) = torn {
                    // Any block may be as it was or as it will be.
                    self.image = std::array::from_fn(|b| if torn[b] { done[b] } else { self.image[b] });
                    return;
                }
                self.image = done;
                self.base = self.base.end_applying(&list).expect("it was begun");
                if !garbage_stays {
                    self.remove(&self.held.garbage_before(self.base.snapshot().begin()));
                }
            }
            Event::Collect => self.remove(&self.held.garbage_full(&self.base)),
            Event::Enable { gid, explicit } => {
                let gid = self.pick(*gid);
                let starts = self.held.starting_at(gid).next().is_some();
                assert_eq!(self.held.set_explicit(&[gid], *explicit).is_ok(), starts);
            }
            Event::LoseFile { which } => {
                let all: Vec<MetaDiff> = self.held.iter().copied().collect();
                if !all.is_empty() {
                    self.remove(&[*which.get(&all)]);
                }
            }
        }
    }

    /// The listed snapshots somebody asked for: a diff that starts there says so. (The newest is listed for being the
    /// newest; and where diffs overlap, one may be listed because the next diff, from before it, must not be merged.)
    fn kept(&self) -> Vec<Gid> {
        let listed = self.held.restorable(&self.base, false).unwrap_or_default();
        let explicit = listed.iter().filter(|r| r.explicit).map(|r| r.gid);
        explicit
            .filter(|gid| self.held.starting_at(*gid).any(|d| !d.is_mergeable()))
            .collect()
    }

    /// Everything listed is restored exactly, and the newest state is what it says.
    fn check(&self) -> Result<(), TestCaseError> {
        let Ok(all) = self.held.restorable(&self.base, true) else {
            return Ok(());
        };
        for restorable in &all {
            let list = self.held.materialise(&self.base, restorable.gid, true);
            let list = list.expect("what is listed can be made");
            let image = self.after(&list);
            prop_assert_eq!(image, self.history.image_at(restorable.gid), "{}", restorable.gid);
        }
        let short = self.held.restorable(&self.base, false).unwrap();
        prop_assert!(short.iter().all(|r| all.contains(r)));
        let latest = self.held.latest(&self.base).unwrap().snapshot();
        let image = self.after(&self.held.chain(self.base.snapshot()));
        prop_assert!(self.history.conforms(&image, latest), "{latest}");
        // Whatever is applied next, nothing else than what is there now comes of it.
        let minimum = self.held.minimum(&self.base).unwrap();
        prop_assert!(self.base.can_apply(&minimum) || minimum.is_empty());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn an_archive_keeps_its_promises_whatever_happens(
        writes in prop::collection::vec((0..BLOCKS, prop::bool::weighted(0.2)), 0..60),
        dirt in 0_u64..8,
        instants in any::<[u64; BLOCKS]>(),
        events in prop::collection::vec(any_event(), 1..40),
    ) {
        let mut life = Life::new(History(writes), dirt, &instants);
        for event in &events {
            let kept = life.kept();
            let interrupted = life.base.is_applying() && life.held.minimum(&life.base).is_ok();
            life.live(event);
            life.check()?;
            if matches!(event, Event::LoseFile { .. }) {
                continue;
            }
            if interrupted {
                prop_assert!(life.held.minimum(&life.base).is_ok(), "it can still be completed after {event:?}");
            }
            if matches!(event, Event::Enable { explicit: false, .. }) {
                continue;
            }
            let now: Vec<Gid> = life.held.restorable(&life.base, false).unwrap_or_default().iter().map(|r| r.gid).collect();
            let passed = life.base.target().unwrap_or(life.base.snapshot()).begin();
            for gid in kept {
                prop_assert!(gid <= passed || now.contains(&gid), "snapshot {gid} is gone after {event:?}");
            }
        }
    }
}
