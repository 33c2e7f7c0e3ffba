//! `log-device verify`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use walb_common::format::log_device::ScanEnd;
use walb_common::format::log_device::Scanner;
use walb_common::types::Lsid;

use super::device::{LogDevice, open_to_read, torn_json};
use crate::{Outcome, Output};

/// Checks the super sector, and every header and all data from the oldest lsid to the end of the log.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline log-device verify /dev/vg0/log0\n\nA last pack that was not written whole (torn) is \
normal after a crash: it is told, and the status is 0. A bad super sector, log that was overwritten before it was released \
(overflow) and damage inside the log give 1."
)]
pub struct Verify {
    /// A log device, or an image of one
    device: PathBuf,
}

impl Verify {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        output.verdict("ldev", self.check())
    }

    fn check(&self) -> anyhow::Result<(Value, String)> {
        let file = open_to_read(&self.device)?;
        let device = LogDevice::new(&file, &self.device)?;
        let (name, sector) = (device.name(), device.sector());
        let (oldest, written) = (sector.oldest(), sector.written());
        let end = device.follow("verify", |_| Ok(()))?;
        let latest = end.latest;
        if device.has_overflowed(latest)? {
            bail!(
                "{name}: the log has overflowed: what starts at oldest lsid {oldest} is overwritten, the log ends at {latest}, \
                 the ring has {} blocks",
                sector.ring_size()
            );
        }
        let mut scanner = device.scan(oldest);
        let mut progress = device.progress("verify");
        let mut packs = 0u64;
        while scanner.next_pack().with_context(|| name.to_owned())?.is_some() {
            packs += 1;
            progress.at(device.bytes(oldest, scanner.next_lsid()));
        }
        drop(progress);
        if scanner.next_lsid() != latest {
            return Err(inside(&scanner, written)).with_context(|| name.to_owned());
        }
        let stale = device.stale_headers(oldest, latest)?;
        let verdict = if end.torn.is_some() { "torn" } else { "ok" };
        let mut text = format!(
            "{verdict}: {packs} packs, oldest lsid {oldest}, written {written}, end of the log {latest}, uuid {}\n",
            sector.uuid()
        );
        text.extend(end.torn.iter().map(|torn| format!("torn: {torn}\n")));
        text.extend(stale.iter().map(|lsid| {
            format!(
                "stale: an intact header lies behind the end of the log, at lsid {lsid}; redo clears it\n"
            )
        }));
        let json = json!({
            "verdict": verdict, "uuid": sector.uuid(), "packs": packs, "oldest_lsid": oldest, "written_lsid": written,
            "latest_lsid": latest, "torn": end.torn.as_ref().map(torn_json), "stale_headers": stale,
        });
        Ok((json, text))
    }
}

/// The log from the oldest lsid on stops where it may not: below the written lsid, or inside what redo sees.
fn inside<D>(scanner: &Scanner<D>, written: Lsid) -> anyhow::Error
where
    D: walb_common::format::read_at::ReadAt,
{
    let at = scanner.next_lsid();
    let error = match scanner.end() {
        Some(ScanEnd::NoHeader { found, .. }) => anyhow::Error::new(found.clone()),
        Some(ScanEnd::Torn { bad, .. }) => anyhow::Error::new(bad.clone()),
        None => anyhow::anyhow!("the packs do not join"),
    };
    error.context(format!(
        "the log is damaged at lsid {at}, below its written lsid {written}"
    ))
}
