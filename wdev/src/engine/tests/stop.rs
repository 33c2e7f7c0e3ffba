//! The end of a device, and of a freeze.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use walb_common::types::Lsid;

use super::*;
use crate::block::{BlockDevice, IoRequest};

#[test]
fn a_stop_finishes_a_request_of_which_a_part_is_logged() {
    // A ring so small that the request takes many batches.
    let place = Place::new(PhysicalBlockSize::B512, 100 << 10, 4096 * LB_SIZE);
    let engine = place.open();
    let (sender, answer) = mpsc::channel();
    let op = IoOp::Write {
        offset: 0,
        data: Bytes::from(block_of(7, 4096)),
        fua: true,
    };
    let done = Box::new(move |result| sender.send(result).unwrap());
    engine.submit(IoRequest { op, done });
    while engine.status().lsids.latest == Lsid(0) {
        std::thread::yield_now();
    }
    // Between two batches.
    engine.freeze(None).unwrap();
    engine.stop();
    assert_eq!(answer.recv().unwrap(), Ok(Bytes::new()));
    drop(engine);
    assert!(read_all(&place.open()) == block_of(7, 4096));
}

#[test]
fn a_checkpoint_that_a_timed_freeze_held_back_follows_by_itself() {
    let mut place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    place.limits.checkpoint_interval_ms = 100;
    let engine = place.open();
    write(&engine, 0, block_of(1, 1)).unwrap();
    engine.freeze(Some(Duration::from_millis(300))).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while engine.status().lsids.prev_written != Lsid(2) {
        assert!(Instant::now() < until, "{:?}", engine.status());
        std::thread::yield_now();
    }
}
