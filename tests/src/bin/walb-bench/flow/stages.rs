//! The stages that need no peer.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::Result;
use walb_common::convert::{IndexedConverter, merge_to_sorted};
use walb_common::format::wdiff::WdiffReader;
use walb_common::types::{Compression, CompressionSetting, Lb, Uuid};

use super::workload::Workload;
use super::{Cost, measured};

/// Reads every logpack and verifies header and data. Bytes: of log.
pub fn read_log(work: &Workload) -> Result<Cost> {
    measured(|| {
        let mut reader = work.reader()?;
        let mut bytes = 0;
        while let Some(pack) = reader.next_pack()? {
            bytes += pack.data().len() as u64;
        }
        Ok(bytes)
    })
}

/// Reads, verifies, and makes an indexed wdiff with lz4. Bytes: of log.
pub fn convert(work: &Workload) -> Result<Cost> {
    measured(|| {
        let mut reader = work.reader()?;
        let out = BufWriter::new(File::create(work.scratch())?);
        let mut converter = IndexedConverter::new(
            out,
            Uuid([7; 16]),
            CompressionSetting::of(Compression::Lz4),
            Lb(2048),
        )?;
        let mut bytes = 0;
        while let Some(pack) = reader.next_pack()? {
            bytes += pack.data().len() as u64;
            converter.add_pack(&pack)?;
        }
        converter.finish()?.0.flush()?;
        Ok(bytes)
    })
}

/// Merges ten wdiffs into one sorted. Bytes: of the inputs as they are stored.
pub fn merge(work: &Workload, same: bool) -> Result<Cost> {
    measured(|| {
        let kind = if same { Compression::Lz4 } else { Compression::Zstd };
        let mut bytes = 0;
        let mut inputs = Vec::new();
        for path in work.parts() {
            bytes += std::fs::metadata(path)?.len();
            inputs.push(WdiffReader::open(path)?);
        }
        let out = BufWriter::new(File::create(work.scratch())?);
        let (mut out, _) = merge_to_sorted(inputs, out, Uuid([7; 16]), CompressionSetting::of(kind), Lb(0))?;
        out.flush()?;
        Ok(bytes)
    })
}
