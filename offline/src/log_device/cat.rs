//! `log-device cat`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use walb_common::convert::log_device_to_wlog;
use walb_common::format::log_device::{ScanEnd, SuperSector};
use walb_common::types::Lsid;

use super::device::{LogDevice, open_to_read, torn_json};
use crate::options::OutOptions;
use crate::out_file::OutFile;
use crate::output::mebibytes;
use crate::{Outcome, Output};

/// The log from the oldest lsid, or from another one, to its end, as a wlog.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline log-device cat /dev/vg0/log0 -o vol0.wlog\n  \
walbc offline log-device cat log.img --from 4711 -o -\n\nEvery header and all data are checked. A torn last pack is cut to its good \
records. A log that has overflowed is refused: what is missing could not be told from what was never written."
)]
pub struct Cat {
    /// A log device, or an image of one
    device: PathBuf,
    #[command(flatten)]
    out: OutOptions,
    /// Lsid of the first pack; not below the oldest one [default: the oldest]
    #[arg(long, value_name = "LSID")]
    from: Option<Lsid>,
}

impl Cat {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        let out = OutFile::create(&self.out, std::slice::from_ref(&self.device), output)?;
        let file = open_to_read(&self.device)?;
        let device = LogDevice::new(&file, &self.device)?;
        let (name, sector) = (device.name(), device.sector());
        let begin = self.begin(&device)?;
        let mut progress = device.progress("copy the log of");
        let told = |lsid| progress.at(device.bytes(begin, lsid));
        let (writer, extracted) = log_device_to_wlog(&file, sector, begin, Lsid::INVALID, out, told)
            .with_context(|| name.to_owned())?;
        drop(progress);
        let (packs, end) = (extracted.packs, extracted.end);
        // Before the end block: whoever reads a stream must not take what is short for whole.
        check_unchanged(sector, &device.read_sector_again()?, begin, end).with_context(|| name.to_owned())?;
        let torn = match &extracted.log_end {
            Some(ScanEnd::Torn { bad, .. }) => Some(bad),
            _ => None,
        };
        let out = writer.finish()?;
        let streamed = matches!(out, OutFile::Stream(_));
        out.commit()?;
        if !streamed {
            let mut text = format!(
                "{}: {packs} packs, {}, lsid {begin} to {end}\n",
                self.out.out.display(),
                mebibytes(device.bytes(begin, end))
            );
            text.extend(torn.map(|torn| format!("torn: {torn}\n")));
            let json = json!({
                "output": self.out.out, "uuid": sector.uuid(), "packs": packs, "begin_lsid": begin, "end_lsid": end,
                "torn": torn.map(torn_json),
            });
            output.answer(&json, &text)?;
        }
        Ok(Outcome::Positive)
    }

    /// Where to begin: at a pack that is there, or at the end of the log.
    fn begin(&self, device: &LogDevice<'_>) -> anyhow::Result<Lsid> {
        let (name, oldest) = (device.name(), device.sector().oldest());
        let latest = device.follow("look through", |_| Ok(()))?.latest;
        if device.has_overflowed(latest)? {
            bail!("{name}: the log has overflowed: what starts at oldest lsid {oldest} is overwritten");
        }
        let begin = self.from.unwrap_or(oldest);
        if begin < oldest {
            bail!("{name}: lsid {begin} was released, the oldest is {oldest}");
        }
        if begin != latest && device.header_at(begin)?.is_none() {
            bail!("{name}: no pack starts at lsid {begin} (oldest {oldest}, end of the log {latest})");
        }
        Ok(begin)
    }
}

/// A device in use may overwrite what is being read, and a log may be damaged in its middle: both would look like an
/// early end.
fn check_unchanged(before: &SuperSector, after: &SuperSector, begin: Lsid, end: Lsid) -> anyhow::Result<()> {
    if (before.uuid(), before.salt()) != (after.uuid(), after.salt()) {
        bail!("the log was reset while it was read");
    }
    if after.oldest() > begin {
        let oldest = after.oldest();
        bail!("the log was released up to lsid {oldest} while it was read from {begin}");
    }
    if end < after.written().max(begin) {
        let written = after.written();
        bail!("the log is damaged or overwritten at lsid {end}, below its written lsid {written}");
    }
    Ok(())
}
