//! Goal: no damage goes unnoticed, and nothing the world can do to the bytes makes a reader panic. Method: flip every
//! bit, and cut at every length, of a small file of each kind; rings and streams cut in every way.

use bytes::Bytes;
use proptest::prelude::*;

use super::checksum::Salt;
use super::log_device::{
    Logpack, LogpackBuilder, LogpackHeader, PushError, Ring, ScanEnd, Scanner, SuperSector, stale_headers,
};
use super::wdiff::{IndexedReader, ReadWdiffError, SortedReader};
use super::wlog::{LogpackParser, Parsed, ReadWlogError, WlogReader};
use crate::testing::{Io, indexed_wdiff, logpacks, random_ios, sorted_wdiff, wlog};
use crate::types::{Compression, Lb, Lsid, PhysicalBlockSize, Uuid};

const SALT: Salt = Salt(0x1234_5678);
const B512: PhysicalBlockSize = PhysicalBlockSize::B512;

/// Expects an error for each flipped bit and each shorter length, except where `dead` says that a byte means nothing.
fn every_damage_is_noticed<T, E: std::fmt::Debug>(
    whole: &[u8],
    dead: std::ops::Range<usize>,
    read: impl Fn(&[u8]) -> Result<T, E>,
) {
    read(whole).map(|_| ()).unwrap();
    let mut damaged = whole.to_vec();
    for bit in (0..whole.len() * 8).filter(|bit| !dead.contains(&(bit / 8))) {
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..whole.len() {
        assert!(read(&whole[..len]).is_err(), "cut to {len} bytes");
    }
}

fn few_ios() -> Vec<Io> {
    vec![
        Io::Write {
            address: Lb(8),
            data: Bytes::from(vec![3; 1024]),
        },
        Io::Write {
            address: Lb(16),
            data: Bytes::from(vec![0; 512]),
        },
        Io::Discard {
            address: Lb(40),
            blocks: Lb(8),
        },
    ]
}

#[test]
fn every_damage_to_a_super_sector_is_noticed() {
    let sector = SuperSector::format(B512, 1 << 20, Lb(2048), "vol", Uuid([7; 16]), SALT).unwrap();
    let sector = sector.with_written(Lsid(40)).with_oldest(Lsid(20));
    let block = sector.encode();
    assert_eq!(SuperSector::decode(&block, B512), Ok(sector));
    every_damage_is_noticed(&block, 0..0, |b| SuperSector::decode(b, B512));
}

#[test]
fn every_damage_to_a_logpack_header_is_noticed() {
    let packs = logpacks(&few_ios(), B512, SALT, Lsid(77), 9);
    let read = |b: &[u8]| LogpackHeader::decode(b, B512, SALT, Lsid(77));
    assert_eq!(read(packs[0].block()).as_ref(), Ok(packs[0].header()));
    every_damage_is_noticed(packs[0].block(), 0..0, read);
    assert!(
        LogpackHeader::decode(packs[0].block(), B512, SALT, Lsid(78)).is_err(),
        "of another lap"
    );
    assert!(
        LogpackHeader::decode(packs[0].block(), B512, Salt(1), Lsid(77)).is_err(),
        "of another log"
    );
}

fn read_wlog(bytes: &[u8]) -> Result<Vec<Logpack>, ReadWlogError> {
    let mut reader = WlogReader::open(bytes)?;
    let packs = std::iter::from_fn(|| reader.next_pack().transpose()).collect::<Result<_, _>>()?;
    match reader.next_wlog()? {
        None => Ok(packs),
        Some(_) => panic!("only one wlog was written"),
    }
}

#[test]
fn every_damage_to_a_wlog_is_noticed() {
    let packs = logpacks(&few_ios(), B512, SALT, Lsid(77), 2);
    let whole = wlog(&packs, B512, SALT, Uuid([7; 16]), Lsid(77));
    assert_eq!(read_wlog(&whole).unwrap(), packs);
    every_damage_is_noticed(&whole, 0..0, read_wlog);
}

fn read_sorted(bytes: &[u8]) -> Result<usize, ReadWdiffError> {
    let mut reader = SortedReader::new(bytes)?.nothing_follows();
    let mut count = 0;
    while reader.next_record()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn read_indexed(bytes: &[u8]) -> Result<usize, ReadWdiffError> {
    let mut reader = IndexedReader::open(bytes, bytes.len() as u64)?;
    let mut count = 0;
    while reader.next_record()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[test]
fn every_damage_to_a_sorted_wdiff_is_noticed() {
    let whole = sorted_wdiff(&few_ios(), Uuid([7; 16]), Compression::Snappy, Lb(0));
    assert_eq!(read_sorted(&whole).unwrap(), 3);
    every_damage_is_noticed(&whole, 0..0, read_sorted);
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(
        read_sorted(&longer),
        Err(ReadWdiffError::Trailing { .. })
    ));
}

#[test]
fn every_damage_to_an_indexed_wdiff_is_noticed() {
    let whole = indexed_wdiff(&few_ios(), Uuid([7; 16]), Compression::Snappy, Lb(0));
    assert_eq!(read_indexed(&whole).unwrap(), 3);
    // Between the only image and the index lie up to 7 bytes that mean nothing.
    let reader = IndexedReader::open(&whole[..], whole.len() as u64).unwrap();
    let index = reader.index().index_offset as usize;
    let mut reader = reader;
    let first = reader.next_index_record().unwrap().unwrap();
    let end = first.data_offset as usize + first.data_size as usize;
    assert!(index - end < 8);
    every_damage_is_noticed(&whole, end..index, read_indexed);
}

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

    #[test]
    fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(read_wlog(&noise).is_err());
        prop_assert!(read_sorted(&noise).is_err());
        prop_assert!(read_indexed(&noise).is_err());
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
