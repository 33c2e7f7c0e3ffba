//! Random IOs from a seed, and the same IOs as logpacks, wlogs and wdiffs.

#![expect(
    clippy::unwrap_used,
    reason = "test code: writing to memory, and IOs made to fit"
)]

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::convert::{IndexedConverter, SortedConverter};
use crate::format::checksum::{Salt, checksum};
use crate::format::log_device::{Logpack, LogpackBuilder, PushError};
use crate::format::wdiff::{IndexedReader, SortedReader, WdiffReader};
use crate::format::wlog::{WlogFileHeader, WlogWriter};
use crate::types::{Compression, CompressionSetting, Lb, Lsid, PhysicalBlockSize, Uuid};

/// One IO of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Io {
    /// A write of whole logical blocks.
    Write {
        /// First block.
        address: Lb,
        /// The data.
        data: Bytes,
    },
    /// A discard.
    Discard {
        /// First block.
        address: Lb,
        /// Blocks.
        blocks: Lb,
    },
}

/// `count` IOs on a volume of `size`: writes (some of zeros, some that compress, some noise) and discards.
pub fn random_ios(seed: u64, size: Lb, count: usize) -> Vec<Io> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let address = Lb(rng.random_range(0..size.0));
            let blocks = Lb(rng.random_range(1..=(size.0 - address.0).min(40)));
            if rng.random_ratio(1, 6) {
                return Io::Discard { address, blocks };
            }
            let mut data = vec![0; blocks.bytes() as usize];
            match rng.random_range(0..4) {
                0 => {}
                1 => rng.fill_bytes(&mut data),
                _ => data.fill_with({
                    let tile: u64 = rng.random();
                    let mut at = 0u32;
                    move || {
                        at += 1;
                        (tile >> (at / 9 % 8 * 8)) as u8
                    }
                }),
            }
            Io::Write {
                address,
                data: data.into(),
            }
        })
        .collect()
}

/// The IOs as logpacks from `first` on, at most `per_pack` records each.
pub fn logpacks(
    ios: &[Io],
    pbs: PhysicalBlockSize,
    salt: Salt,
    first: Lsid,
    per_pack: usize,
) -> Vec<Logpack> {
    let mut packs: Vec<Logpack> = Vec::new();
    let mut rest = ios;
    while !rest.is_empty() {
        let lsid = packs.last().map_or(first, |p| p.header().next_lsid());
        let mut builder = LogpackBuilder::new(pbs, salt, lsid);
        let mut blocks = BytesMut::new();
        let mut taken = 0;
        for io in &rest[..per_pack.min(rest.len())] {
            let pushed = match io {
                Io::Write { address, data } => {
                    let size = Lb(data.len() as u64 / 512);
                    builder
                        .push_normal(*address, size, checksum(data, salt))
                        .map(|_| {
                            blocks.extend_from_slice(data);
                            blocks.resize(blocks.len().next_multiple_of(pbs.bytes()), 0xa5);
                        })
                }
                Io::Discard { address, blocks } => builder.push_discard(*address, *blocks).map(|_| ()),
            };
            match pushed {
                Ok(()) => taken += 1,
                Err(PushError::Full) => break,
                Err(e) => panic!("{io:?}: {e}"),
            }
        }
        let (header, block) = builder.finish().unwrap();
        packs.push(Logpack::from_stored(header, block, blocks.freeze()));
        rest = &rest[taken..];
    }
    packs
}

/// The packs as a complete wlog.
pub fn wlog(packs: &[Logpack], pbs: PhysicalBlockSize, salt: Salt, uuid: Uuid, begin: Lsid) -> Vec<u8> {
    let header = WlogFileHeader {
        pbs,
        salt,
        uuid,
        begin,
        end: Lsid::INVALID,
    };
    let mut writer = WlogWriter::new(Vec::new(), header).unwrap();
    for pack in packs {
        writer.write(pack).unwrap();
    }
    writer.finish().unwrap()
}

/// The net effect of the IOs as a sorted wdiff.
pub fn sorted_wdiff(ios: &[Io], uuid: Uuid, kind: Compression, max_io: Lb) -> Vec<u8> {
    let mut converter = SortedConverter::new(max_io);
    for pack in logpacks(ios, PhysicalBlockSize::B512, Salt(5), Lsid(0), 7) {
        converter.add_pack(&pack).unwrap();
    }
    converter
        .finish(Vec::new(), uuid, CompressionSetting::of(kind))
        .unwrap()
        .0
}

/// The net effect of the IOs as an indexed wdiff.
pub fn indexed_wdiff(ios: &[Io], uuid: Uuid, kind: Compression, max_io: Lb) -> Vec<u8> {
    let setting = CompressionSetting::of(kind);
    let mut converter = IndexedConverter::new(Vec::new(), uuid, setting, max_io).unwrap();
    for pack in logpacks(ios, PhysicalBlockSize::B4096, Salt(5), Lsid(0), 7) {
        converter.add_pack(&pack).unwrap();
    }
    converter.finish().unwrap().0
}

/// A reader of a wdiff in memory, of either layout.
pub fn wdiff_reader(stored: impl Into<Bytes>) -> WdiffReader {
    let stored: Bytes = stored.into();
    if let Ok(reader) = SortedReader::new(std::io::Cursor::new(stored.clone())) {
        let header = *reader.header();
        return WdiffReader::from_source(reader, header, "in memory");
    }
    let size = stored.len() as u64;
    let reader = IndexedReader::open(stored, size).unwrap();
    let header = *reader.header();
    WdiffReader::from_source(reader, header, "in memory")
}
