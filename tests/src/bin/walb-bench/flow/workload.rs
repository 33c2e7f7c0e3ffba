//! The data: random 4 KiB writes over a range as large as the log, contents that lz4 roughly halves.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use bytes::Bytes;
use walb_common::convert::IndexedConverter;
use walb_common::format::wlog::WlogReader;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

use crate::generate::{self, Data, Io, WlogSpec};

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
        let spec = WlogSpec {
            seed: 1,
            size,
            range: size,
            io: Io::Blocks,
            data: Data::Half,
        };
        let made = generate::wlog(&wlog, spec)?;
        let mut work = Self {
            dir: dir.to_owned(),
            wlog,
            parts: Vec::new(),
        };
        work.split(made.ios)?;
        Ok(work)
    }

    fn split(&mut self, ios: u64) -> Result<()> {
        let mut reader = self.reader()?;
        for part in 0..PARTS {
            let path = self.dir.join(format!("part-{part}.wdiff"));
            let out = BufWriter::new(File::create(&path)?);
            let setting = CompressionSetting::of(Compression::Lz4);
            let mut converter = IndexedConverter::new(out, Uuid([7; 16]), setting, Lb(2048))?;
            let mut taken = 0;
            while taken < ios / PARTS {
                let Some(pack) = reader.next_pack()? else { break };
                taken += pack.header().records().len() as u64;
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
