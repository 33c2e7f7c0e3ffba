//! `wdiff merge`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use walb_common::convert::{MergeError, WdiffMerger, write_sorted};
use walb_common::format::wdiff::WdiffReader;
use walb_common::types::{Lb, Uuid};

use super::layout::Writer;
use super::source::open_all;
use crate::options::{self, Layout, OutOptions, WdiffOptions};
use crate::out_file::OutFile;
use crate::{Outcome, Output};

/// The result says what the diffs say one after the other, discards being zeros or discards.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff merge a.wdiff b.wdiff c.wdiff -o abc.wdiff\n  \
walbc offline wdiff merge a.wdiff b.wdiff --compression zstd:3 -o -\n\nThe uuid of the result is that of the diffs, or zero if they \
do not all have the same. Memory does not grow with the diffs, except for --layout indexed: about 100 bytes for each \
record."
)]
pub struct Merge {
    /// Diffs, oldest first; one of them may be `-` for stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    out: OutOptions,
    #[command(flatten)]
    wdiff: WdiffOptions,
    /// Largest record, in bytes with an optional suffix (k, m); 0 for no limit
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = options::max_io)]
    max_io: Lb,
    /// Keep the records that the existing tools make of indexed diffs: one for each piece of a write. Else what is left
    /// of a write is one record, stored as it was if that is all of it
    #[arg(long)]
    pieces: bool,
}

impl Merge {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let out = OutFile::create(&self.out, &self.files, output)?;
        let mut readers = open_all(&self.files, "merge")?;
        if !self.pieces {
            readers.iter_mut().for_each(WdiffReader::join_pieces);
        }
        let uuid = common_uuid(&readers);
        let mut merger = WdiffMerger::new(readers, self.max_io)?;
        let setting = self.wdiff.compression;
        let mut next = || merger.next_record().map_err(MergeError::Read).transpose();
        let (out, stats) = match self.wdiff.layout {
            Layout::Sorted => write_sorted(next, out, uuid, setting)?,
            Layout::Indexed => {
                let mut writer = Writer::new(self.wdiff.layout, out, uuid, setting)?;
                while let Some(record) = next() {
                    writer.write(&record?)?;
                }
                writer.finish()?
            }
        };
        let records_in = merger.records_in();
        // The progress ends here, before anything is printed.
        drop(merger);
        let streamed = matches!(out, OutFile::Stream(_));
        out.commit()?;
        if !streamed {
            let (path, count) = (self.out.out.display(), self.files.len());
            output.answer(
                &json!({
                    "output": self.out.out, "uuid": uuid, "inputs": count, "records_in": records_in,
                    "records": stats.records, "bytes": stats.bytes,
                }),
                &format!(
                    "{path}: {} records, {} bytes, from {records_in} records of {count} diffs\n",
                    stats.records, stats.bytes
                ),
            )?;
        }
        Ok(Outcome::Positive)
    }
}

fn common_uuid(readers: &[WdiffReader]) -> Uuid {
    let first = readers.first().map_or(Uuid::NIL, WdiffReader::uuid);
    if readers.iter().all(|reader| reader.uuid() == first) {
        first
    } else {
        Uuid::NIL
    }
}
