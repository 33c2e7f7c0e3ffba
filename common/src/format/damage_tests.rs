//! Goal: damage shows as damage, never as other data, and no bytes make a reader panic. Method: flip every bit, and cut at
//! every length, of a small file of each kind; each is refused, or has the same content and gives the same image.

use bytes::Bytes;
use proptest::prelude::*;

use super::checksum::Salt;
use super::log_device::{
    LogRecord, Logpack, LogpackBuilder, LogpackHeader, RecordKind as LogRecordKind, Ring,
    SUPER_SECTOR_OFFSET, Scanner, SuperSector,
};
use super::wdiff::{IndexedReader, ReadWdiffError, RecordKind, RecordSource, SortedReader, WdiffFileHeader};
use super::wlog::{ReadWlogError, WlogFileHeader, WlogReader};
use crate::convert::{DiscardMode, apply_wdiffs};
use crate::testing::{Io, MemImage, indexed_wdiff, logpacks, sorted_wdiff, wdiff_reader, wlog};
use crate::types::{Compression, Lb, Lsid, PhysicalBlockSize, Uuid};

const SALT: Salt = Salt(0x1234_5678);
const B512: PhysicalBlockSize = PhysicalBlockSize::B512;
const B4096: PhysicalBlockSize = PhysicalBlockSize::B4096;

/// Reads `whole` with each bit flipped and cut to each shorter length: an error, or the same content. Tells how many of
/// the flips changed nothing.
fn damage_is_noticed<T: PartialEq, E>(whole: &[u8], read: impl Fn(&[u8]) -> Result<T, E>) -> usize {
    let Ok(sound) = read(whole) else {
        panic!("the whole file is sound")
    };
    let mut harmless = 0;
    let mut damaged = whole.to_vec();
    for bit in 0..whole.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(found) = read(&damaged) {
            assert!(
                found == sound,
                "bit {} of byte {} made it other data",
                bit % 8,
                bit / 8
            );
            harmless += 1;
        }
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..whole.len() {
        assert!(read(&whole[..len]).is_err(), "cut to {len} bytes");
    }
    harmless
}

/// Writes, zeros and a discard; one IO is short of a block of 4096.
fn few_ios() -> Vec<Io> {
    let write = |address, byte, bytes| Io::Write {
        address: Lb(address),
        data: Bytes::from(vec![byte; bytes]),
    };
    let (address, blocks) = (Lb(40), Lb(8));
    vec![
        write(8, 3, 1024),
        write(16, 0, 512),
        Io::Discard { address, blocks },
        write(9, 7, 512),
    ]
}

fn image() -> MemImage {
    MemImage::filled(Lb(64), 9)
}

#[test]
fn in_a_super_sector() {
    let sector = SuperSector::format(B512, 1 << 20, Lb(2048), "vol", Uuid([7; 16]), SALT).unwrap();
    let sector = sector.with_written(Lsid(40)).with_oldest(Lsid(20));
    let block = sector.encode();
    assert_eq!(SuperSector::decode(&block, B512), Ok(sector));
    assert_eq!(damage_is_noticed(&block, |b| SuperSector::decode(b, B512)), 0);
}

#[test]
fn in_a_logpack_header() {
    let packs = logpacks(&few_ios(), B512, SALT, Lsid(77), 9);
    let block = packs[0].block();
    let read = |b: &[u8]| LogpackHeader::decode(b, B512, SALT, Lsid(77));
    assert_eq!(read(block).as_ref(), Ok(packs[0].header()));
    assert_eq!(damage_is_noticed(block, read), 0);
    let of_another_lap = LogpackHeader::decode(block, B512, SALT, Lsid(78));
    let of_another_log = LogpackHeader::decode(block, B512, Salt(1), Lsid(77));
    assert!(of_another_lap.is_err() && of_another_log.is_err());
}

/// What a log says: its records with their data. What lies in tails and padding means nothing.
fn records(packs: &[Logpack]) -> Vec<(LogRecord, Bytes)> {
    let all = packs
        .iter()
        .flat_map(Logpack::records)
        .map(|(r, data)| (*r, data));
    all.filter(|(r, _)| r.kind != LogRecordKind::Padding).collect()
}

/// The records, and the image after them.
fn effect(packs: &[Logpack]) -> (Vec<(LogRecord, Bytes)>, Vec<u8>) {
    let (records, image) = (records(packs), image());
    for (record, data) in &records {
        let (address, blocks, data) = (record.offset, record.size, data.clone());
        let io = match record.kind {
            LogRecordKind::Normal => Io::Write { address, data },
            _ => Io::Discard { address, blocks },
        };
        image.apply(&io, false);
    }
    let bytes = image.bytes().clone();
    (records, bytes)
}

fn read_wlog(bytes: &[u8]) -> Result<(Vec<(LogRecord, Bytes)>, Vec<u8>), ReadWlogError> {
    let mut reader = WlogReader::open(bytes)?;
    let packs = std::iter::from_fn(|| reader.next_pack().transpose()).collect::<Result<Vec<_>, _>>()?;
    assert!(reader.next_wlog()?.is_none(), "only one wlog was written");
    Ok(effect(&packs))
}

#[test]
fn in_a_wlog() {
    for (pbs, per_pack, harmless) in [(B512, 2, 0), (B4096, 4, (3072 + 3584 + 3584) * 8)] {
        let packs = logpacks(&few_ios(), pbs, SALT, Lsid(77), per_pack);
        let whole = wlog(&packs, pbs, SALT, Uuid([7; 16]), Lsid(77));
        assert!(read_wlog(&whole).unwrap() == effect(&packs));
        // Only the tails of short IOs are not covered by any checksum.
        assert_eq!(damage_is_noticed(&whole, read_wlog), harmless, "{pbs}");
    }
}

#[test]
fn in_file_headers() {
    let (begin, end) = (Lsid(5), Lsid::INVALID);
    let header = WlogFileHeader {
        pbs: B4096,
        salt: SALT,
        uuid: Uuid([7; 16]),
        begin,
        end,
    };
    assert_eq!(damage_is_noticed(&header.encode(), WlogFileHeader::decode), 0);
    let wdiff = sorted_wdiff(&[], Uuid([7; 16]), Compression::None, Lb(0));
    assert_eq!(damage_is_noticed(&wdiff[..32], WdiffFileHeader::decode), 0);
}

type Ranges = Vec<(Lb, Lb, RecordKind, Option<Bytes>)>;

/// Every record of a wdiff with its data.
fn ranges(reader: &mut impl RecordSource) -> Result<Ranges, ReadWdiffError> {
    let mut found = vec![];
    while let Some(r) = reader.next_record()? {
        let address = r.address;
        let data = r
            .raw_data()
            .map_err(|source| ReadWdiffError::Decompress { address, source })?;
        found.push((address, r.blocks, r.kind(), data));
    }
    Ok(found)
}

fn applied(stored: &[u8]) -> Vec<u8> {
    let image = image();
    let reader = wdiff_reader(stored.to_vec());
    apply_wdiffs(vec![reader], &image, DiscardMode::Zero, &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    image.bytes().clone()
}

fn read_sorted(bytes: &[u8]) -> Result<(Ranges, Vec<u8>), ReadWdiffError> {
    let found = ranges(&mut SortedReader::new(bytes)?.nothing_follows())?;
    Ok((found, applied(bytes)))
}

fn read_indexed(bytes: &[u8]) -> Result<(Ranges, Vec<u8>), ReadWdiffError> {
    let found = ranges(&mut IndexedReader::open(bytes, bytes.len() as u64)?)?;
    Ok((found, applied(bytes)))
}

#[test]
fn in_a_sorted_wdiff() {
    for kind in Compression::ALL {
        let whole = sorted_wdiff(&few_ios(), Uuid([7; 16]), kind, Lb(0));
        assert_eq!(read_sorted(&whole).unwrap().0.len(), 4);
        assert_eq!(damage_is_noticed(&whole, read_sorted), 0, "{kind:?}");
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(
            read_sorted(&longer),
            Err(ReadWdiffError::Trailing { .. })
        ));
    }
}

#[test]
fn in_an_indexed_wdiff() {
    for kind in Compression::ALL {
        // Of three packs, so that the write over a part of the first leaves its image shared by two records.
        let whole = indexed_wdiff(&few_ios(), Uuid([7; 16]), kind, Lb(0));
        assert!(read_indexed(&whole).unwrap().0.len() >= 4);
        let mut reader = IndexedReader::open(&whole[..], whole.len() as u64).unwrap();
        let index = reader.index().index_offset;
        let images = std::iter::from_fn(|| reader.next_index_record().unwrap());
        let end = images
            .filter(|r| r.kind == RecordKind::Normal)
            .map(|r| r.data_offset + u64::from(r.data_size))
            .max();
        // Between the last image and the index lie up to 7 bytes that mean nothing.
        let gap = (index - end.unwrap()) as usize;
        assert!(gap < 8);
        assert_eq!(damage_is_noticed(&whole, read_indexed), gap * 8, "{kind:?}");
        assert!(
            read_indexed(&[&whole[..], &[0]].concat()).is_err(),
            "one byte more"
        );
    }
}

/// A log device with an older lap behind the log, padding at the ring's end, and a pack that wraps.
fn log_device(pbs: PhysicalBlockSize) -> (Vec<u8>, SuperSector, Vec<Logpack>) {
    const RING: u64 = 9;
    let meta = 4096 / pbs.bytes() as u64 + 2;
    let bytes = (meta + RING) * pbs.bytes() as u64;
    let sector = SuperSector::format(pbs, bytes, Lb(64), "vol", Uuid([7; 16]), SALT).unwrap();
    // So that the second pack's header is in the ring's last block but one, and its data go on behind the ring's end.
    let first = &logpacks(&few_ios()[..2], pbs, SALT, Lsid(0), 2)[0];
    let oldest = Lsid(2 * RING - 2 - first.header().next_lsid().0);
    let sector = sector.with_oldest(oldest);
    let mut device = vec![0; bytes as usize];
    device[SUPER_SECTOR_OFFSET as usize..][..pbs.bytes()].copy_from_slice(&sector.encode());
    let mut put = |pack: &Logpack| {
        let whole = [&pack.block()[..], pack.data()].concat();
        for (n, block) in whole.chunks(pbs.bytes()).enumerate() {
            let at = sector.ring().offset_of(Lsid(pack.header().lsid().0 + n as u64)) as usize;
            device[at..at + block.len()].copy_from_slice(block);
        }
    };
    let write = |n: u8| Io::Write {
        address: Lb(n.into()),
        data: vec![n; 512].into(),
    };
    // The older lap: packs of 2 blocks at 1, 3 and 5. That at 1 is intact where the log ends.
    let old: Vec<Io> = (30..33).map(write).collect();
    logpacks(&old, pbs, SALT, Lsid(1), 1).iter().for_each(&mut put);
    let mut packs = logpacks(&few_ios()[..2], pbs, SALT, oldest, 2);
    let next = packs[0].header().next_lsid();
    let mut builder = LogpackBuilder::new(pbs, SALT, next);
    let left = sector.ring().left_at(builder.next_data_lsid());
    assert_eq!(left, 1);
    builder.push_padding(left).unwrap();
    let io = vec![0x42; 512];
    let sum = super::checksum::checksum(&io, SALT);
    builder.push_normal(Lb(20), Lb(1), sum).unwrap();
    builder.push_discard(Lb(40), Lb(8)).unwrap();
    let (header, block) = builder.finish().unwrap();
    let mut data = vec![0xa5; header.data_bytes()];
    let start = left as usize * pbs.bytes();
    data[start..start + 512].copy_from_slice(&io);
    packs.push(Logpack::from_stored(header, block, data.into()));
    packs.iter().for_each(&mut put);
    (device, sector, packs)
}

#[test]
fn in_a_log_device() {
    for pbs in [B512, B4096] {
        let (device, sector, packs) = log_device(pbs);
        let sound = records(&packs);
        let scan = |device: &[u8], ring: Ring| {
            let mut scanner = Scanner::new(device, ring, SALT, sector.oldest());
            let packs: Vec<Logpack> = std::iter::from_fn(|| scanner.next_pack().unwrap()).collect();
            (records(&packs), scanner.end().unwrap().lsid())
        };
        let (found, end) = scan(&device, sector.ring());
        assert!(found == sound && end == packs[1].header().next_lsid());
        let mut damaged = device.clone();
        let (mut shortened, mut harmless) = (0, 0);
        for bit in SUPER_SECTOR_OFFSET as usize * 8..device.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            let block = &damaged[SUPER_SECTOR_OFFSET as usize..][..pbs.bytes()];
            if let Ok(found) = SuperSector::decode(block, pbs) {
                assert_eq!(found, sector);
                let (found, found_end) = scan(&damaged, found.ring());
                // Shorter, by whole records, or the same.
                assert!(
                    found.len() <= sound.len() && found == sound[..found.len()],
                    "bit {} of byte {}",
                    bit % 8,
                    bit / 8
                );
                if found.len() < sound.len() {
                    assert!(found_end < end);
                    shortened += 1;
                } else {
                    assert_eq!(found_end, end);
                    harmless += 1;
                }
            }
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
        // Headers and data, every bit of them.
        let covered = 2 * pbs.bytes() + 1024 + 512 + 512;
        assert_eq!(shortened, covered * 8, "{pbs}");
        let all = device.len() - SUPER_SECTOR_OFFSET as usize - pbs.bytes();
        assert_eq!(shortened + harmless, all * 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_is_refused_without_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(read_wlog(&noise).is_err());
        prop_assert!(read_sorted(&noise).is_err());
        prop_assert!(read_indexed(&noise).is_err());
    }
}
