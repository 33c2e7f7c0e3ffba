//! `wdiff recompress`.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use walb_common::format::wdiff::{
    Content, IndexedReader, Layout, WdiffReader, WdiffRecord, WriteStats, WriteWdiffError,
};
use walb_common::types::CompressionSetting;

use super::layout::Writer;
use super::source::open_all;
use crate::options::{self, OutOptions};
use crate::out_file::OutFile;
use crate::{Outcome, Output};

/// Layout, records and uuid stay. All data are decompressed, so a damaged diff is noticed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff recompress a.wdiff --compression zstd:9 -o smaller.wdiff"
)]
pub struct Recompress {
    /// A wdiff; `-` for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    out: OutOptions,
    /// Compression: none, snappy, gzip, lzma, lz4 or zstd, and a level from 0 (the default) to 9
    #[arg(long, value_name = "TYPE[:LEVEL]", value_parser = options::compression)]
    compression: CompressionSetting,
}

impl Recompress {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let out = OutFile::create(&self.out, std::slice::from_ref(&self.file), output)?;
        let reader = open_all(std::slice::from_ref(&self.file), "recompress")?
            .pop()
            .context("no wdiff was named")?;
        let (out, stats) = recompress(reader, &self.file, out, self.compression)?;
        let streamed = matches!(out, OutFile::Stream(_));
        out.commit()?;
        if !streamed {
            output.answer(
                &json!({ "output": self.out.out, "records": stats.records, "bytes": stats.bytes }),
                &format!(
                    "{}: {} records, {} bytes\n",
                    self.out.out.display(),
                    stats.records,
                    stats.bytes
                ),
            )?;
        }
        Ok(Outcome::Positive)
    }
}

fn recompress(
    mut reader: WdiffReader,
    path: &Path,
    out: OutFile,
    setting: CompressionSetting,
) -> anyhow::Result<(OutFile, WriteStats)> {
    let layout = reader.header().layout;
    let mut writer = Writer::new(layout.into(), out, reader.uuid(), setting)?;
    // A second look at the index tells which records share an image.
    let mut index = match layout {
        Layout::Sorted => None,
        Layout::Indexed => Some(open_index(path)?),
    };
    while let Some(record) = reader.next_record()? {
        let stored = match &mut index {
            Some(index) => index
                .next_index_record()
                .with_context(|| reader.name().to_owned())?,
            None => None,
        };
        let Content::Normal(data) = &record.content else {
            writer.write(&record)?;
            continue;
        };
        let address = record.address;
        match (&mut writer, stored) {
            (Writer::Indexed(writer), Some(stored)) => {
                writer.write_part(&record, data, (stored.data_offset, stored.data_size))?;
            }
            (writer, _) => {
                // As if it were not compressed: another level of the same type is another compression, too.
                let raw = data
                    .raw()
                    .map_err(|source| WriteWdiffError::Decompress { address, source })?;
                writer.write(&WdiffRecord::normal(address, raw))?;
            }
        }
    }
    drop(reader);
    Ok(writer.finish()?)
}

fn open_index(path: &Path) -> anyhow::Result<IndexedReader<File>> {
    let name = path.display().to_string();
    let path = if path == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        path
    };
    let file = File::open(path).with_context(|| format!("open {name}"))?;
    let size = file.metadata().with_context(|| format!("look at {name}"))?.len();
    IndexedReader::open(file, size).context(name)
}
