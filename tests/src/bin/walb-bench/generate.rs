//! Deterministic wlogs and images: the same seed gives the same bytes.
//!
//! Nothing here keeps more than one logpack in memory, because the peak memory that the kernel counts for a child
//! begins with that of the parent it was spawned from.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{Logpack, LogpackBuilder, LogpackHeader};
use walb_common::format::wlog::{WlogFileHeader, WlogWriter};
use walb_common::types::{Lb, Lsid, PhysicalBlockSize, Uuid};

/// Physical blocks of every log.
pub const PBS: PhysicalBlockSize = PhysicalBlockSize::B4096;
/// All logs are of one volume, so that their wdiffs can be merged.
pub const UUID: Uuid = Uuid([7; 16]);
const SALT: Salt = Salt(0x5a17_c0de);
const BLOCK: usize = 4096;
const BLOCK_LB: u64 = 8;
const CELL: usize = 64;
/// Of each cell, so many bytes are random; the rest is one of the templates.
const CELL_RANDOM: usize = 28;
/// A logpack ends at the latest when so much data is in it.
const PACK_BYTES: usize = 2 << 20;

/// What the written blocks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Contents that lz4 roughly halves.
    Half,
    /// Noise.
    Rand,
}

impl Data {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Rand => "rand",
        }
    }
}

/// How large the writes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// 4 KiB each.
    Blocks,
    /// 512 bytes to 128 KiB, most of them small.
    Mixed,
    /// 1 MiB each, at any logical block.
    Large,
}

/// A wlog to be made.
#[derive(Debug, Clone, Copy)]
pub struct WlogSpec {
    /// Where the random numbers begin.
    pub seed: u64,
    /// Bytes written by the guest; the file is a little larger.
    pub size: u64,
    /// Bytes of the volume that are written to, at random places.
    pub range: u64,
    /// How large the writes are.
    pub io: Io,
    /// What they hold.
    pub data: Data,
}

/// What is in a wlog that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Writes.
    pub ios: u64,
    /// Bytes of the volume that were written at least once, in whole blocks of 4 KiB.
    pub distinct_bytes: u64,
}

/// Sizes of [`Io::Mixed`] in bytes, and out of a hundred how many writes have each.
const MIX: [(usize, u32); 7] = [
    (512, 3),
    (4096, 40),
    (8192, 20),
    (16384, 15),
    (32768, 10),
    (65536, 8),
    (131_072, 4),
];

/// Random numbers, and contents made of them.
struct Source {
    random: StdRng,
    templates: [[u8; CELL - CELL_RANDOM]; 16],
    data: Data,
}

impl Source {
    fn new(seed: u64, data: Data) -> Self {
        // The templates are those of every seed: a volume's contents resemble each other.
        let mut fixed = StdRng::seed_from_u64(1000);
        Self {
            random: StdRng::seed_from_u64(seed),
            templates: std::array::from_fn(|_| std::array::from_fn(|_| fixed.random())),
            data,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        if self.data == Data::Rand {
            return self.random.fill_bytes(bytes);
        }
        for cell in bytes.chunks_mut(CELL) {
            let (noise, rest) = cell.split_at_mut(CELL_RANDOM.min(cell.len()));
            self.random.fill_bytes(noise);
            // Its number comes out of the noise, which saves drawing one.
            let template = &self.templates[usize::from(noise[0] & 15)];
            rest.copy_from_slice(&template[..rest.len()]);
        }
    }

    fn size(&mut self, io: Io) -> usize {
        match io {
            Io::Blocks => return BLOCK,
            Io::Large => return 1 << 20,
            Io::Mixed => {}
        }
        let mut drawn = self.random.random_range(0..100_u32);
        for (size, share) in MIX {
            match drawn.checked_sub(share) {
                Some(rest) => drawn = rest,
                None => return size,
            }
        }
        BLOCK
    }
}

/// Makes a wlog at `path`, synced.
pub fn wlog(path: &Path, spec: WlogSpec) -> Result<Made> {
    let header = WlogFileHeader {
        pbs: PBS,
        salt: SALT,
        uuid: UUID,
        begin: Lsid(0),
        end: Lsid::INVALID,
    };
    let mut source = Source::new(spec.seed, spec.data);
    let mut written = vec![0_u64; usize::try_from(spec.range.div_ceil(BLOCK as u64 * 64))?];
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut writer = WlogWriter::new(BufWriter::with_capacity(1 << 20, file), header)?;
    let (mut bytes, mut ios) = (0, 0);
    while bytes < spec.size {
        let (pack, data_bytes) = logpack(&mut source, spec, writer.next_lsid(), spec.size - bytes)?;
        for record in pack.header().records() {
            ios += 1;
            let (first, last) = (record.offset.0, record.offset.0 + record.size.0 - 1);
            for block in first / BLOCK_LB..=last / BLOCK_LB {
                written[usize::try_from(block / 64)?] |= 1 << (block % 64);
            }
        }
        bytes += data_bytes;
        writer.write(&pack)?;
    }
    let mut out = writer.finish()?;
    out.flush().and_then(|()| out.get_ref().sync_all())?;
    let blocks: u64 = written.iter().map(|word| u64::from(word.count_ones())).sum();
    Ok(Made {
        ios,
        distinct_bytes: blocks * BLOCK as u64,
    })
}

/// The next logpack, and how many bytes its guest wrote; it ends when `rest` of them are there.
fn logpack(source: &mut Source, spec: WlogSpec, lsid: Lsid, rest: u64) -> Result<(Logpack, u64)> {
    let max = LogpackHeader::max_records(PBS);
    let records = match spec.io {
        Io::Blocks | Io::Large => max,
        Io::Mixed => source.random.random_range(1..=max),
    };
    let mut builder = LogpackBuilder::new(PBS, SALT, lsid);
    let mut data = BytesMut::new();
    let mut bytes = 0;
    for _ in 0..records {
        let size = source.size(spec.io);
        if bytes >= rest || data.len() + size > PACK_BYTES {
            break;
        }
        let aligned = match spec.io {
            Io::Large => 512,
            Io::Blocks | Io::Mixed => size.min(BLOCK) as u64,
        };
        let places = (spec.range - size as u64) / aligned + 1;
        let address = Lb(source.random.random_range(0..places) * aligned / 512);
        let at = data.len();
        data.resize(at + size, 0);
        source.fill(&mut data[at..]);
        builder.push_normal(address, Lb(size as u64 / 512), checksum(&data[at..], SALT))?;
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        bytes += size as u64;
    }
    let (header, block) = builder.finish().context("an empty logpack")?;
    Ok((Logpack::from_stored(header, block, data.freeze()), bytes))
}

/// Makes an image of `size` bytes at `path`, without a hole, synced.
pub fn image(path: &Path, size: u64, seed: u64, data: Data) -> Result<()> {
    let mut source = Source::new(seed, data);
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut chunk = vec![0; 1 << 20];
    let mut rest = size;
    while rest > 0 {
        let part = &mut chunk[..usize::try_from(rest.min(1 << 20))?];
        source.fill(part);
        file.write_all(part)?;
        rest -= part.len() as u64;
    }
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: WlogSpec = WlogSpec {
        seed: 1,
        size: 4 << 20,
        range: 1 << 20,
        io: Io::Mixed,
        data: Data::Half,
    };

    #[test]
    fn a_wlog_is_valid_and_the_same_for_the_same_seed_only() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, seed| {
            let path = dir.path().join(name);
            let made = wlog(&path, WlogSpec { seed, ..SPEC }).unwrap();
            (made, std::fs::read(path).unwrap())
        };
        let (one, bytes) = made("one", 1);
        assert_eq!(made("again", 1), (one, bytes.clone()));
        assert_ne!(made("other", 2).1, bytes);

        let mut reader = walb_common::format::wlog::WlogReader::open(&bytes[..]).unwrap();
        let (mut ios, mut written) = (0, 0);
        while let Some(pack) = reader.next_pack().unwrap() {
            ios += pack.header().records().len() as u64;
            written += pack
                .header()
                .records()
                .iter()
                .map(|r| r.size.bytes())
                .sum::<u64>();
        }
        assert_eq!(ios, one.ios);
        assert!(
            (SPEC.size..SPEC.size + (128 << 10)).contains(&written),
            "{written}"
        );
        assert!(one.distinct_bytes > SPEC.range / 2 && one.distinct_bytes <= SPEC.range);
    }
}
