//! `wdiff show`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use walb_common::format::wdiff::{Layout, RecordKind};

use super::source::{Part, StoredRecord, walk};
use crate::input::Input;
use crate::output::Listing;
use crate::{Outcome, Output};

/// Prints header, records, and packs or index. Data are not looked at: `verify` does that.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wdiff show a.wdiff\n  walbc offline wdiff show a.wdiff --json\n\nWith --json records are \
arrays. Sorted: address, blocks, compression, data_offset, data_size, checksum, flags. Indexed: address, blocks, \
compression, data_offset, data_size, orig_blocks, io_offset, io_checksum, rec_checksum, flags. Flags: Z- all zero, \
-D discard. Packs of a sorted diff: records, bytes of data, 1 for the end."
)]
pub struct Show {
    /// A wdiff; `-` for stdin
    file: PathBuf,
}

impl Show {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let mut input = Input::open(&self.file, "show")?;
        if output.on_terminal() {
            input = input.silently();
        }
        let mut listing = output.listing()?;
        let shown = self.show(input, &mut listing);
        listing.finish(shown)
    }

    fn show(&self, input: Input, listing: &mut Listing) -> anyhow::Result<Outcome> {
        listing.fact("kind", "wdiff", String::new)?;
        let (mut listed, mut packs) = (false, Vec::new());
        let walked = walk(&self.file, input, |part| {
            let is_record = matches!(part, Part::Record(_) | Part::Pack(_));
            if is_record && !std::mem::replace(&mut listed, true) {
                listing.list("records", String::new)?;
            }
            match part {
                Part::Header(header, checksum) => {
                    let layout = match header.layout {
                        Layout::Sorted => "sorted",
                        Layout::Indexed => "indexed",
                    };
                    let (uuid, sum) = (header.uuid, format!("{checksum:08x}"));
                    let json = json!({ "checksum": sum, "version": 2, "type": layout, "uuid": uuid });
                    listing.fact("header", json, || {
                        format!("wdiff version 2 type {layout} uuid {uuid} checksum {sum}\n")
                    })
                }
                Part::Index(index) => {
                    let (offset, records, ios) = (index.index_offset, index.n_records, index.n_data);
                    let json = json!({ "index_offset": offset, "n_records": records, "n_data": ios });
                    listing.fact("index", json, || {
                        format!("index offset {offset} n_records {records} n_data {ios}\n")
                    })?;
                    if records == 0 {
                        listed = true;
                        listing.list("records", String::new)?;
                    }
                    Ok(())
                }
                Part::Pack(pack) => {
                    let (records, size, end) =
                        (pack.records().len(), pack.total_size(), u8::from(pack.is_end()));
                    if !listing.is_json() {
                        return listing
                            .text(&format!("pack n_records {records} total_size {size} end {end}\n"));
                    }
                    packs.push((records, size, end));
                    Ok(())
                }
                Part::Record(record) => listing.item(json(&record), || text(&record)),
            }
        });
        if !packs.is_empty() {
            listing.fact("packs", packs, String::new)?;
        }
        walked.map(|()| Outcome::Positive)
    }
}

fn json(record: &StoredRecord) -> Value {
    let sum = |checksum: u32| format!("{checksum:08x}");
    match record {
        StoredRecord::Sorted(r) => json!([
            r.address,
            r.blocks,
            r.compression.name(),
            r.data_offset,
            r.data_size,
            sum(r.checksum),
            flags(r.kind)
        ]),
        StoredRecord::Indexed(r, checksum) => json!([
            r.address,
            r.blocks,
            r.compression.name(),
            r.data_offset,
            r.data_size,
            r.orig_blocks,
            r.io_offset,
            sum(r.io_checksum),
            sum(*checksum),
            flags(r.kind)
        ]),
    }
}

fn text(record: &StoredRecord) -> String {
    match record {
        StoredRecord::Sorted(r) => format!(
            "  record address {} blocks {} {} {} data_offset {} data_size {} checksum {:08x}\n",
            r.address,
            r.blocks,
            flags(r.kind),
            r.compression.name(),
            r.data_offset,
            r.data_size,
            r.checksum
        ),
        StoredRecord::Indexed(r, checksum) => format!(
            "  record address {} blocks {} {} {} data_offset {} data_size {} orig_blocks {} io_offset {} \
             io_checksum {:08x} rec_checksum {checksum:08x}\n",
            r.address,
            r.blocks,
            flags(r.kind),
            r.compression.name(),
            r.data_offset,
            r.data_size,
            r.orig_blocks,
            r.io_offset,
            r.io_checksum
        ),
    }
}

fn flags(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Normal => "--",
        RecordKind::AllZero => "Z-",
        RecordKind::Discard => "-D",
    }
}
