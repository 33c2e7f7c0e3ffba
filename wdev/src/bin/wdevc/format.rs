//! `format-ldev`: works on the disks themselves, no daemon needed. A disk that a running device uses is locked by it.

use anyhow::Context as _;
use camino::Utf8Path;
use walb_common::format::log_device::SuperSector;
use walb_common::types::PhysicalBlockSize;
use walb_wdev::engine::{Formatted, format_log_device};

use crate::args::Format;

/// The name is stored in 31 bytes.
const NAME_MAX: usize = 31;

pub fn run(options: &Format) -> anyhow::Result<()> {
    let pbs = options.pbs.map(PhysicalBlockSize::new).transpose()?;
    if options.name.len() > NAME_MAX {
        anyhow::bail!(
            "name of {} bytes, expected at most {NAME_MAX}",
            options.name.len()
        );
    }
    let Formatted { sector, checksum } =
        format_log_device(&options.ldev, &options.ddev, &options.name, pbs, !options.nd)?;
    println!("sectorType: 1");
    println!("version: 2");
    println!("checksum: {checksum}");
    println!("lbs: 512");
    println!("pbs: {}", sector.pbs());
    println!("metadataSize: {}", sector.metadata_size());
    println!("salt: {}", sector.salt().0);
    println!("name: {}", sector.name());
    println!("ringBufferSize: {}", sector.ring_size());
    println!("oldestLsid: {}", sector.oldest());
    println!("writtenLsid: {}", sector.written());
    println!("deviceSize: {}", sector.device_size());
    println!("ringBufferOffset: {}", sector.ring().first_pb());
    println!("uuid: {}", sector.uuid());
    println!();
    Ok(())
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
