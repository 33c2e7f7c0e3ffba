//! Random requests against an array of bytes.

use proptest::prelude::*;
use walb_common::types::Lsid;

use super::io::{WAYS, Way};
use super::*;

const BLOCKS: u64 = 256;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64),
    Discard(u64, u64),
    Zeroes(u64, u64),
    Flush,
    Checkpoint,
    Release,
    Restart,
    Crash,
}

fn any_step() -> impl Strategy<Value = Step> {
    let range = || (0..BLOCKS, 1..24u64).prop_map(|(at, len)| (at, len.min(BLOCKS - at)));
    prop_oneof![
        12 => range().prop_map(|(a, l)| Step::Write(a, l)),
        2 => range().prop_map(|(a, l)| Step::Discard(a, l)),
        2 => range().prop_map(|(a, l)| Step::Zeroes(a, l)),
        2 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Release),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

fn run(pbs: PhysicalBlockSize, ring_blocks: u64, way: Way, idle_ms: u32, steps: Vec<Step>) {
    let log_bytes = (u64::from(u32::from(pbs)) * ring_blocks) + 3 * 4096;
    let mut place = Place::new(pbs, log_bytes, BLOCKS * LB_SIZE);
    way.set(&mut place.limits);
    place.limits.thread_idle_ms = idle_ms;
    let mut model = block_of(0, BLOCKS);
    let mut engine = place.open();
    for (n, step) in steps.into_iter().enumerate() {
        let value = u8::try_from(n % 250 + 1).unwrap();
        let bytes = |at: u64, len: u64| (at * LB_SIZE) as usize..((at + len) * LB_SIZE) as usize;
        match step {
            Step::Write(at, len) => {
                let write = if n % 2 == 0 { write } else { write_here };
                write(&engine, at, block_of(value, len)).unwrap();
                model[bytes(at, len)].fill(value);
            }
            Step::Discard(at, len) => {
                let op = IoOp::Discard {
                    offset: at * LB_SIZE,
                    len: len * LB_SIZE,
                    fua: n % 2 == 0,
                };
                submit_and_wait(&*engine, op).unwrap();
                model[bytes(at, len)].fill(0);
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
                model[bytes(at, len)].fill(0);
            }
            Step::Flush if n % 2 == 0 => flush(&engine),
            Step::Flush => drop(here(&engine, vec![IoOp::Flush]).remove(0).unwrap()),
            Step::Checkpoint => engine.checkpoint().unwrap(),
            Step::Release => engine.set_oldest(engine.status().lsids.prev_written).unwrap(),
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
        assert!(read_all(&engine) == model, "after step {n}");
        let l = engine.status().lsids;
        let order = [
            l.oldest,
            l.prev_written,
            l.written,
            l.permanent,
            l.flush,
            l.completed,
            l.latest,
        ];
        assert!(order.is_sorted(), "{l:?}");
    }
    engine.stop();
    let l = engine.status().lsids;
    assert_eq!((l.prev_written, l.written), (l.latest, l.latest));
    drop(engine);
    let on_disk = std::fs::read(place.path("data")).unwrap();
    assert!(
        on_disk == model,
        "after a clean stop the data device holds everything"
    );
    assert_eq!(
        place.open().status().lsids.latest,
        if l.latest == Lsid(0) { Lsid(0) } else { l.latest }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn reads_see_the_newest_write_through_crashes_restarts_and_many_laps_of_the_ring(
        steps in proptest::collection::vec(any_step(), 1..60), large in any::<bool>(), ring in 20..90u64,
        way in proptest::sample::select(&WAYS), idle_ms in proptest::sample::select(&[0, 1, 10_000]),
    ) {
        let pbs = if large { PhysicalBlockSize::B4096 } else { PhysicalBlockSize::B512 };
        run(pbs, ring, way, idle_ms, steps);
    }
}

#[test]
fn requests_outside_the_device_or_unaligned_are_refused() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, BLOCKS * LB_SIZE);
    let engine = place.open();
    assert_eq!(write(&engine, BLOCKS - 1, block_of(1, 2)), Err(IoErrno::ENOSPC));
    let read = |offset, len| submit_and_wait(&*engine, IoOp::Read { offset, len }).unwrap_err();
    assert_eq!(read(BLOCKS * LB_SIZE, 512), IoErrno::EINVAL);
    assert_eq!(read(0, 511), IoErrno::EINVAL);
    assert_eq!(read(u64::MAX - 511, 512), IoErrno::EINVAL);
}

#[test]
fn a_write_larger_than_the_ring_and_the_pending_set_gets_through() {
    let mut place = Place::new(PhysicalBlockSize::B512, 1 << 20, 16 << 20);
    place.limits.pending_max_mib = 1;
    let engine = place.open();
    let data: Vec<u8> = (0..8u32 << 20).map(|n| (n >> 9) as u8 ^ n as u8).collect();
    write(&engine, 100, data.clone()).unwrap();
    let found = read_all(&engine);
    assert!(found[100 * 512..100 * 512 + data.len()] == data);
    assert!(engine.status().overflow, "nobody released the log");
}

#[test]
fn a_device_grows_and_never_shrinks() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, BLOCKS * LB_SIZE);
    let engine = place.open();
    File::options()
        .write(true)
        .open(place.path("data"))
        .unwrap()
        .set_len(2 * BLOCKS * LB_SIZE)
        .unwrap();
    assert!(engine.resize(Some(walb_common::types::Lb(BLOCKS - 1))).is_err());
    assert!(
        engine
            .resize(Some(walb_common::types::Lb(2 * BLOCKS + 1)))
            .is_err()
    );
    engine.resize(None).unwrap();
    write(&engine, 2 * BLOCKS - 1, block_of(9, 1)).unwrap();
    engine.abandon();
    drop(engine);
    let found = read_all(&place.open());
    assert_eq!(
        (found.len() as u64, found[found.len() - 1]),
        (2 * BLOCKS * LB_SIZE, 9)
    );
}

#[test]
fn a_frozen_device_holds_writes_until_it_melts() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, BLOCKS * LB_SIZE);
    let engine = place.open();
    engine.freeze(None).unwrap();
    let before = engine.status().lsids.latest;
    let writer = {
        let engine = Arc::clone(&engine);
        std::thread::spawn(move || write(&engine, 0, block_of(1, 1)))
    };
    engine.checkpoint().unwrap();
    assert!(engine.status().frozen && engine.status().lsids.latest == before);
    engine.melt();
    writer.join().unwrap().unwrap();
    engine.freeze(Some(std::time::Duration::from_millis(20))).unwrap();
    write(&engine, 0, block_of(2, 1)).unwrap();
    assert!(!engine.status().frozen);
}
