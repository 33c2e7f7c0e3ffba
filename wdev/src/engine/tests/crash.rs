//! What a crash leaves on the log device.

use std::os::unix::fs::FileExt;

use walb_common::types::Lsid;

use super::*;
use crate::disk::OpenDiskError;
use crate::engine::{FormatError, OpenError, read_super_sector_of};

/// Writes a byte pattern over one block of the log.
fn damage(place: &Place, lsid: Lsid) {
    let sector = read_super_sector_of(&place.path("log")).unwrap();
    let log = File::options().write(true).open(place.path("log")).unwrap();
    log.write_all_at(&[0x5a; 512], sector.ring().offset_of(lsid))
        .unwrap();
}

fn crashed_after(writes: &[(u64, Vec<u8>)]) -> Place {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    for (at, data) in writes {
        write(&engine, *at, data.clone()).unwrap();
    }
    engine.abandon();
    drop(engine);
    // The data device as it would be had nothing been written behind yet.
    File::options()
        .write(true)
        .open(place.path("data"))
        .unwrap()
        .write_all_at(&block_of(0, 256), 0)
        .unwrap();
    place
}

#[test]
fn a_torn_last_pack_ends_the_log_and_nothing_before_it_is_lost() {
    let place = crashed_after(&[(0, block_of(1, 2)), (4, block_of(2, 2)), (8, block_of(3, 2))]);
    damage(&place, Lsid(7));
    let engine = place.open();
    let mut expected = block_of(0, 256);
    expected[..2 * 512].fill(1);
    expected[4 * 512..6 * 512].fill(2);
    assert!(read_all(&engine) == expected);
    assert_eq!(engine.status().lsids.latest, Lsid(6));
}

#[test]
fn an_intact_pack_behind_a_torn_one_never_comes_back() {
    // Packs at 0, 3, 6; the middle one is torn. A new pack of its size then ends where the stale one begins.
    let place = crashed_after(&[(0, block_of(1, 2)), (0, block_of(2, 2)), (0, block_of(3, 2))]);
    damage(&place, Lsid(4));
    let engine = place.open();
    assert_eq!(engine.status().lsids.latest, Lsid(3));
    write(&engine, 0, block_of(4, 2)).unwrap();
    flush(&engine);
    engine.abandon();
    drop(engine);
    let engine = place.open();
    assert_eq!(engine.status().lsids.latest, Lsid(6));
    assert!(read_all(&engine)[..1024] == block_of(4, 2));
}

#[test]
fn a_discard_reads_as_zeros_after_redo_too() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    write(&engine, 0, block_of(1, 256)).unwrap();
    engine.checkpoint().unwrap();
    submit_and_wait(
        &*engine,
        IoOp::Discard {
            offset: 512,
            len: 200 * 512,
            fua: false,
        },
    )
    .unwrap();
    engine.abandon();
    drop(engine);
    let found = read_all(&place.open());
    assert!(found[512..201 * 512].iter().all(|&b| b == 0) && found[0] == 1 && found[201 * 512] == 1);
}

#[test]
fn a_device_in_use_is_neither_formatted_nor_opened_again() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let _engine = place.open();
    let again = Engine::open(&place.config(), &place.path("state")).err().unwrap();
    assert!(
        matches!(again, OpenError::Disk(OpenDiskError::InUse { .. })),
        "{again}"
    );
    let format = format_log_device(&place.path("log"), &place.path("data"), "", None, true).unwrap_err();
    assert!(
        matches!(format, FormatError::Open(OpenDiskError::InUse { .. })),
        "{format}"
    );
}

#[test]
fn what_is_no_log_device_is_refused_by_name() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let log = File::options().write(true).open(place.path("log")).unwrap();
    log.write_all_at(&[1], 4096 + 100).unwrap();
    let error = Engine::open(&place.config(), &place.path("state")).err().unwrap();
    assert!(
        matches!(error, OpenError::SuperSector { .. }) && error.to_string().contains("log"),
        "{error}"
    );
    log.set_len(100).unwrap();
    assert!(Engine::open(&place.config(), &place.path("state")).is_err());
}

#[test]
fn the_smallest_ring_takes_writes_and_one_that_holds_none_is_refused() {
    let bytes = |ring: u64| 4096 + 1024 + ring * 512;
    for ring in 2..6 {
        let place = Place::new(PhysicalBlockSize::B512, bytes(ring), 256 * LB_SIZE);
        let engine = place.open();
        write(&engine, 0, block_of(1, 5)).unwrap();
        engine.stop();
        assert!(
            read_all(&place.open())[..5 * 512] == block_of(1, 5),
            "ring {ring}"
        );
    }
    let place = Place::new(PhysicalBlockSize::B512, bytes(1), 256 * LB_SIZE);
    let Err(error) = Engine::open(&place.config(), &place.path("state")) else {
        panic!("a write would wait for ever");
    };
    assert!(
        matches!(error, OpenError::RingTooSmall { found: 1, .. }),
        "{error}"
    );
}
