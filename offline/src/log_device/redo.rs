//! `log-device redo`.
//!
//! Order: records to the data device; the torn pack's header and stale headers, synced; the data device synced; then the
//! super sector with the new written lsid, synced. A crash at any point leaves a log that is redone from where it was.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use walb_common::convert::ImageTarget;
use walb_common::disk::fault;
use walb_common::format::log_device::SUPER_SECTOR_OFFSET;
use walb_common::types::{LB_SIZE, Lb, Lsid};

use super::device::{LogDevice, LogEnd, torn_json};
use crate::options::Discard;
use crate::output::mebibytes;
use crate::target::Target;
use crate::wlog::Applied;
use crate::{Outcome, Output};

/// Brings the data device to the end of the log and stores in the super sector that it is there. Both must be in
/// nobody's use. Nothing is released: the log is still there for a backup.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc offline log-device redo /dev/vg0/log0 /dev/vg0/data0\n\nA torn last pack is cut to its good \
records. Intact headers behind the end of the log, which a later start could take for valid, are cleared. Writes beyond \
the volume's end are skipped, as the device does."
)]
pub struct Redo {
    /// A log device, or an image of one
    device: PathBuf,
    /// Its data device, or an image of it
    data: PathBuf,
    /// What a discard does
    #[arg(long, value_enum, default_value_t = Discard::Zero)]
    discard: Discard,
}

impl Redo {
    pub fn run(self, output: &Output) -> anyhow::Result<Outcome> {
        if is_same(&self.device, &self.data)? {
            bail!("{} is given as log and as data device", self.data.display());
        }
        let log = Target::open(&self.device)?;
        // What others wrote below the page cache is looked for once nothing of it is dirty.
        log.file()
            .sync()
            .with_context(|| format!("sync {}", log.name()))?;
        let device = LogDevice::new(log.file(), &self.device)?;
        let data = Target::open(&self.data)?;
        let (size, sector) = (device.sector().device_size(), device.sector());
        if Lb(data.size() / LB_SIZE) < size {
            bail!(
                "{} has {} blocks, the volume of {} has {size}",
                data.name(),
                data.size() / LB_SIZE,
                device.name()
            );
        }
        let mut applied = Applied::new(&data, self.discard, true).volume_size(size);
        let end = device.follow("redo", |pack| {
            fault::point("offline.redo.before_write").context("redo")?;
            applied.pack(pack)
        })?;
        let overflow = device.has_overflowed(end.latest)?;
        let stale = device.stale_headers(device.live_from(overflow), end.latest)?;
        repair_end(&device, &log, &end, &stale)?;
        fault::point("offline.redo.before_data_sync")
            .and_then(|()| data.file().sync())
            .with_context(|| format!("sync {}", data.name()))?;
        // Only now may the super sector say so.
        let stored = sector.clone().with_written(end.latest);
        fault::point("offline.redo.before_super_sector")
            .and_then(|()| log.file().write_at(&stored.encode(), SUPER_SECTOR_OFFSET))
            .and_then(|()| log.file().sync())
            .with_context(|| format!("store the super sector of {}", log.name()))?;

        let (from, latest) = (sector.written(), end.latest);
        let mut text = format!(
            "{}: {} packs redone, lsid {from} to {latest}, {} written, {} zeroed, {} records skipped\n",
            data.name(),
            end.packs,
            mebibytes(applied.written),
            mebibytes(applied.zeroed),
            applied.skipped
        );
        text.extend(end.torn.iter().map(|torn| format!("torn: {torn}\n")));
        text.extend(
            stale
                .iter()
                .map(|lsid| format!("cleared: an intact header behind the end of the log, at lsid {lsid}\n")),
        );
        if overflow {
            text += "overflow: the data device is whole, but log that nobody had released is lost: back up in full\n";
        }
        output.answer(
            &json!({
                "device": self.device, "data": self.data, "packs": end.packs, "written_lsid_before": from,
                "written_lsid_after": latest, "written": applied.written, "zeroed": applied.zeroed,
                "skipped_records": applied.skipped, "torn": end.torn.as_ref().map(torn_json), "cleared": stale,
                "overflow": overflow,
            }),
            &text,
        )?;
        Ok(Outcome::Positive)
    }
}

/// Makes the end of the log one: nothing behind it may look like more of it. Durable when this returns.
fn repair_end(device: &LogDevice<'_>, log: &Target, end: &LogEnd, stale: &[Lsid]) -> anyhow::Result<()> {
    let sector = device.sector();
    let ring = sector.ring();
    let mut repairs = Vec::new();
    if let Some(header) = &end.rewrite {
        repairs.push((header.lsid(), header.encode(sector.salt()).to_vec()));
    }
    for &lsid in stale {
        repairs.push((lsid, vec![0; ring.pbs().bytes()]));
    }
    if repairs.is_empty() {
        return Ok(());
    }
    let repair = || -> std::io::Result<()> {
        for (lsid, block) in &repairs {
            fault::point("offline.redo.before_repair")?;
            log.file().write_at(block, ring.offset_of(*lsid))?;
        }
        log.file().sync()
    };
    repair().with_context(|| format!("repair the end of the log on {}", log.name()))
}

fn is_same(a: &Path, b: &Path) -> anyhow::Result<bool> {
    let look = |path: &Path| fs::metadata(path).with_context(|| format!("open {}", path.display()));
    let (a, b) = (look(a)?, look(b)?);
    let both_devices = a.file_type().is_block_device() && b.file_type().is_block_device();
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()) || (both_devices && a.rdev() == b.rdev()))
}
