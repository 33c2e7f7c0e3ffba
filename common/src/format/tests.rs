//! Goal: a log comes back as it was written, up to where it was written whole. Method: rings and streams cut in every way.

use bytes::Bytes;
use proptest::prelude::*;

use super::checksum::Salt;
use super::log_device::{
    Logpack, LogpackBuilder, LogpackHeader, PushError, Ring, ScanEnd, Scanner, stale_headers,
};
use super::wlog::{LogpackParser, Parsed};
use crate::testing::{Io, logpacks, random_ios, wlog};
use crate::types::{Lb, Lsid, PhysicalBlockSize, Uuid};

const SALT: Salt = Salt(0x1234_5678);
const B512: PhysicalBlockSize = PhysicalBlockSize::B512;

fn ring_of(packs: &[Logpack], ring: &Ring, device: &mut [u8]) {
    for pack in packs {
        let whole = [&pack.block()[..], &pack.data()[..]].concat();
        let mut done = 0;
        for (position, length) in ring.extents(pack.header().lsid(), whole.len() as u64 / 512) {
            device[position as usize..][..length as usize]
                .copy_from_slice(&whole[done..done + length as usize]);
            done += length as usize;
        }
    }
}

fn scan(device: &[u8], ring: Ring, from: Lsid) -> (Vec<Logpack>, ScanEnd) {
    let mut scanner = Scanner::new(device, ring, SALT, from);
    let packs = std::iter::from_fn(|| scanner.next_pack().unwrap()).collect();
    (packs, scanner.end().unwrap().clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_ring_gives_back_its_packs_wherever_they_wrap(seed: u64, from in 0u64..5000, size in 600u64..900) {
        let ios = random_ios(seed, Lb(4000), 12);
        let packs = logpacks(&ios, B512, SALT, Lsid(from), 4);
        let ring = Ring::new(10, size, B512);
        let mut device = vec![0; (10 + size as usize) * 512];
        ring_of(&packs, &ring, &mut device);
        let (found, end) = scan(&device, ring, Lsid(from));
        prop_assert!(found == packs);
        prop_assert_eq!(end.lsid(), packs.last().unwrap().header().next_lsid());
    }

    #[test]
    fn a_stream_cut_anywhere_parses_like_the_whole(seed: u64, chunk in 1usize..9000) {
        let packs = logpacks(&random_ios(seed, Lb(4000), 20), B512, SALT, Lsid(5), 4);
        let whole = wlog(&packs, B512, SALT, Uuid::NIL, Lsid(5));
        let mut parser = LogpackParser::new(B512, SALT, Lsid(5));
        let mut found = vec![];
        for part in whole[4096..].chunks(chunk) {
            parser.push(Bytes::copy_from_slice(part));
            while let Parsed::Pack(pack) = parser.next().unwrap() {
                found.push(pack);
            }
        }
        prop_assert!(found == packs);
        prop_assert!(parser.finish().is_ok());
    }
}

#[test]
fn a_torn_pack_is_cut_to_its_good_records() {
    let ios: Vec<Io> = (0..4)
        .map(|n| Io::Write {
            address: Lb(n * 8),
            data: Bytes::from(vec![n as u8 + 1; 1024]),
        })
        .collect();
    let packs = logpacks(&ios, B512, SALT, Lsid(50), 4);
    let ring = Ring::new(10, 64, B512);
    for torn in 0..4u64 {
        let mut device = vec![0; 74 * 512];
        ring_of(&packs, &ring, &mut device);
        device[ring.offset_of(Lsid(51 + torn * 2)) as usize] ^= 1;
        let (found, end) = scan(&device, ring, Lsid(50));
        let ScanEnd::Torn { lsid, bad, rewrite } = end else {
            panic!("torn at {torn}: {end:?}")
        };
        assert_eq!((bad.pack, bad.index), (Lsid(50), torn as usize));
        assert_eq!(lsid, Lsid(if torn == 0 { 50 } else { 51 + torn * 2 }));
        assert_eq!(found.len(), usize::from(torn > 0));
        assert_eq!(
            rewrite.map(|h| h.records().len()),
            (torn > 0).then_some(torn as usize)
        );
    }
}

#[test]
fn a_pack_left_behind_the_new_end_is_found_and_live_log_is_not_touched() {
    let io = |n: u8| Io::Write {
        address: Lb(u64::from(n)),
        data: Bytes::from(vec![n; 1024]),
    };
    // Packs of 3 blocks at 20, 23, 26 and 29.
    let packs = logpacks(&[io(1), io(2), io(3), io(4)], B512, SALT, Lsid(20), 1);
    let ring = Ring::new(10, 40, B512);
    let mut device = vec![0; 50 * 512];
    ring_of(&packs, &ring, &mut device);
    let stale =
        |oldest, end, span| stale_headers(&&device[..], &ring, SALT, Lsid(oldest), Lsid(end), span).unwrap();
    assert_eq!(stale(20, 23, 100), [Lsid(23), Lsid(26), Lsid(29)]);
    assert_eq!(stale(20, 24, 100), [Lsid(26), Lsid(29)]);
    assert_eq!(stale(20, 23, 4), [Lsid(23), Lsid(26)]);
    assert_eq!(stale(20, 32, 100), []);
    // With the whole ring live there is no room behind the end, so nothing is looked at.
    assert_eq!(stale(0, 40, 100), []);
}

#[test]
fn a_logpack_takes_no_more_than_the_format_allows() {
    let mut pack = LogpackBuilder::new(B512, SALT, Lsid(0));
    assert_eq!(pack.push_normal(Lb(0), Lb(0), 0), Err(PushError::Size(Lb(0))));
    assert_eq!(
        pack.push_normal(Lb(0), Lb(65536), 0),
        Err(PushError::Size(Lb(65536)))
    );
    assert_eq!(
        pack.push_discard(Lb(0), Lb(1 << 32)),
        Err(PushError::Size(Lb(1 << 32)))
    );
    let first = pack.push_discard(Lb(0), Lb(u32::MAX.into())).unwrap();
    let second = pack.push_normal(Lb(0), Lb(65534), 0).unwrap();
    assert_eq!(
        (first.lsid, second.lsid),
        (Lsid(1), Lsid(1)),
        "a discard takes no room"
    );
    assert_eq!(pack.push_normal(Lb(0), Lb(2), 0), Err(PushError::Full));
    pack.push_padding(1).unwrap();
    assert_eq!(
        pack.push_discard(Lb(0), Lb(1)),
        Err(PushError::Full),
        "its local lsid would be 65536"
    );
    let (header, block) = pack.finish().unwrap();
    assert_eq!((header.total_io_pb(), header.next_lsid()), (65535, Lsid(65536)));
    assert_eq!(LogpackHeader::decode(&block, B512, SALT, Lsid(0)), Ok(header));

    let mut pack = LogpackBuilder::new(PhysicalBlockSize::B4096, SALT, Lsid(0));
    pack.push_padding(3).unwrap();
    assert_eq!(pack.push_padding(1), Err(PushError::SecondPadding));
    for _ in 1..127 {
        pack.push_normal(Lb(0), Lb(9), 0).unwrap();
    }
    assert!(!pack.has_room_for(Lb(1)));
    assert_eq!(pack.next_data_lsid(), Lsid(1 + 3 + 126 * 2));
    assert!(
        LogpackBuilder::new(B512, SALT, Lsid(0)).finish().is_none(),
        "there are no empty packs"
    );
}
