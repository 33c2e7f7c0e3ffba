//! The ways in which an engine does its IO. What it does must not depend on them; that it takes the way it was told is
//! counted here.

use std::sync::mpsc;

use super::*;
use crate::block::{BlockDevice, IoRequest};
use crate::config::{IoEngine, LogDirect};

/// A way.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    io: IoEngine,
    log_direct: LogDirect,
    data_direct: bool,
}

/// All of them that differ.
pub const WAYS: [Way; 8] = [
    way(IoEngine::Threads, LogDirect::Never, false),
    way(IoEngine::Threads, LogDirect::Always, false),
    way(IoEngine::Threads, LogDirect::Always, true),
    way(IoEngine::Threads, LogDirect::Auto, true),
    way(IoEngine::IoUring, LogDirect::Never, false),
    way(IoEngine::IoUring, LogDirect::Always, false),
    way(IoEngine::IoUring, LogDirect::Always, true),
    way(IoEngine::IoUring, LogDirect::Auto, false),
];

const fn way(io: IoEngine, log_direct: LogDirect, data_direct: bool) -> Way {
    Way {
        io,
        log_direct,
        data_direct,
    }
}

impl Way {
    pub fn set(self, limits: &mut Limits) {
        limits.io = self.io;
        limits.log_direct = self.log_direct;
        limits.log_cached_after = 1;
        limits.data_direct = self.data_direct;
    }
}

/// Submits all of them, then waits.
fn at_once(engine: &Engine, ops: Vec<IoOp>) -> Vec<Bytes> {
    let (sender, receiver) = mpsc::channel();
    let count = ops.len();
    for (index, op) in ops.into_iter().enumerate() {
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send((index, result)).unwrap());
        engine.submit(IoRequest { op, done });
    }
    let mut results = vec![Bytes::new(); count];
    for _ in 0..count {
        let (index, result) = receiver.recv().unwrap();
        results[index] = result.unwrap();
    }
    results
}

#[test]
fn an_engine_does_its_io_the_way_it_is_told() {
    for way in WAYS {
        for pbs in [PhysicalBlockSize::B512, PhysicalBlockSize::B4096] {
            let mut place = Place::new(pbs, 8 << 20, 8 << 20);
            way.set(&mut place.limits);
            let engine = place.open();
            let direct = |disk: &crate::disk::Disk| disk.write_depth() > 1;
            assert_eq!(
                direct(&engine.shared.log),
                way.log_direct != LogDirect::Never,
                "{way:?}"
            );
            assert_eq!(direct(&engine.shared.data), way.data_direct, "{way:?}");
            // Apart from each other, so that nothing is joined; a block in between each is half written.
            let write = |n: u64| IoOp::Write {
                offset: n * 8192 + 512 * (n % 3),
                data: Bytes::from(vec![u8::try_from(n).unwrap(); 4096]),
                fua: false,
            };
            at_once(&engine, (0..128).map(write).collect());
            engine.checkpoint().unwrap();
            let read = |n: u64| IoOp::Read {
                offset: n * 8192,
                len: 8192,
            };
            for (n, found) in at_once(&engine, (0..128).map(read).collect()).iter().enumerate() {
                let mut expected = vec![0; 8192];
                expected[512 * (n % 3)..][..4096].fill(u8::try_from(n).unwrap());
                assert!(*found == expected, "{way:?}, block {n}");
            }
            let rung = engine.shared.data.rung();
            assert_eq!(
                rung > 0,
                way.io == IoEngine::IoUring,
                "{way:?}: io_uring did {rung}"
            );
            engine.abandon();
        }
    }
}
