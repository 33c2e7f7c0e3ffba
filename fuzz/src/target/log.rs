//! The log: super sector, logpack headers, whole devices, wlogs.

use bytes::Bytes;
use walb_common::convert::{IndexedConverter, SortedConverter};
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{
    Logpack, LogpackHeader, RecordKind, SUPER_SECTOR_OFFSET, ScanEnd, Scanner, SuperSector, stale_headers,
};
use walb_common::format::wlog::{
    LogpackParser, MAX_PACK_BYTES, Parsed, ReadLogpackError, WlogReader, WlogWriter,
};
use walb_common::testing::{logpacks, wlog};
use walb_common::types::{Compression, CompressionSetting, Lb, Lsid, PhysicalBlockSize, Uuid};
use walb_fuzz_engine::memory::bounded;

use super::{Target, seeds};
use crate::naive::effect::{Step, assert_same};
use crate::naive::log::Log;
use crate::naive::{seal, u32_at, u64_at};

const B512: PhysicalBlockSize = PhysicalBlockSize::B512;
const B4096: PhysicalBlockSize = PhysicalBlockSize::B4096;
const SUPER: usize = SUPER_SECTOR_OFFSET as usize;

fn pbs_of(flags: u8) -> PhysicalBlockSize {
    if flags & 1 == 0 { B512 } else { B4096 }
}

/// Input: a byte that chooses the block size, then the block.
pub const SUPER_SECTOR: Target = Target {
    name: "super-sector",
    about: "the super sector of a log device",
    seeds: || {
        let make = |(flags, pbs)| {
            let sector = SuperSector::format(pbs, 1 << 20, Lb(2048), "vol", Uuid([7; 16]), Salt(5));
            let block = sector.map_or_else(|_| Vec::new(), |s| s.with_written(Lsid(9)).encode());
            [vec![flags], block].concat()
        };
        [(0, B512), (1, B4096)].into_iter().map(make).collect()
    },
    repair: |input, deep| {
        let Some((flags, block)) = input.split_first_mut() else {
            return;
        };
        let length = pbs_of(*flags).bytes();
        if deep {
            input.resize(1 + length, 0);
        } else {
            seal(block, 4, 0);
            return;
        }
        seal(&mut input[1..], 4, 0);
    },
    run: |input| {
        let Some((flags, block)) = input.split_first() else {
            return;
        };
        let pbs = pbs_of(*flags);
        let Ok(sector) = bounded(1 << 10, || SuperSector::decode(block, pbs)) else {
            return;
        };
        assert_eq!(SuperSector::decode(&sector.encode(), pbs).as_ref(), Ok(&sector));
        let ring = sector.ring();
        let fits = sector.check_fits(1 << 40).is_ok();
        for lsid in [sector.oldest(), sector.written(), Lsid(0), Lsid::MAX] {
            let end = ring.offset_of(lsid) + pbs.bytes() as u64;
            assert!(
                !fits || end <= 1 << 40,
                "lsid {lsid} of a ring that fits ends at {end}"
            );
            for (position, length) in ring.extents(lsid, ring.size().min(70000)) {
                assert!(position.checked_add(length).is_some());
            }
        }
        assert_eq!(Some(sector.ring_size()), u64_at(block, 72));
        assert_eq!(Some(sector.written().0), u64_at(block, 88));
        assert!(sector.name().len() <= 3 * 31);
    },
    max_len: 4097,
};

/// Input: flags (1: 4096-byte blocks, 2: sought at another lsid), salt, the block.
pub const LOGPACK_HEADER: Target = Target {
    name: "logpack-header",
    about: "the header block of a logpack",
    seeds: || {
        let mut all = Vec::new();
        for (flags, pbs) in [(0, B512), (1, B4096)] {
            for ios in seeds::ios(Lb(64)) {
                for pack in logpacks(&ios, pbs, Salt(7), Lsid(77), 15) {
                    all.push([&[flags][..], &7_u32.to_le_bytes(), pack.block()].concat());
                }
            }
        }
        all
    },
    repair: |input, deep| {
        if input.len() < 5 {
            return;
        }
        let pb = pbs_of(input[0]).bytes();
        if deep {
            input.resize(5 + pb, 0);
        }
        if input.len() == 5 + pb {
            let salt = u32_at(input, 1).unwrap_or(0);
            let lsid = u64_at(input, 5 + 8).unwrap_or(0);
            Log { pb, salt }.repair(&mut input[5..], lsid, deep);
        }
    },
    run: |input| {
        let (Some(flags), Some(salt), Some(block)) = (input.first(), u32_at(input, 1), input.get(5..)) else {
            return;
        };
        let (pbs, salt) = (pbs_of(*flags), Salt(salt));
        let carried = u64_at(block, 8).unwrap_or(0);
        let sought = Lsid(carried.wrapping_add(u64::from(*flags & 2)));
        let Ok(header) = bounded(16 << 10, || LogpackHeader::decode(block, pbs, salt, sought)) else {
            return;
        };
        assert_eq!(header.lsid(), sought);
        assert_eq!(header.data_bytes(), Log::data_blocks(block) * pbs.bytes());
        check_header(&header, salt);
    },
    max_len: 4101,
};

fn check_header(header: &LogpackHeader, salt: Salt) {
    let pbs = header.pbs();
    let again = LogpackHeader::decode(&header.encode(salt), pbs, salt, header.lsid());
    assert_eq!(again.as_ref(), Ok(header), "what was decoded encodes to the same");
    assert!(header.next_lsid() <= Lsid::MAX && header.next_lsid() > header.lsid());
    for record in header.records() {
        let range = header.data_range(record);
        // Nobody looks at padding, whose size may be that of a wish.
        if record.kind != RecordKind::Padding {
            assert!(
                range.start <= range.end && range.end <= header.data_bytes(),
                "{record:?}"
            );
        }
    }
    for n in 0..=header.records().len() {
        let Some(shrunk) = header.shrunk_to(n) else {
            continue;
        };
        let again = LogpackHeader::decode(&shrunk.encode(salt), pbs, salt, header.lsid());
        assert_eq!(
            again.as_ref(),
            Ok(&shrunk),
            "what is left of a torn pack is a pack"
        );
    }
}

fn block_size_of(image: &[u8]) -> Option<PhysicalBlockSize> {
    PhysicalBlockSize::new(u32_at(image, SUPER + 12)?).ok()
}

/// Input: a log device from its first byte.
pub const LOG_DEVICE: Target = Target {
    name: "log-device",
    about: "a log device: super sector and every pack of the ring",
    seeds: || {
        let mut all = seeds::golden("ldev", 256 << 10);
        for pbs in [B512, B4096] {
            for ios in seeds::ios(Lb(64)) {
                all.extend(device_of(&logpacks(&ios, pbs, Salt(5), Lsid(11), 2), pbs));
            }
        }
        all
    },
    repair: |image, deep| {
        let Some(pbs) = block_size_of(image) else { return };
        let pb = pbs.bytes();
        let Some(block) = image.get_mut(SUPER..SUPER + pb) else {
            return;
        };
        seal(block, 4, 0);
        let Ok(sector) = SuperSector::decode(&image[SUPER..SUPER + pb], pbs) else {
            return;
        };
        if sector.check_fits(image.len() as u64).is_err() {
            return;
        }
        // Packs that wrap are left alone.
        let ring = sector.ring();
        let mut lsid = sector.written();
        for _ in 0..64 {
            let at = ring.offset_of(lsid) as usize;
            let log = Log {
                pb,
                salt: sector.salt().0,
            };
            let end = at + (ring.left_at(lsid) as usize).min(1 + Log::data_blocks(&image[at..at + pb])) * pb;
            if image[at + 4..at + 6] != [3, 0] {
                break;
            }
            log.repair(&mut image[at..end], lsid.0, deep);
            let blocks = 1 + Log::data_blocks(&image[at..at + pb]) as u64;
            lsid = Lsid(lsid.0.wrapping_add(blocks));
        }
    },
    run: run_log_device,
    max_len: 256 << 10,
};

/// A small device with these packs from lsid 11 on.
fn device_of(packs: &[Logpack], pbs: PhysicalBlockSize) -> Option<Vec<u8>> {
    let pb = pbs.bytes();
    let mut image = vec![0; SUPER + 42 * pb];
    let sector = SuperSector::format(pbs, image.len() as u64, Lb(64), "v", Uuid([1; 16]), Salt(5)).ok()?;
    let sector = sector.with_written(Lsid(11));
    image[SUPER..SUPER + pb].copy_from_slice(&sector.encode());
    for pack in packs {
        let whole = [&pack.block()[..], &pack.data()[..]].concat();
        let mut done = 0;
        let header = pack.header();
        for (position, length) in sector.ring().extents(header.lsid(), (whole.len() / pb) as u64) {
            let part = &whole[done..done + length as usize];
            image[position as usize..][..part.len()].copy_from_slice(part);
            done += part.len();
        }
    }
    Some(image)
}

fn run_log_device(image: &[u8]) {
    let Some(pbs) = block_size_of(image) else { return };
    let pb = pbs.bytes();
    let Some(block) = image.get(SUPER..SUPER + pb) else {
        return;
    };
    let Ok(sector) = SuperSector::decode(block, pbs) else {
        return;
    };
    if sector.check_fits(image.len() as u64).is_err() {
        return;
    }
    let (ring, salt) = (sector.ring(), sector.salt());
    let mut scanner = Scanner::new(image, ring, salt, sector.written());
    let mut packs = Vec::new();
    // Twice the image: all packs are kept here.
    bounded(3 * image.len() + (64 << 10), || {
        while let Some(pack) = scanner.next_pack().expect("the ring lies within the image") {
            packs.push(pack);
            assert!(packs.len() as u64 <= ring.size(), "more packs than blocks");
        }
    });
    let end = scanner.end().expect("a scan ends").clone();

    // Bytes at an lsid, in the order of the log, by division and remainder.
    let first = sector.ring().offset_of(Lsid(0)) as usize;
    let at = |lsid: u64, blocks: usize| -> Vec<u8> {
        (0..blocks as u64)
            .flat_map(|n| {
                let start = first + (lsid.wrapping_add(n) % ring.size()) as usize * pb;
                image[start..start + pb].to_vec()
            })
            .collect()
    };
    let log = Log { pb, salt: salt.0 };
    let mut lsid = sector.written().0;
    let torn = matches!(end, ScanEnd::Torn { rewrite: Some(_), .. });
    for (n, pack) in packs.iter().enumerate() {
        let header = pack.header();
        assert_eq!(header.lsid().0, lsid);
        check_header(header, salt);
        assert!(pack.verify(salt).is_ok());
        let stored = at(lsid, 1 + usize::from(header.total_io_pb()));
        assert_eq!(&pack.data()[..], &stored[pb..], "data of pack {lsid}");
        let is_torn = torn && n + 1 == packs.len();
        if !is_torn {
            assert_eq!(&pack.block()[..], &stored[..pb]);
        }
        assert_same(
            "pack",
            &steps_of([pack]),
            &log.steps(&[&pack.block()[..], pack.data()].concat())
                .unwrap_or_default(),
        );
        lsid = header.next_lsid().0;
    }
    assert_eq!(end.lsid().0, lsid, "the end follows the last pack");

    // Headers alone go at least as far.
    let mut headers = Scanner::new(image, ring, salt, sector.written());
    for pack in &packs {
        let header = headers.next_header().ok().flatten();
        let header = header.expect("a pack has a header");
        assert!(header.records().starts_with(pack.header().records()));
    }
    let stale = stale_headers(&image, &ring, salt, sector.oldest(), end.lsid(), 64);
    for found in stale.expect("the ring lies within the image") {
        assert!(found >= end.lsid());
    }
}

/// Input: the bytes of a wlog, or of several.
pub const WLOG: Target = Target {
    name: "wlog",
    about: "wlogs, single and concatenated, and their conversion to wdiffs",
    seeds: || {
        let mut all = seeds::golden("wlog", 64 << 10);
        let uuid = Uuid([3; 16]);
        for pbs in [B512, B4096] {
            for ios in seeds::ios(Lb(64)) {
                let packs = logpacks(&ios, pbs, Salt(9), Lsid(5), 2);
                let first = wlog(&packs, pbs, Salt(9), uuid, Lsid(5));
                let next = packs.last().map_or(Lsid(5), |p| p.header().next_lsid());
                let packs = logpacks(&ios[..1], pbs, Salt(9), next, 2);
                let second = wlog(&packs, pbs, Salt(9), uuid, next);
                all.push([&first[..], &second].concat());
                all.push(first);
            }
        }
        all
    },
    repair: |input, deep| repair_wlogs(input, deep),
    run: run_wlog,
    max_len: 64 << 10,
};

fn repair_wlogs(bytes: &mut [u8], deep: bool) {
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + 4096) {
        seal(header, 8, 0);
        let pb = if u32_at(header, 20) == Some(512) {
            512
        } else {
            4096
        };
        let (salt, mut lsid) = (u32_at(header, 12).unwrap_or(0), u64_at(header, 40).unwrap_or(0));
        at += 4096;
        let log = Log { pb, salt };
        loop {
            let Some(block) = bytes.get(at..at + pb) else {
                return;
            };
            let is_end = u64_at(block, 8) == Some(u64::MAX);
            let end = (at + (1 + Log::data_blocks(block)) * pb).min(bytes.len());
            log.repair(
                &mut bytes[at..end],
                if is_end { u64::MAX } else { lsid },
                deep && !is_end,
            );
            let blocks = 1 + Log::data_blocks(&bytes[at..]);
            lsid = lsid.wrapping_add(blocks as u64);
            at += blocks * pb;
            if is_end {
                break;
            }
        }
    }
}

fn steps_of<'a>(packs: impl IntoIterator<Item = &'a Logpack>) -> Vec<Step> {
    use crate::naive::effect::Change;
    let mut steps = Vec::new();
    for pack in packs {
        for (record, data) in pack.records() {
            let change = match record.kind {
                RecordKind::Padding => continue,
                RecordKind::Discard => Change::Discard,
                RecordKind::Normal => Change::Data(data.to_vec()),
            };
            steps.push(Step {
                address: record.offset.0,
                blocks: record.size.0,
                change,
            });
        }
    }
    steps
}

fn run_wlog(input: &[u8]) {
    // What is read is kept: twice, as a pack's buffer becomes the pack. One pack may be of the configured size.
    let limit = MAX_PACK_BYTES + 3 * input.len() + (64 << 10);
    let Ok(mut reader) = bounded(8 << 10, || WlogReader::open(input)) else {
        return;
    };
    let mut position = 4096;
    loop {
        let header = *reader.header();
        let mut packs = Vec::new();
        let end = bounded(limit, || {
            loop {
                match reader.next_pack() {
                    Ok(Some(pack)) => packs.push(pack),
                    Ok(None) => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        });
        check_packs(&header, &packs, &input[position..], end.is_ok());
        if end.is_err() {
            return;
        }
        check_conversion(&packs);
        let stored: usize = packs.iter().map(Logpack::stored_bytes).sum();
        position += stored + header.pbs.bytes();
        match reader.next_wlog() {
            Ok(Some(next)) => reader = next,
            Ok(None) => return assert_eq!(position, input.len(), "everything was read"),
            Err(_) => return,
        }
        position += 4096;
    }
}

/// `stored` are the bytes behind the file header; `whole` says that the end block was found.
fn check_packs(
    header: &walb_common::format::wlog::WlogFileHeader,
    packs: &[Logpack],
    stored: &[u8],
    whole: bool,
) {
    let (pb, salt) = (header.pbs.bytes(), header.salt);
    let log = Log { pb, salt: salt.0 };
    let mut position = 0;
    for pack in packs {
        check_header(pack.header(), salt);
        let length = pack.stored_bytes();
        let bytes = &stored[position..position + length];
        assert_eq!(bytes, [&pack.block()[..], pack.data()].concat(), "stored as read");
        assert_eq!(Some(steps_of([pack])), log.steps(bytes));
        position += length;
    }
    // In chunks the same comes out.
    let mut parser = LogpackParser::new(header.pbs, salt, header.begin);
    let mut count = 0;
    let mut ended = Ok(false);
    'chunks: for chunk in stored.chunks(1 + stored.len() % 1777) {
        parser.push(Bytes::copy_from_slice(chunk));
        loop {
            match parser.next() {
                Ok(Parsed::Pack(pack)) => {
                    assert_eq!(Some(&pack), packs.get(count));
                    count += 1;
                }
                Ok(Parsed::NeedMore) => break,
                Ok(Parsed::End) => {
                    ended = Ok(true);
                    break 'chunks;
                }
                Err(e) => {
                    ended = Err(e);
                    break 'chunks;
                }
            }
        }
    }
    assert_eq!(count, packs.len(), "packs out of chunks");
    assert_eq!(matches!(ended, Ok(true)), whole, "{ended:?}");
    if let Ok(false) = ended {
        assert!(matches!(
            parser.finish(),
            Err(ReadLogpackError::Truncated { .. } | ReadLogpackError::MissingEndBlock { .. })
        ));
    }
    // Written again it is the same.
    let Ok(mut writer) = WlogWriter::new(Vec::new(), *header) else {
        panic!("writing to memory")
    };
    for pack in packs {
        assert!(
            writer.write(pack).is_ok(),
            "what was read in order is written in order"
        );
    }
    let again = writer.finish().unwrap_or_default();
    assert_eq!(again[4096..][..position], stored[..position]);
    let header_again = walb_common::format::wlog::WlogFileHeader::decode(&again[..4096]);
    assert_eq!(header_again.as_ref(), Ok(header));
}

fn check_conversion(packs: &[Logpack]) {
    let steps = steps_of(packs);
    // A discard of the largest size becomes two million pieces where pieces are bounded: too slow to do each time.
    let discarded: u64 = packs
        .iter()
        .flat_map(|p| p.header().records())
        .filter(|r| r.kind == RecordKind::Discard)
        .map(|r| r.size.0)
        .sum();
    let setting = CompressionSetting::of(Compression::Lz4);
    for max_io in [Lb(0), Lb(2048), Lb(3)] {
        let Ok(mut indexed) = IndexedConverter::new(Vec::new(), Uuid::NIL, setting, max_io) else {
            panic!("writing to memory")
        };
        let all: Result<(), _> = packs.iter().try_for_each(|pack| indexed.add_pack(pack));
        let beyond = steps.iter().any(|s| s.address.checked_add(s.blocks).is_none());
        assert_eq!(
            all.is_err(),
            beyond,
            "only a range beyond the last address is refused"
        );
        if all.is_err() {
            return;
        }
        let (wdiff, _) = indexed.finish().expect("writing to memory");
        let found = super::wdiff::read(&wdiff).expect("what we write we read");
        assert_same("indexed", &found, &steps);
        if discarded > 1 << 12 && max_io != Lb(0) {
            continue;
        }
        let mut sorted = SortedConverter::new(max_io);
        for pack in packs {
            sorted.add_pack(pack).expect("the other took it");
        }
        let (wdiff, _) = sorted
            .finish(Vec::new(), Uuid::NIL, setting)
            .expect("writing to memory");
        let found = super::wdiff::read(&wdiff).expect("what we write we read");
        assert_same("sorted", &found, &steps);
    }
}
