//! What has changed, as the engine tells it. Method: every change is recorded beside the engine, with the log position at
//! which it ended; after any history of writes, releases, resets, growth, crashes and restarts, over many laps of the ring,
//! exactly the chunks recorded since the base are told.

use proptest::prelude::*;
use walb_common::types::{Lb, Lsid, Uuid};

use super::*;
use crate::block::BlockDevice;
use crate::chunk_set::chunk_for;
use crate::client::{Changed, ChangedChunks, Refusal};
use crate::engine::changed_path;

const BLOCKS: u64 = 600;

fn known(engine: &Engine) -> ChangedChunks {
    match engine.changed().unwrap() {
        Changed::Known(chunks) => chunks,
        Changed::Unknown { reason } => panic!("unknown: {reason}"),
    }
}

fn unknown(engine: &Engine) -> String {
    match engine.changed().unwrap() {
        Changed::Known(chunks) => panic!("known: {chunks:?}"),
        Changed::Unknown { reason } => reason,
    }
}

/// What was done to a device.
struct Record {
    /// `(nth log, twice the lsid it ended at, first block, blocks)`; growth comes just behind a write that ended there.
    changes: Vec<(usize, u64, u64, u64)>,
    logs: Vec<Uuid>,
    base: (usize, Lsid),
    /// Ends of packs of the present log.
    ends: Vec<Lsid>,
}

impl Record {
    fn add(&mut self, engine: &Engine, at: u64, len: u64) {
        let end = engine.status().lsids.completed;
        self.changes.push((self.logs.len() - 1, 2 * end.0, at, len));
        self.ends.push(end);
    }

    fn expected(&self, size: Lb) -> ChangedChunks {
        let (log, lsid) = self.base;
        let chunk = chunk_for(size).0;
        let since = self.changes.iter().filter(|c| (c.0, c.1) > (log, 2 * lsid.0));
        let runs: Vec<_> = since
            .map(|&(_, _, at, len)| (at / chunk, (at + len - 1) / chunk - at / chunk + 1))
            .collect();
        ChangedChunks::of_ranges((self.logs[log], lsid), size, &runs)
    }

    fn check(&self, engine: &Engine) {
        let size = engine.status().size;
        let expected = self.expected(size);
        assert_eq!(known(engine), expected);
        let extents = engine.dirty(0, engine.size(), usize::MAX).unwrap();
        let mut at = 0;
        let mut told: Vec<(u64, u64)> = vec![];
        for extent in extents {
            if extent.dirty {
                told.push((at, extent.len));
            }
            at += extent.len;
        }
        assert_eq!(at, engine.size());
        let blocks: Vec<_> = expected
            .blocks()
            .map(|(at, len)| (at.bytes(), len.bytes()))
            .collect();
        assert_eq!(told, blocks, "block status");
        assert!(engine.status().changed_bytes.is_some());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64),
    Discard(u64, u64),
    Zeroes(u64, u64),
    Checkpoint,
    /// Of the checkpointed pack ends, this one.
    Release(prop::sample::Index),
    Reset,
    Forget,
    Grow(u64),
    Restart,
    Crash,
}

fn any_step() -> impl Strategy<Value = Step> {
    let range = || (0..BLOCKS, 1..40u64).prop_map(|(at, len)| (at, len.min(BLOCKS - at)));
    prop_oneof![
        30 => range().prop_map(|(a, l)| Step::Write(a, l)),
        3 => range().prop_map(|(a, l)| Step::Discard(a, l)),
        3 => range().prop_map(|(a, l)| Step::Zeroes(a, l)),
        3 => Just(Step::Checkpoint),
        5 => any::<prop::sample::Index>().prop_map(Step::Release),
        2 => Just(Step::Reset),
        1 => Just(Step::Forget),
        1 => (1..900u64).prop_map(Step::Grow),
        2 => Just(Step::Restart),
        3 => Just(Step::Crash),
    ]
}

fn run(pbs: PhysicalBlockSize, ring_blocks: u64, steps: Vec<Step>) {
    let log_bytes = (u64::from(u32::from(pbs)) * ring_blocks) + 3 * 4096;
    let mut place = Place::new(pbs, log_bytes, BLOCKS * LB_SIZE);
    // Released log that is overwritten could otherwise be a base for longer than its headers last.
    place.limits.log_tail_mib = 0;
    let mut engine = place.open();
    let mut record = Record {
        changes: vec![],
        logs: vec![engine.status().uuid],
        base: (0, Lsid(0)),
        ends: vec![],
    };
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write(at, len) => {
                write(&engine, at, block_of(7, len)).unwrap();
                record.add(&engine, at, len);
            }
            Step::Discard(at, len) => {
                let (offset, len_bytes) = (at * LB_SIZE, len * LB_SIZE);
                let op = IoOp::Discard {
                    offset,
                    len: len_bytes,
                    fua: n % 2 == 0,
                };
                submit_and_wait(&*engine, op).unwrap();
                record.add(&engine, at, len);
            }
            Step::Zeroes(at, len) => {
                let (offset, len_bytes) = (at * LB_SIZE, len * LB_SIZE);
                let op = IoOp::WriteZeroes {
                    offset,
                    len: len_bytes,
                    fua: n % 2 == 0,
                    no_hole: n % 3 == 0,
                };
                submit_and_wait(&*engine, op).unwrap();
                record.add(&engine, at, len);
            }
            Step::Checkpoint => engine.checkpoint().unwrap(),
            Step::Release(index) => {
                let written = engine.status().lsids.prev_written;
                let ends: Vec<_> = record.ends.iter().filter(|e| **e <= written).collect();
                if ends.is_empty() {
                    continue;
                }
                let lsid = *ends[index.index(ends.len())];
                // Below the oldest, or overwritten: nobody can release that.
                match engine.set_oldest(lsid) {
                    Ok(()) if lsid > engine.status().lsids.oldest || lsid > Lsid(0) => {
                        record.base = record.base.max((record.logs.len() - 1, lsid));
                    }
                    Ok(()) | Err(Refusal::Bad { .. }) => {}
                    Err(refusal) => panic!("{refusal}"),
                }
            }
            Step::Reset => {
                engine.reset_log().unwrap();
                record.logs.push(engine.status().uuid);
                record.ends.clear();
            }
            Step::Forget => {
                engine.forget_changed().unwrap();
                record.base = record.base.max((record.logs.len() - 1, Lsid(0)));
            }
            Step::Grow(by) => {
                let size = engine.status().size.0;
                let file = File::options().write(true).open(place.path("data")).unwrap();
                file.set_len((size + by) * LB_SIZE).unwrap();
                engine.resize(None).unwrap();
                let at = 2 * engine.status().lsids.completed.0 + 1;
                record.changes.push((record.logs.len() - 1, at, size, by));
            }
            Step::Restart => {
                engine.stop();
                drop(engine);
                engine = place.open();
            }
            Step::Crash => {
                engine.abandon();
                drop(engine);
                engine = place.open();
            }
        }
        record.check(&engine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn exactly_what_changed_since_the_base_is_told_through_laps_resets_growth_and_crashes(
        steps in proptest::collection::vec(any_step(), 1..80), large in any::<bool>(), ring in 20..90u64,
    ) {
        let pbs = if large { PhysicalBlockSize::B4096 } else { PhysicalBlockSize::B512 };
        run(pbs, ring, steps);
    }
}

/// A device over whose ring the log went several times; writes went to the first blocks only.
fn overflowed(place: &Place) -> Arc<Engine> {
    let engine = place.open();
    for n in 0..200 {
        write(&engine, n % 64, block_of(7, 3)).unwrap();
    }
    assert!(engine.status().overflow);
    engine
}

fn small_place() -> Place {
    let mut place = Place::new(PhysicalBlockSize::B512, 64 << 10, BLOCKS * LB_SIZE);
    place.limits.log_tail_mib = 0;
    place
}

#[test]
fn a_damaged_or_foreign_file_is_never_taken_for_no_changes() {
    let place = small_place();
    let engine = overflowed(&place);
    let told = known(&engine);
    engine.stop();
    drop(engine);
    let path = changed_path(&place.path("state"));
    let good = std::fs::read(&path).unwrap();
    let wrong = |what: &str, bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let engine = place.open();
        let reason = unknown(&engine);
        assert!(engine.status().overflow && !reason.is_empty());
        assert!(engine.dirty(0, 512, 1).is_none());
        assert_eq!(engine.status().changed_bytes, None);
        assert!(engine.status().changed_problem.is_some(), "{what}");
        engine.abandon();
    };
    for at in (0..good.len()).step_by(good.len() / 40 + 1) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        wrong(&format!("byte {at}"), &bytes);
    }
    wrong("empty", b"");
    wrong("half", &good[..good.len() / 2]);
    std::fs::remove_file(&path).unwrap();
    let engine = place.open();
    unknown(&engine);
    engine.abandon();
    drop(engine);
    std::fs::write(&path, &good).unwrap();
    let engine = place.open();
    assert_eq!(known(&engine), told);
    // The file of another device.
    engine.stop();
    drop(engine);
    let other = small_place();
    let engine = overflowed(&other);
    engine.abandon();
    drop(engine);
    std::fs::write(changed_path(&other.path("state")), good).unwrap();
    unknown(&other.open());
}

#[test]
fn where_it_cannot_be_stored_writes_go_on_and_the_reason_is_told_until_log_is_released() {
    let place = small_place();
    // A directory where the temporary file should be: it cannot be written.
    let path = changed_path(&place.path("state"));
    std::fs::create_dir(format!("{path}.tmp")).unwrap();
    let engine = overflowed(&place);
    known(&engine);
    let problem = engine.status().changed_problem.unwrap();
    assert!(problem.contains("cannot be stored"), "{problem}");
    engine.abandon();
    drop(engine);
    std::fs::remove_dir(format!("{path}.tmp")).unwrap();
    let engine = place.open();
    let reason = unknown(&engine);
    assert!(reason.contains("lsid 0"), "{reason}");
    // From a release on, the log tells it again.
    write(&engine, 1, block_of(1, 1)).unwrap();
    engine.checkpoint().unwrap();
    let oldest = engine.status().lsids.prev_written;
    engine.set_oldest(oldest).unwrap();
    write(&engine, 100, block_of(1, 1)).unwrap();
    let told = known(&engine);
    assert_eq!(
        (told.base_lsid, told.blocks().collect::<Vec<_>>()),
        (oldest, vec![(Lb(96), Lb(8))])
    );
    assert_eq!(engine.status().changed_problem, None);
}

#[test]
fn a_reset_that_cannot_store_it_says_so_by_another_base() {
    let place = small_place();
    let engine = place.open();
    write(&engine, 0, block_of(1, 1)).unwrap();
    engine.checkpoint().unwrap();
    engine.set_oldest(engine.status().lsids.prev_written).unwrap();
    let base = known(&engine).base_lsid;
    write(&engine, 9, block_of(1, 1)).unwrap();
    let path = changed_path(&place.path("state"));
    std::fs::create_dir(format!("{path}.tmp")).unwrap();
    engine.reset_log().unwrap();
    // While the device runs, it knows.
    assert_eq!(known(&engine).base_lsid, base);
    assert!(engine.status().changed_problem.is_some());
    engine.abandon();
    drop(engine);
    let engine = place.open();
    let told = known(&engine);
    assert_eq!((told.base_uuid, told.base_lsid), (engine.status().uuid, Lsid(0)));
    assert_eq!(told.bytes(), 0);
}

#[test]
fn a_file_that_cannot_be_read_after_a_reset_leaves_it_unknown_until_it_is_forgotten() {
    let place = small_place();
    let engine = place.open();
    write(&engine, 0, block_of(1, 1)).unwrap();
    engine.reset_log().unwrap();
    engine.stop();
    drop(engine);
    std::fs::write(changed_path(&place.path("state")), b"WALBCHG1 something else").unwrap();
    let engine = place.open();
    let reason = unknown(&engine);
    assert!(reason.contains("state.changed is not usable"), "{reason}");
    engine.forget_changed().unwrap();
    assert_eq!(known(&engine).bytes(), 0);
}
