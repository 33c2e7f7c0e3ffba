//! `log-device show`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use walb_common::types::Lsid;

use super::device::{LogDevice, open_to_read, torn_json};
use crate::output::Listing;
use crate::wlog::{header_json, header_text, stored_checksum};
use crate::{Outcome, Output};

/// Prints the super sector, the headers from the oldest lsid on, and the log as a reader that checks data finds it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline log-device show /dev/vg0/log0\n  walbc offline log-device show --json log.img\n\n\
\"headers_from_oldest\" follows headers only; \"log_from_oldest\" checks data as well, and has a torn last pack cut to its \
good records. \"verdict\" is ok, torn (normal after a crash), overflow or damaged. A device in use is read as it is at that \
moment: its lsids in memory may be ahead."
)]
pub struct Show {
    /// A log device, or an image of one
    device: PathBuf,
}

impl Show {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let mut listing = output.listing()?;
        let shown = self.show(&mut listing);
        listing.finish(shown)
    }

    fn show(&self, listing: &mut Listing) -> anyhow::Result<Outcome> {
        listing.fact("kind", "ldev", String::new)?;
        let file = open_to_read(&self.device)?;
        let device = LogDevice::new(&file, &self.device)?;
        let sector = device.sector();
        let salt = sector.salt();
        listing.fact("super", device.super_json(), || device.super_text())?;

        listing.list("headers_from_oldest", || {
            "headers from the oldest lsid:\n".to_owned()
        })?;
        let mut scanner = device.scan(sector.oldest());
        while let Some(header) = scanner.next_header().with_context(|| device.name().to_owned())? {
            let checksum = stored_checksum(&header.encode(salt));
            listing.item(header_json(&header, checksum), || header_text(&header, checksum))?;
        }
        let end = scanner.next_lsid();
        listing.fact("header_end_lsid", end, || format!("header_end_lsid {end}\n"))?;

        // Text does not say everything twice: what differs is the end.
        listing.list("log_from_oldest", String::new)?;
        let mut scanner = device.scan(sector.oldest());
        while let Some(pack) = scanner.next_pack().with_context(|| device.name().to_owned())? {
            let checksum = stored_checksum(pack.block());
            listing.item(header_json(pack.header(), checksum), String::new)?;
        }
        let log_end = scanner.next_lsid();
        listing.fact("log_end_lsid", log_end, || format!("log_end_lsid {log_end}\n"))?;

        let redo = device.follow("show", |_| Ok(()))?;
        let latest = redo.latest;
        listing.fact("latest_lsid", latest, || format!("latest_lsid {latest}\n"))?;
        if let Some(torn) = &redo.torn {
            listing.fact("torn", torn_json(torn), || format!("torn: {torn}\n"))?;
        }
        let overflow = device.has_overflowed(latest)?;
        let verdict = verdict(overflow, log_end, latest, redo.torn.is_some());
        listing.fact("verdict", verdict, || format!("verdict {verdict}\n"))?;
        Ok(Outcome::Positive)
    }
}

/// In a word what a log is like. Redo works with all of them.
pub fn verdict(overflow: bool, log_end: Lsid, latest: Lsid, torn: bool) -> &'static str {
    match (overflow, log_end == latest, torn) {
        (true, _, _) => "overflow",
        (false, false, _) => "damaged",
        (false, true, true) => "torn",
        (false, true, false) => "ok",
    }
}
