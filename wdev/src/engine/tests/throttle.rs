//! The policy `throttle`: no unreleased log is ever overwritten, and nothing but writes waits for it.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::block::{BlockDevice, IoRequest};
use crate::config::OnRingFull;

const BLOCKS: u64 = 256;

fn throttled(pbs: PhysicalBlockSize, ring: u64) -> (Place, Arc<Engine>) {
    let mut place = Place::new(pbs, u64::from(u32::from(pbs)) * ring + 3 * 4096, BLOCKS * LB_SIZE);
    place.limits.on_ring_full = OnRingFull::Throttle;
    let engine = place.open();
    (place, engine)
}

/// Submits writes of `len` blocks until one waits for the ring; gives the answers of all of them.
fn fill(engine: &Arc<Engine>, len: u64) -> mpsc::Receiver<Result<(), IoErrno>> {
    let (sender, answers) = mpsc::channel();
    let mut n = 0;
    while !engine.status().waits_for_ring {
        let op = IoOp::Write {
            offset: n % (BLOCKS / len) * len * LB_SIZE,
            data: block_of(u8::try_from(n % 200 + 1).unwrap(), len).into(),
            fua: false,
        };
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Bytes, IoErrno>| sender.send(result.map(drop)).unwrap());
        engine.submit(IoRequest { op, done });
        n += 1;
        assert!(n < 100_000, "the ring never became full");
        std::thread::yield_now();
    }
    answers
}

#[test]
fn a_full_ring_holds_writes_and_nothing_else_until_log_is_released() {
    for (pbs, ring, len) in [
        (PhysicalBlockSize::B512, 40, 3),
        (PhysicalBlockSize::B4096, 8, 16),
        (PhysicalBlockSize::B512, 2, 1),
        (PhysicalBlockSize::B4096, 3, 30),
    ] {
        let (_place, engine) = throttled(pbs, ring);
        let mut answers = vec![];
        for _ in 0..20 {
            answers.push(fill(&engine, len));
            flush(&engine);
            engine.flush().unwrap();
            read_all(&engine);
            engine.freeze(None).unwrap();
            engine.flush().unwrap();
            engine.melt();
            engine.checkpoint().unwrap();
            let status = engine.status();
            assert!(!status.overflow && status.log_usage_pb <= status.log_capacity_pb);
            engine.set_oldest(status.lsids.prev_written).unwrap();
        }
        engine.reset_log().unwrap();
        answers.push(fill(&engine, len));
        engine.changed().unwrap();
        // Turned away, not written: the log they would need is not theirs to take.
        engine.stop();
        assert!(!engine.status().overflow);
        assert!(
            answers
                .iter()
                .flatten()
                .all(|a| a.is_ok() || a == Err(IoErrno::ESHUTDOWN))
        );
    }
}

#[test]
fn those_who_wait_go_on_when_the_policy_changes_and_fail_when_the_device_is_released() {
    let (_place, engine) = throttled(PhysicalBlockSize::B512, 40);
    let answers = fill(&engine, 5);
    engine.set_on_ring_full(OnRingFull::GoOn);
    // What has waited may just have room, as writes wait for room for the largest. A whole ring more has not.
    for n in 0..8 {
        write(&engine, n * 5, block_of(1, 5)).unwrap();
    }
    flush(&engine);
    assert!(engine.status().overflow && !engine.status().waits_for_ring);
    assert!(answers.try_iter().all(|a| a.is_ok()));
    engine.reset_log().unwrap();
    engine.set_on_ring_full(OnRingFull::Throttle);
    let answers = fill(&engine, 5);
    engine.release_writers();
    let refused = |a: Result<(), IoErrno>| a == Err(IoErrno::ESHUTDOWN);
    while !refused(answers.recv_timeout(Duration::from_mins(1)).unwrap()) {}
}
