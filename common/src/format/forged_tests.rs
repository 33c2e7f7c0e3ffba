//! Goal: every check that the formats demand of a reader is made, and nothing more is refused. Method: sound structures
//! with one field changed and the checksum put right, so that only the check of that field can notice.

use bytes::Bytes;

use super::checksum::{Salt, checksum};
use super::log_device::{LogpackBuilder, LogpackHeader, LogpackHeaderError, SuperSector};
use super::wdiff::{
    IndexRecord, IndexSuper, MAX_IMAGE_BYTES, MAX_PACK_DATA, PackHeader, PackRecord, RecordKind,
    WdiffFileHeader,
};
use super::wlog::{WlogFileHeader, end_block};
use crate::types::{Compression, Lb, Lsid, PhysicalBlockSize, Uuid};

const SALT: Salt = Salt(0x1234_5678);
const B512: PhysicalBlockSize = PhysicalBlockSize::B512;
const B4096: PhysicalBlockSize = PhysicalBlockSize::B4096;

/// One case: the bytes to put at an offset, and a part of the error, or nothing if that must be accepted.
type Case<'a> = (usize, &'a [u8], &'a str);

/// Tries each case on its own copy of `sound`, whose checksum is at byte `sum_at`.
fn each_case<T, E: std::fmt::Display>(
    sound: &[u8],
    (sum_at, salt): (usize, Salt),
    cases: &[Case<'_>],
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    assert!(decode(sound).is_ok());
    for (at, field, says) in cases {
        let mut forged = sound.to_vec();
        forged[*at..at + field.len()].copy_from_slice(field);
        forged[sum_at..sum_at + 4].fill(0);
        let sum = checksum(&forged, salt);
        forged[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
        match decode(&forged) {
            Ok(_) => assert!(
                says.is_empty(),
                "{field:?} at {at} was accepted, expected: {says}"
            ),
            Err(e) => {
                let text = e.to_string();
                assert!(
                    !says.is_empty() && text.contains(says),
                    "{field:?} at {at}, expected {says:?}: {text}"
                );
            }
        }
    }
}

fn le<const N: usize>(value: u64) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&value.to_le_bytes()[..N]);
    field
}

#[test]
fn super_sectors() {
    let sector = SuperSector::format(B512, 1 << 20, Lb(2048), "vol", Uuid([7; 16]), SALT).unwrap();
    let block = sector.with_written(Lsid(40)).with_oldest(Lsid(20)).encode();
    let cases: &[Case<'_>] = &[
        (0, &le::<2>(3), "sector type is 3, expected 1"),
        (2, &le::<2>(1), "version is 1, expected 2"),
        (2, &le::<2>(3), "version is 3, expected 2"),
        (8, &le::<4>(4096), "logical block size is 4096, expected 512"),
        (12, &le::<4>(4096), "physical block size is 4096, expected 512"),
        (40, &[b'x'; 32], "no NUL"),
        (40, &[0; 32], ""),
        (72, &le::<8>(0), "ring size is 0, expected 1 to"),
        (72, &le::<8>(u64::MAX), "ring size is 18446744073709551615"),
        (80, &le::<8>(41), "oldest 41, written 40"),
        (80, &le::<8>(40), ""),
        (80, &le::<8>(u64::MAX), "lsids are"),
        (88, &le::<8>(u64::MAX), "lsids are"),
        // Largest lsid; an overflow, with more between the two than the ring holds.
        (88, &le::<8>(u64::MAX - 1), ""),
        (96, &le::<8>(0), ""),
        (104, &[0xff; 408], ""),
    ];
    each_case(&block, (4, Salt::ZERO), cases, |b| SuperSector::decode(b, B512));
    // Of another block size than the device's: refused before anything in it is believed.
    assert!(SuperSector::decode(&block, B4096).is_err());

    // The obsolete metadata lie before the ring.
    let mut shifted = block.clone();
    shifted[16..20].copy_from_slice(&le::<4>(5));
    shifted[4..8].fill(0);
    let sum = checksum(&shifted, Salt::ZERO);
    shifted[4..8].copy_from_slice(&sum.to_le_bytes());
    let (plain, shifted) = (
        SuperSector::decode(&block, B512).unwrap(),
        SuperSector::decode(&shifted, B512).unwrap(),
    );
    assert_eq!(shifted.ring().first_pb(), plain.ring().first_pb() + 5);
    assert!(plain.check_fits(1 << 20).is_ok());
    assert!(plain.check_fits((1 << 20) - 512).is_err());
    assert!(shifted.check_fits(1 << 20).is_err());
}

#[test]
fn formatting_follows_the_size_of_the_device() {
    let format = |pbs, bytes, name: &str| SuperSector::format(pbs, bytes, Lb(8), name, Uuid::NIL, SALT);
    for (pbs, bytes, first, size) in [
        (B512, 1 << 20, 10, 2038),
        (B512, (1 << 20) + 511, 10, 2038),
        (B4096, 1 << 20, 3, 253),
        (B4096, 4 * 4096, 3, 1),
    ] {
        let sector = format(pbs, bytes, "").unwrap();
        let ring = sector.ring();
        assert_eq!((ring.first_pb(), ring.size()), (first, size));
        assert_eq!((sector.oldest(), sector.written()), (Lsid(0), Lsid(0)));
        sector.check_fits(bytes).unwrap();
    }
    assert!(format(B4096, 4 * 4096 - 1, "").is_err());
    let cut = format(B512, 1 << 20, &"n".repeat(40)).unwrap();
    assert_eq!(cut.name(), "n".repeat(31));
    let block = format(B512, 1 << 20, &"n".repeat(31)).unwrap().encode();
    assert_eq!((block[70], block[71]), (b'n', 0));
}

/// At lsid 77: a write of 2 blocks, padding of 3, a discard, a write of 1.
fn header_block(pbs: PhysicalBlockSize) -> Bytes {
    let mut builder = LogpackBuilder::new(pbs, SALT, Lsid(77));
    builder.push_normal(Lb(100), Lb(2), 1).unwrap();
    builder.push_padding(3).unwrap();
    builder.push_discard(Lb(5), Lb(9)).unwrap();
    builder.push_normal(Lb(8), Lb(1), 2).unwrap();
    builder.finish().unwrap().1
}

#[test]
fn logpack_headers() {
    let block = header_block(B512);
    let record = |n: usize, field: usize| 24 + 32 * n + field;
    let cases: &[Case<'_>] = &[
        (4, &le::<2>(2), "sector type is 2, expected 3"),
        (6, &le::<2>(7), "counts 7 data blocks, its records have 6"),
        (6, &le::<2>(5), "counts 5 data blocks"),
        (8, &le::<8>(78), "carries lsid 78, sought 77"),
        (16, &le::<2>(0), "0 records, expected 1 to 15"),
        (16, &le::<2>(16), "16 records, expected 1 to 15"),
        (16, &le::<2>(u64::from(u16::MAX)), "65535 records"),
        (16, &le::<2>(3), "counts 6 data blocks, its records have 5"),
        (16, &le::<2>(5), "record 4: flags are 0x0"),
        (18, &le::<2>(0), "counts 0 padding records, there are 1"),
        (18, &le::<2>(2), "counts 2 padding records, there are 1"),
        (20, &[0xff; 4], ""),
        (record(0, 4), &le::<4>(0), "record 0: flags are 0x0"),
        (record(0, 4), &le::<4>(2), "record 0: flags are 0x2"),
        (record(0, 4), &le::<4>(7), "record 0: flags are 0x7"),
        (record(0, 4), &le::<4>(4), "record 0: flags are 0x4"),
        (record(0, 4), &le::<4>(3), "there are 2"),
        (record(0, 16), &le::<4>(0), "record 0: size is 0"),
        (record(0, 16), &le::<4>(65536), "record 0: size is 65536"),
        (record(0, 16), &le::<4>(3), "record 1: lsid is"),
        (record(1, 8), &le::<8>(9), ""),
        (record(2, 16), &le::<4>(0), "record 2: size is 0"),
        (record(2, 16), &le::<4>(u64::from(u32::MAX)), ""),
        (
            record(3, 20),
            &le::<2>(5),
            "record 3: lsid is 83 (local 5), expected 83",
        ),
        (record(3, 22), &[0xff; 2], ""),
        (
            record(3, 24),
            &le::<8>(82),
            "record 3: lsid is 82 (local 6), expected 83",
        ),
        (record(0, 20), &le::<2>(0), "record 0: lsid is 78 (local 0)"),
        (record(4, 0), &[0xff; 300], ""),
    ];
    each_case(&block, (0, SALT), cases, |b| {
        LogpackHeader::decode(b, B512, SALT, Lsid(77))
    });
    assert!(LogpackHeader::decode(&block, B4096, SALT, Lsid(77)).is_err());

    // Padding of no size; more than 15 records where a block holds 127.
    let mut builder = LogpackBuilder::new(B4096, SALT, Lsid(0));
    builder.push_padding(0).unwrap();
    for _ in 0..126 {
        builder.push_discard(Lb(0), Lb(1)).unwrap();
    }
    let (header, block) = builder.finish().unwrap();
    assert_eq!((header.total_io_pb(), header.next_lsid()), (0, Lsid(1)));
    let cases: &[Case<'_>] = &[(16, &le::<2>(128), "128 records, expected 1 to 127")];
    each_case(&block, (0, SALT), cases, |b| {
        LogpackHeader::decode(b, B4096, SALT, Lsid(0))
    });
}

#[test]
fn a_logpack_ends_at_the_largest_lsid_at_the_latest() {
    for (lsid, good) in [(u64::MAX - 3, true), (u64::MAX - 2, false), (u64::MAX - 1, false)] {
        let mut builder = LogpackBuilder::new(B512, SALT, Lsid(lsid));
        builder.push_normal(Lb(0), Lb(1), 0).unwrap();
        let block = builder.finish().unwrap().1;
        let found = LogpackHeader::decode(&block, B512, SALT, Lsid(lsid));
        assert_eq!(found.is_ok(), good, "{lsid}: {found:?}");
    }
}

#[test]
fn end_blocks() {
    for pbs in [B512, B4096] {
        let block = end_block(pbs, SALT);
        assert_eq!(block.len(), pbs.bytes());
        assert_eq!(checksum(&block, SALT), 0);
        let mut expected = vec![0; pbs.bytes()];
        expected[4] = 3;
        expected[8..16].fill(0xff);
        assert_eq!(block[4..], expected[4..]);
        let decode = |b: &[u8], salt| LogpackHeader::decode(b, pbs, salt, Lsid(77)).unwrap_err();
        assert_eq!(decode(&block, SALT), LogpackHeaderError::EndBlock);
        // Existing readers do not look at its checksum; to us it is as damaged as anything else.
        assert!(matches!(
            decode(&block, Salt(1)),
            LogpackHeaderError::Checksum { .. }
        ));
    }
}

#[test]
fn wlog_file_headers() {
    let header = WlogFileHeader {
        pbs: B4096,
        salt: SALT,
        uuid: Uuid([7; 16]),
        begin: Lsid(5),
        end: Lsid(9),
    };
    let cases: &[Case<'_>] = &[
        (0, &le::<2>(3), "sector type is 3, expected 4"),
        (2, &le::<2>(1), "version is 1, expected 2"),
        (4, &le::<2>(512), "header size is 512, expected 4096"),
        (6, &[0xff; 2], ""),
        (16, &le::<4>(4096), "logical block size is 4096, expected 512"),
        (20, &le::<4>(512), ""),
        (20, &le::<4>(0), "physical block size is 0"),
        (20, &le::<4>(1000), "physical block size is 1000"),
        (20, &le::<4>(8192), "physical block size is 8192"),
        (40, &le::<8>(9), "begin lsid 9, end lsid 9"),
        (40, &le::<8>(10), "begin lsid 10, end lsid 9"),
        (48, &le::<8>(u64::MAX), ""),
        (56, &[0xff; 4040], ""),
    ];
    each_case(&header.encode(), (8, Salt::ZERO), cases, WlogFileHeader::decode);
    assert!(WlogFileHeader::decode(&header.encode()[..4095]).is_err());
}

#[test]
fn wdiff_file_headers() {
    let layout = super::wdiff::Layout::Sorted;
    let uuid = Uuid([7; 16]);
    let cases: &[Case<'_>] = &[
        (4, &le::<2>(1), "version is 1, expected 2"),
        (4, &le::<2>(3), "version is 3, expected 2"),
        (6, &[1], ""),
        (6, &[2], "type is 2, expected 0 (sorted) or 1 (indexed)"),
        (7, &[0xff; 9], ""),
    ];
    let header = WdiffFileHeader { layout, uuid }.encode();
    each_case(&header, (0, Salt::ZERO), cases, WdiffFileHeader::decode);
}

/// Two records of data, then zeros: at 10 of 2 blocks raw, at 12 of 8 blocks compressed, at 20 of 1.
fn pack() -> PackHeader {
    let record = |address, blocks, kind, compression, data_size| PackRecord {
        address: Lb(address),
        blocks: Lb(blocks),
        kind,
        compression,
        data_offset: 0,
        data_size,
        checksum: 0,
    };
    let mut pack = PackHeader::default();
    pack.push(record(10, 2, RecordKind::Normal, Compression::None, 1024));
    pack.push(record(12, 8, RecordKind::Normal, Compression::Snappy, 100));
    pack.push(record(20, 1, RecordKind::AllZero, Compression::None, 0));
    pack
}

#[test]
fn sorted_packs() {
    let record = |n: usize, field: usize| 16 + 32 * n + field;
    let cases: &[Case<'_>] = &[
        (4, &le::<2>(128), "record count is 128, expected at most 127"),
        (4, &le::<2>(2), ""),
        (4, &le::<2>(1), "data size is 1124, expected the sum"),
        (4, &le::<2>(0), "data size is 1124, expected the sum"),
        (6, &[1], "record count is 3, expected 0 in the end pack"),
        (6, &[0xfe], ""),
        (7, &[0xff], ""),
        (8, &le::<4>(1123), "data size is 1123, expected the sum"),
        (8, &le::<4>(1125), "data size is 1125, expected the sum"),
        (
            8,
            &le::<4>(u64::from(MAX_PACK_DATA) + 1),
            "data size is 33554433, expected at most 33554432",
        ),
        (12, &[0xff; 4], ""),
        (record(0, 0), &le::<8>(9), ""),
        (record(0, 0), &le::<8>(6), "address 6 is below 7"),
        (record(0, 8), &le::<4>(0), "size in blocks is 0"),
        (
            record(0, 8),
            &le::<4>(1),
            "data size is 1024, expected 512 as it is not compressed",
        ),
        (record(1, 0), &le::<8>(11), "address 11 is below 12"),
        (record(1, 0), &le::<8>(13), "address 20 is below 21"),
        (
            record(1, 8),
            &le::<4>(u64::from(u32::MAX)),
            "size in blocks is 4294967295, expected 1 to",
        ),
        (record(1, 12), &[1], ""),
        (record(1, 12), &[6], "not both all-zero and discard"),
        (record(1, 12), &[2], "data size is 100, expected 0 for its kind"),
        (record(1, 13), &[6], "compression type is 6, expected 0 to 5"),
        (record(1, 14), &[0xff; 2], ""),
        (
            record(1, 16),
            &le::<4>(1025),
            "data offset is 1025, expected 1024",
        ),
        (record(2, 0), &le::<8>(u64::MAX), "an end below 2^64"),
        (record(2, 8), &le::<4>(u64::from(u32::MAX)), ""),
        (record(2, 13), &[9], ""),
        (record(2, 16), &le::<4>(0), "data offset is 0, expected 1124"),
        (record(2, 28), &[0xff; 4], ""),
        (record(3, 0), &[0xff; 3984], ""),
    ];
    each_case(&pack().encode(), (0, Salt::ZERO), cases, |b| {
        PackHeader::decode(b, 4128, Lb(7), MAX_IMAGE_BYTES)
    });
    // Only a record alone in its pack may have more than 32 MiB.
    let alone = PackRecord {
        blocks: Lb(70_000),
        data_size: 70_000 * 512,
        data_offset: 0,
        ..pack().records()[0]
    };
    let mut large = PackHeader::default();
    large.push(alone);
    assert!(!large.has_room_for(0) || large.total_size() > MAX_PACK_DATA);
    assert!(PackHeader::decode(&large.encode(), 32, Lb(0), MAX_IMAGE_BYTES).is_ok());
    assert!(
        PackHeader::decode(&large.encode(), 32, Lb(0), 32 << 20).is_err(),
        "a bound that was set"
    );
    let end = PackHeader::end().encode();
    assert!(PackHeader::decode(&end, 32, Lb(0), 0).unwrap().is_end());
    assert_eq!((&end[4..8], &end[8..]), (&[0, 0, 1, 0][..], &[0; 4088][..]));
}

#[test]
fn index_records() {
    let record = IndexRecord {
        address: Lb(16),
        blocks: Lb(4),
        kind: RecordKind::Normal,
        compression: Compression::Snappy,
        data_offset: 100,
        data_size: 50,
        io_offset: Lb(3),
        orig_blocks: Lb(8),
        io_checksum: 9,
    };
    let decode = |b: &[u8]| IndexRecord::decode(b, 200, Lb(16), 152, MAX_IMAGE_BYTES);
    let cases: &[Case<'_>] = &[
        (0, &le::<8>(15), "address 15 is below 16"),
        (0, &le::<8>(u64::MAX), "an end below 2^64"),
        (8, &le::<4>(0), "io offset is 3, expected 0 blocks within 8"),
        (8, &le::<4>(5), ""),
        (8, &le::<4>(6), "io offset is 3, expected 6 blocks within 8"),
        (12, &[1], ""),
        (12, &[6], "not both all-zero and discard"),
        (12, &[4], "data size is 50, expected 0 for its kind"),
        (13, &[6], "compression type is 6, expected 0 to 5"),
        (13, &[0], "as it is not compressed"),
        (14, &[0xff; 2], ""),
        (16, &le::<8>(31), "data offset is 31"),
        (16, &le::<8>(32), ""),
        (16, &le::<8>(102), ""),
        (16, &le::<8>(103), "data offset is 103"),
        (16, &le::<8>(u64::MAX), "data offset is"),
        (28, &le::<4>(4), ""),
        (28, &le::<4>(5), "io offset is 5, expected 4 blocks within 8"),
        (28, &le::<4>(u64::from(u32::MAX)), "io offset is 4294967295"),
        (32, &le::<4>(0), "size in blocks is 0"),
        (32, &le::<4>(u64::from(u32::MAX)), "size in blocks is 4294967295"),
        (36, &[0xff; 4], ""),
    ];
    each_case(&record.encode(), (44, Salt::ZERO), cases, decode);
    // Without data the offsets mean nothing, but the record's own checksum counts.
    let dataless = IndexRecord {
        kind: RecordKind::Discard,
        compression: Compression::None,
        data_offset: u64::MAX,
        data_size: 0,
        orig_blocks: Lb(0),
        io_checksum: 0,
        ..record
    };
    assert_eq!(decode(&dataless.encode()).unwrap(), dataless);
    let mut damaged = dataless.encode();
    damaged[28] ^= 1;
    assert!(decode(&damaged).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn index_supers() {
    let sound = IndexSuper {
        index_offset: 64,
        n_records: 3,
        n_data: 9,
    };
    let file_size = 64 + 3 * 48 + 24;
    let cases: &[Case<'_>] = &[
        (0, &le::<8>(56), "index offset is 56"),
        (0, &le::<8>(112), "index offset is 112"),
        (0, &le::<8>(u64::MAX - 7), "index offset is"),
        (8, &le::<4>(2), "index offset is 64"),
        (8, &le::<4>(4), "index offset is 64"),
        (8, &le::<4>(u64::from(u32::MAX)), "index offset is 64"),
        (12, &le::<4>(0), ""),
        (16, &[0xff; 4], ""),
    ];
    each_case(&sound.encode(), (20, Salt::ZERO), cases, |b| {
        IndexSuper::decode(b, file_size)
    });
    let before_the_header = IndexSuper {
        index_offset: 24,
        ..sound
    };
    assert!(IndexSuper::decode(&before_the_header.encode(), file_size - 40).is_err());
    let not_aligned = IndexSuper {
        index_offset: 68,
        ..sound
    };
    assert!(IndexSuper::decode(&not_aligned.encode(), file_size + 4).is_err());
    assert!(IndexSuper::decode(&sound.encode(), file_size + 1).is_err());
}
