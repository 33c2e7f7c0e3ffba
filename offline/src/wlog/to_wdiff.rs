//! `wlog to-wdiff`.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use walb_common::convert::{ConvertStats, IndexedConverter, SortedConverter, merge_to_sorted};
use walb_common::format::wdiff::{WdiffReader, WriteStats};
use walb_common::format::wlog::Logpack;
use walb_common::types::{CompressionSetting, Lb, Uuid};

use super::chain::Chain;
use crate::options::{self, Layout, OutOptions, WdiffOptions};
use crate::out_file::{self, OutFile};
use crate::output::mebibytes;
use crate::{Outcome, Output};

/// Log data that a sorted conversion keeps in memory; beyond it, intermediate diffs go to temporary files.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Intermediate diffs that are merged at once: each is an open file.
const SEGMENTS_MAX: usize = 64;

/// The net effect of the logs, which must follow each other without a gap.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wlog to-wdiff a.wlog b.wlog -o 20260102030405-M--0-1.wdiff\n  \
walbc offline wlog to-wdiff - --layout indexed --compression zstd:3 -o -\n\nThe name of a diff in an archive carries its \
snapshots and time: it is for you to give. Temporary files of a large sorted conversion go beside OUT, or to TMPDIR \
with `-o -`."
)]
pub struct ToWdiff {
    /// Logs, oldest first; `-` for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    wdiff: WdiffOptions,
    /// Largest record, in bytes with an optional suffix (k, m); 0 for no limit
    #[arg(long, value_name = "BYTES", default_value = "1m", value_parser = options::max_io)]
    max_io: Lb,
}

impl ToWdiff {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let out = OutFile::create(&self.out, &self.files, output)?;
        let mut chain = Chain::open(self.files, "convert")?;
        let setting = self.wdiff.compression;
        let (out, stats) = match self.wdiff.layout {
            Layout::Indexed => to_indexed(&mut chain, out, setting, self.max_io)?,
            Layout::Sorted => {
                let segments = Segments::new(out.scratch_dir(), chain.uuid(), setting);
                to_sorted(&mut chain, out, segments, self.max_io, SEGMENT_BYTES)?
            }
        };
        let streamed = matches!(out, OutFile::Stream(_));
        out.commit()?;
        if streamed {
            return Ok(Outcome::Positive);
        }
        let (begin, end) = (chain.begin(), chain.next_lsid());
        let json = json!({
            "output": self.out.out, "uuid": chain.uuid(), "begin_lsid": begin, "end_lsid": end, "packs": stats.packs,
            "ios": stats.ios, "written_lb": stats.written, "records": stats.wdiff.records, "bytes": stats.wdiff.bytes,
        });
        let text = format!(
            "{}: {} records, {} bytes, from {} writes and discards of {}, lsid {begin} to {end}\n",
            self.out.out.display(),
            stats.wdiff.records,
            stats.wdiff.bytes,
            stats.ios,
            mebibytes(stats.written.bytes())
        );
        output.answer(&json, &text)?;
        Ok(Outcome::Positive)
    }
}

fn to_indexed(
    chain: &mut Chain,
    out: OutFile,
    setting: CompressionSetting,
    max_io: Lb,
) -> anyhow::Result<(OutFile, ConvertStats)> {
    // Cut as the existing tools do it, so that both give the same records.
    let mut converter = IndexedConverter::new(out, chain.uuid(), setting, max_io)?.cut_dataless();
    while let Some(pack) = chain.next_pack()? {
        converter.add_pack(&pack)?;
    }
    Ok(converter.finish()?)
}

/// A sorted diff needs all records in address order. Stretches of the log become diffs of their own, which are merged
/// at the end: no piece is ever joined to another, so the records are the same as of one conversion in memory.
fn to_sorted<W: Write>(
    chain: &mut Chain,
    out: W,
    mut segments: Segments,
    max_io: Lb,
    segment_bytes: u64,
) -> anyhow::Result<(W, ConvertStats)> {
    let (mut converter, mut held) = (SortedConverter::new(max_io), 0);
    while let Some(pack) = chain.next_pack()? {
        converter.add_pack(&pack)?;
        held += weight(&pack);
        if held >= segment_bytes {
            segments.add(std::mem::replace(&mut converter, SortedConverter::new(max_io)))?;
            held = 0;
        }
    }
    if segments.done.is_empty() {
        return Ok(converter.finish(out, segments.uuid, segments.setting)?);
    }
    segments.add(converter)?;
    segments.finish(out)
}

/// What a pack costs while it is kept: its data, and something for each record.
fn weight(pack: &Logpack) -> u64 {
    (pack.stored_bytes() + pack.header().records().len() * 128) as u64
}

/// Diffs of stretches of a log, in temporary files without names.
struct Segments {
    dir: PathBuf,
    uuid: Uuid,
    setting: CompressionSetting,
    done: Vec<File>,
    stats: ConvertStats,
}

impl Segments {
    fn new(dir: PathBuf, uuid: Uuid, setting: CompressionSetting) -> Self {
        Self {
            dir,
            uuid,
            setting,
            done: Vec::new(),
            stats: ConvertStats::default(),
        }
    }

    fn add(&mut self, converter: SortedConverter) -> anyhow::Result<()> {
        if self.done.len() == SEGMENTS_MAX {
            let file = self.merge(BufWriter::new(out_file::scratch(&self.dir)?))?.0;
            let merged = file.into_inner().context("write a temporary file")?;
            self.done.push(merged);
        }
        let file = BufWriter::new(out_file::scratch(&self.dir)?);
        let (file, stats) = converter
            .finish(file, self.uuid, self.setting)
            .context("write a temporary file")?;
        self.done
            .push(file.into_inner().context("write a temporary file")?);
        self.stats.packs += stats.packs;
        self.stats.ios += stats.ios;
        self.stats.written.0 += stats.written.0;
        Ok(())
    }

    fn finish<W: Write>(mut self, out: W) -> anyhow::Result<(W, ConvertStats)> {
        let (out, wdiff) = self.merge(out)?;
        let stats = ConvertStats { wdiff, ..self.stats };
        Ok((out, stats))
    }

    fn merge<W: Write>(&mut self, out: W) -> anyhow::Result<(W, WriteStats)> {
        let mut readers = Vec::with_capacity(self.done.len());
        for mut file in self.done.drain(..) {
            file.rewind().context("read a temporary file")?;
            readers.push(WdiffReader::from_file(file, "temporary file")?);
        }
        // Chunks were cut when the records were made; what others cut since then stays as it is.
        let (out, stats) = merge_to_sorted(readers, out, self.uuid, self.setting, Lb(0))?;
        Ok((out, stats.wdiff))
    }
}

#[cfg(test)]
mod tests;
