//! `format-ldev`: works on the disks themselves, no daemon needed. A disk that a running device uses is locked by it.

use std::fmt::Write as _;

use anyhow::Context as _;
use camino::Utf8Path;
use walb_common::format::log_device::SuperSector;
use walb_common::types::PhysicalBlockSize;
use walb_wdev::engine::{Formatted, format_log_device};

use crate::args::Format;

/// The name is stored in 31 bytes.
const NAME_MAX: usize = 31;

/// Formats, and returns the new super block as text.
pub fn run(options: &Format) -> anyhow::Result<String> {
    let pbs = options.pbs.map(PhysicalBlockSize::new).transpose()?;
    if options.name.len() > NAME_MAX {
        anyhow::bail!(
            "name of {} bytes, expected at most {NAME_MAX}",
            options.name.len()
        );
    }
    let Formatted { sector, checksum } =
        format_log_device(&options.ldev, &options.ddev, &options.name, pbs, !options.nd)?;
    let mut out = String::new();
    writeln!(out, "sectorType: 1")?;
    writeln!(out, "version: 2")?;
    writeln!(out, "checksum: {checksum}")?;
    writeln!(out, "lbs: 512")?;
    writeln!(out, "pbs: {}", sector.pbs())?;
    writeln!(out, "metadataSize: {}", sector.metadata_size())?;
    writeln!(out, "salt: {}", sector.salt().0)?;
    writeln!(out, "name: {}", sector.name())?;
    writeln!(out, "ringBufferSize: {}", sector.ring_size())?;
    writeln!(out, "oldestLsid: {}", sector.oldest())?;
    writeln!(out, "writtenLsid: {}", sector.written())?;
    writeln!(out, "deviceSize: {}", sector.device_size())?;
    writeln!(out, "ringBufferOffset: {}", sector.ring().first_pb())?;
    writeln!(out, "uuid: {}", sector.uuid())?;
    writeln!(out)?;
    Ok(out)
}

/// The name a log device was formatted with.
pub fn stored_name(ldev: &Utf8Path) -> anyhow::Result<String> {
    let sector: SuperSector = walb_wdev::engine::read_super_sector_of(ldev)
        .with_context(|| format!("find out the name of the device on {ldev} (or give one with -n)"))?;
    match sector.name() {
        name if name.is_empty() => anyhow::bail!("{ldev} was formatted without a name: give one with -n"),
        name => Ok(name.into_owned()),
    }
}
