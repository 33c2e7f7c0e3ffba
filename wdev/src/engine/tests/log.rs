//! The log as others see it.

use std::time::Duration;

use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{LogpackHeader, RecordKind, Scanner};
use walb_common::types::{Lb, Lsid};

use super::*;
use crate::client::Refusal;

/// `(offset, size, first byte)` of each write, `(offset, size, None)` of each discard.
type Seen = Vec<(u64, u64, Option<u8>)>;

fn packs(bytes: &[u8], pbs: PhysicalBlockSize, salt: Salt, from: Lsid) -> (Seen, Lsid) {
    let (mut seen, mut at, mut lsid) = (Vec::new(), 0, from);
    while at < bytes.len() {
        let header = LogpackHeader::decode(&bytes[at..at + pbs.bytes()], pbs, salt, lsid).unwrap();
        let data = &bytes[at + pbs.bytes()..at + pbs.bytes() + header.data_bytes()];
        for record in header.records() {
            let here = &data[header.data_range(record)];
            match record.kind {
                RecordKind::Normal => {
                    assert_eq!(checksum(here, salt), record.checksum);
                    seen.push((record.offset.0, record.size.0, Some(here[0])));
                }
                RecordKind::Discard => seen.push((record.offset.0, record.size.0, None)),
                RecordKind::Padding => {}
            }
        }
        at += pbs.bytes() + header.data_bytes();
        lsid = header.next_lsid();
    }
    (seen, lsid)
}

fn collect(engine: &Engine, mut from: Lsid, max_bytes: usize) -> Seen {
    let status = engine.status();
    let mut all = Vec::new();
    loop {
        let log = engine.read_log(from, Lsid::MAX, max_bytes).unwrap();
        if log.packs.is_empty() {
            assert_eq!((log.next, from), (from, engine.status().lsids.permanent));
            return all;
        }
        let (seen, next) = packs(&log.packs.concat(), status.pbs, Salt(status.salt), from);
        assert_eq!(next, log.next);
        all.extend(seen);
        from = next;
    }
}

#[test]
fn the_log_read_back_is_what_was_written_in_order() {
    for pbs in [PhysicalBlockSize::B512, PhysicalBlockSize::B4096] {
        // A tail in memory, and none: then the ring itself is read, across its end.
        for tail_mib in [16, 0] {
            let mut place = Place::new(pbs, 300 << 10, 256 * LB_SIZE);
            place.limits.log_tail_mib = tail_mib;
            let engine = place.open();
            let mut from = Lsid(0);
            for round in 0..12u8 {
                let mut expected: Seen = Vec::new();
                for n in 0..10u8 {
                    let (at, len) = (u64::from(n) * 20, 1 + u64::from(n + round) % 13);
                    write(&engine, at, block_of(round * 10 + n, len)).unwrap();
                    expected.push((at, len, Some(round * 10 + n)));
                }
                let op = IoOp::Discard {
                    offset: 512,
                    len: 100 * 512,
                    fua: false,
                };
                submit_and_wait(&*engine, op).unwrap();
                expected.push((1, 100, None));
                flush(&engine);
                assert_eq!(
                    collect(&engine, from, 20_000),
                    expected,
                    "pbs {pbs}, round {round}"
                );
                from = engine.status().lsids.permanent;
                engine.checkpoint().unwrap();
                engine.set_oldest(from).unwrap();
            }
            assert!(from.0 > engine.status().log_capacity_pb, "the ring wrapped");
            assert!(!engine.status().overflow);
        }
    }
}

#[test]
fn only_whole_packs_below_the_limit_are_given() {
    let mut place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    for tail_mib in [16, 0] {
        place.limits.log_tail_mib = tail_mib;
        let engine = place.open();
        let from = engine.status().lsids.latest;
        for n in 1..=3 {
            write(&engine, 0, block_of(n, 4)).unwrap();
        }
        flush(&engine);
        let at = |n: u64| Lsid(from.0 + n);
        let read = |limit, max| engine.read_log(from, limit, max).unwrap().next;
        assert_eq!(
            (read(at(4), 1 << 20), read(at(5), 1 << 20), read(at(9), 1 << 20)),
            (from, at(5), at(5))
        );
        assert_eq!(
            (
                read(at(14), 1 << 20),
                read(Lsid::MAX, 1),
                read(Lsid::MAX, 5 * 512)
            ),
            (at(10), at(5), at(5))
        );
        assert_eq!(
            (read(Lsid::MAX, 10 * 512), read(Lsid::MAX, 1 << 20)),
            (at(10), at(15))
        );
        engine.stop();
    }
}

#[test]
fn overwritten_log_is_gone_and_remembered_until_a_reset() {
    let mut place = Place::new(PhysicalBlockSize::B512, 64 << 10, 256 * LB_SIZE);
    // What is still in memory could be read.
    place.limits.log_tail_mib = 0;
    let mut engine = place.open();
    let write_lap = |engine: &Engine| {
        for n in 0..40 {
            write(engine, n * 4, block_of(7, 4)).unwrap();
        }
    };
    write_lap(&engine);
    assert!(engine.status().overflow && engine.status().log_usage_pb > engine.status().log_capacity_pb);
    assert!(matches!(
        engine.read_log(Lsid(0), Lsid::MAX, 4096),
        Err(Refusal::LogGone { .. })
    ));
    engine.checkpoint().unwrap();
    // Releasing does not bring the lost log back, nor does a restart.
    engine.set_oldest(engine.status().lsids.prev_written).unwrap();
    for crash in [false, true] {
        if crash {
            engine.abandon();
        } else {
            engine.stop();
        }
        drop(engine);
        engine = place.open();
        assert!(engine.status().overflow);
    }
    let old = engine.status();
    engine.reset_log().unwrap();
    let new = engine.status();
    assert!(!new.overflow && new.lsids == crate::client::Lsids::default());
    assert!(new.uuid != old.uuid && new.salt != old.salt);
    write(&engine, 0, block_of(3, 1)).unwrap();
    flush(&engine);
    assert_eq!(collect(&engine, Lsid(0), 4096), [(0, 1, Some(3))]);
    engine.abandon();
    drop(engine);
    engine = place.open();
    assert!(!engine.status().overflow);
    let mut expected = block_of(0, 256);
    expected[..160 * 512].fill(7);
    expected[..512].fill(3);
    assert!(read_all(&engine) == expected);
}

#[test]
fn log_is_released_only_at_packs_up_to_the_checkpoint() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    for _ in 0..3 {
        write(&engine, 0, block_of(1, 3)).unwrap();
    }
    assert!(engine.set_oldest(Lsid(4)).is_err(), "no checkpoint yet");
    engine.checkpoint().unwrap();
    assert!(engine.set_oldest(Lsid(5)).is_err(), "no pack begins there");
    engine.set_oldest(Lsid(4)).unwrap();
    assert!(engine.set_oldest(Lsid(0)).is_err(), "never back");
    engine.set_oldest(Lsid(12)).unwrap();
    assert!(matches!(
        engine.read_log(Lsid(8), Lsid::MAX, 4096),
        Err(Refusal::LogGone { .. })
    ));
    engine.stop();
    drop(engine);
    assert_eq!(place.open().status().lsids.oldest, Lsid(12));
}

#[test]
fn those_who_wait_for_log_are_told_without_a_flush() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let none = runtime.block_on(engine.wait_for_log(Lsid(0), Duration::from_millis(20)));
    assert_eq!(none, Lsid(0));
    let waiter = {
        let engine = Arc::clone(&engine);
        std::thread::spawn(move || runtime.block_on(engine.wait_for_log(Lsid(0), Duration::from_mins(1))))
    };
    write(&engine, 0, block_of(1, 1)).unwrap();
    assert_eq!(waiter.join().unwrap(), Lsid(2));
}

#[test]
fn a_stop_wakes_those_who_wait_and_frees_the_disks() {
    let place = Place::new(PhysicalBlockSize::B512, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    let waiter = {
        let engine = Arc::clone(&engine);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        std::thread::spawn(move || runtime.block_on(engine.wait_for_log(Lsid(0), Duration::from_hours(1))))
    };
    engine.stop();
    let _again = place.open();
    assert_eq!(waiter.join().unwrap(), Lsid(0));
}

#[test]
fn the_existing_readers_find_the_packs_on_the_device() {
    let place = Place::new(PhysicalBlockSize::B4096, 1 << 20, 256 * LB_SIZE);
    let engine = place.open();
    for n in 0..20 {
        write(&engine, n, block_of(1, 1 + n % 9)).unwrap();
    }
    engine.stop();
    let status = engine.status();
    drop(engine);
    let sector = super::super::read_super_sector_of(&place.path("log")).unwrap();
    assert_eq!(
        (sector.written(), sector.device_size(), &*sector.name()),
        (status.lsids.latest, Lb(256), "vol0")
    );
    let log = std::fs::read(place.path("log")).unwrap();
    let mut scanner = Scanner::new(log, sector.ring(), sector.salt(), Lsid(0));
    let mut records = 0;
    while let Some(pack) = scanner.next_pack().unwrap() {
        records += pack.header().records().len();
    }
    assert_eq!((records, scanner.next_lsid()), (20, status.lsids.latest));
}
