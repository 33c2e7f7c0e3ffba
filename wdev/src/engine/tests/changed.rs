//! What has changed, as the engine tells it.

use walb_common::types::{Lb, Lsid};

use super::*;
use crate::client::{Changed, ChangedChunks};

/// Chunks of 64 KiB.
const CHUNK: u64 = 128;

fn known(engine: &Engine) -> ChangedChunks {
    match engine.changed().unwrap() {
        Changed::Known(chunks) => chunks,
        Changed::Unknown { reason } => panic!("unknown: {reason}"),
    }
}

#[test]
fn what_was_written_since_the_last_release_is_told_and_nothing_else() {
    for pbs in [PhysicalBlockSize::B512, PhysicalBlockSize::B4096] {
        let place = Place::new(pbs, 1 << 20, 20 * CHUNK * LB_SIZE);
        let engine = place.open();
        let uuid = engine.status().uuid;
        assert_eq!(
            known(&engine),
            ChangedChunks::of_ranges((uuid, Lsid(0)), Lb(20 * CHUNK), &[])
        );
        write(&engine, 3 * CHUNK, block_of(1, 1)).unwrap();
        engine.checkpoint().unwrap();
        let oldest = engine.status().lsids.completed;
        engine.set_oldest(oldest).unwrap();
        write(&engine, 6 * CHUNK - 1, block_of(1, 2)).unwrap();
        let discard = IoOp::Discard {
            offset: 17 * CHUNK * LB_SIZE,
            len: 2 * CHUNK * LB_SIZE,
            fua: false,
        };
        submit_and_wait(&*engine, discard).unwrap();
        assert_eq!(
            known(&engine),
            ChangedChunks::of_ranges((uuid, oldest), Lb(20 * CHUNK), &[(5, 2), (17, 2)])
        );
    }
}
