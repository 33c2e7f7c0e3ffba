//! `wlog show`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use walb_common::format::wlog::{ReadWlogError, WlogFileHeader};

use super::headers::{Headers, Stat, file_header, header_json, header_text};
use crate::input::Input;
use crate::output::Listing;
use crate::{Outcome, Output};

/// Prints headers and records. Data are not looked at: `verify` does that.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline wlog show a.wlog\n  walbc offline wlog show --json -\n\n\
Records: lsid, lsid relative to the pack, address and size in blocks of 512 bytes, kind (E-- write, EP- padding, \
E-D discard), checksum of the data. With --json, logs that follow the first in the same file are in \"following\"."
)]
pub struct Show {
    /// A wlog, or several one after the other; `-` for stdin
    file: PathBuf,
}

impl Show {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let mut input = Input::open(&self.file, "show")?;
        if output.on_terminal() {
            input = input.silently();
        }
        let mut listing = output.listing()?;
        let shown = show(&mut input, &mut listing).with_context(|| input.name().to_owned());
        listing.finish(shown)
    }
}

fn show(input: &mut Input, listing: &mut Listing) -> anyhow::Result<Outcome> {
    listing.fact("kind", "wlog", String::new)?;
    let header = file_header(input)?.ok_or(ReadWlogError::Truncated { found: 0 })?;
    show_one(input, &header, listing)?;
    let mut several = false;
    while let Some(header) = file_header(input)? {
        if !several {
            listing.list("following", String::new)?;
            several = true;
        }
        listing.begin_item()?;
        show_one(input, &header, listing)?;
        listing.end_item()?;
    }
    Ok(Outcome::Positive)
}

fn show_one(input: &mut Input, header: &WlogFileHeader, listing: &mut Listing) -> anyhow::Result<()> {
    listing.fact("header", file_header_json(header), || file_header_text(header))?;
    listing.list("packs", String::new)?;
    let (mut headers, mut stat) = (Headers::after(header), Stat::default());
    loop {
        match headers.next(input) {
            Ok(Some((pack, checksum))) => {
                stat.add(&pack);
                listing.item(header_json(&pack, checksum), || header_text(&pack, checksum))?;
            }
            Ok(None) => break,
            Err(error) => {
                let end = headers.next_lsid();
                listing.fact("header_end_lsid", end, || format!("header_end_lsid {end}\n"))?;
                return Err(error.into());
            }
        }
    }
    let end = headers.next_lsid();
    listing.fact("real_end_lsid", end, || format!("real_end_lsid {end}\n"))?;
    listing.fact("stat", stat.json(), || stat.text())
}

fn file_header_json(header: &WlogFileHeader) -> Value {
    json!({
        "version": 2, "pbs": header.pbs, "salt": header.salt.0, "uuid": header.uuid, "begin_lsid": header.begin,
        "end_lsid": header.end,
    })
}

fn file_header_text(header: &WlogFileHeader) -> String {
    format!(
        "wlog version 2 pbs {} salt {} uuid {} begin_lsid {} end_lsid {}\n",
        header.pbs, header.salt.0, header.uuid, header.begin, header.end
    )
}
