//! The data: random 4 KiB writes over a range as large as the log, contents that lz4 roughly halves.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use walb_common::convert::IndexedConverter;
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{Logpack, LogpackBuilder};
use walb_common::format::wlog::{WlogFileHeader, WlogReader, WlogWriter};
use walb_common::types::{Compression, CompressionSetting, Lb, Lsid, PhysicalBlockSize, Uuid};

/// Physical blocks of the log.
pub const PBS: PhysicalBlockSize = PhysicalBlockSize::B4096;
const SALT: Salt = Salt(0x5a17_c0de);
const RECORDS: u64 = 64;
const PARTS: u64 = 10;

/// Files to work on.
pub struct Workload {
    dir: PathBuf,
    wlog: PathBuf,
    parts: Vec<PathBuf>,
}

impl Workload {
    /// Makes a wlog of about `size` bytes, and ten wdiffs of a tenth each.
    pub fn create(dir: &Path, size: u64) -> Result<Self> {
        let wlog = dir.join("workload.wlog");
        let mut random = StdRng::seed_from_u64(1);
        let templates: Vec<[u8; 36]> = (0..16)
            .map(|_| std::array::from_fn(|_| random.random()))
            .collect();
        let header = WlogFileHeader {
            pbs: PBS,
            salt: SALT,
            uuid: Uuid([7; 16]),
            begin: Lsid(0),
            end: Lsid::INVALID,
        };
        let mut writer = WlogWriter::new(BufWriter::new(File::create(&wlog)?), header)?;
        let blocks = size / 4096;
        for _ in 0..blocks / RECORDS {
            let mut builder = LogpackBuilder::new(PBS, SALT, writer.next_lsid());
            let mut data = BytesMut::new();
            for _ in 0..RECORDS {
                let mut block = [0; 4096];
                for cell in block.chunks_exact_mut(64) {
                    random.fill_bytes(&mut cell[..28]);
                    cell[28..].copy_from_slice(&templates[random.random_range(0..16)]);
                }
                let address = Lb(random.random_range(0..blocks) * 8);
                builder.push_normal(address, Lb(8), checksum(&block, SALT))?;
                data.extend_from_slice(&block);
            }
            let (header, block) = builder.finish().context("an empty logpack")?;
            writer.write(&Logpack::from_stored(header, block, data.freeze()))?;
        }
        writer.finish()?.flush()?;
        let mut work = Self {
            dir: dir.to_owned(),
            wlog,
            parts: Vec::new(),
        };
        work.split(blocks / RECORDS)?;
        Ok(work)
    }

    fn split(&mut self, packs: u64) -> Result<()> {
        let mut reader = self.reader()?;
        for part in 0..PARTS {
            let path = self.dir.join(format!("part-{part}.wdiff"));
            let out = BufWriter::new(File::create(&path)?);
            let setting = CompressionSetting::of(Compression::Lz4);
            let mut converter = IndexedConverter::new(out, Uuid([7; 16]), setting, Lb(2048))?;
            for _ in 0..packs / PARTS {
                let Some(pack) = reader.next_pack()? else { break };
                converter.add_pack(&pack)?;
            }
            converter.finish()?.0.flush()?;
            self.parts.push(path);
        }
        Ok(())
    }

    /// The wlog file.
    pub fn wlog_path(&self) -> &Path {
        &self.wlog
    }

    /// The ten wdiffs, oldest first.
    pub fn parts(&self) -> &[PathBuf] {
        &self.parts
    }

    /// A place for results.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Reads the wlog from its beginning.
    pub fn reader(&self) -> Result<WlogReader<std::io::BufReader<File>>> {
        Ok(WlogReader::open(std::io::BufReader::with_capacity(
            1 << 20,
            File::open(&self.wlog)?,
        ))?)
    }

    /// The wlog's bytes, for the stream.
    pub fn wlog_bytes(&self) -> Result<Bytes> {
        Ok(std::fs::read(&self.wlog)?.into())
    }
}
