//! Formatting a log device.

use std::io;

use camino::Utf8Path;
use walb_common::disk::fault;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{SUPER_SECTOR_OFFSET, SuperSector, TooSmall};
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize, Uuid};

use crate::disk::{Disk, OpenDiskError};

/// Why a log device could not be formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A disk could not be opened, or is in use.
    #[error(transparent)]
    Open(#[from] OpenDiskError),
    /// Log and data device have different physical block sizes, or another one was asked for.
    #[error("physical block sizes differ: log device {log}, data device {data}, asked for {asked}")]
    PhysicalBlockSize {
        /// Of the log device.
        log: String,
        /// Of the data device.
        data: String,
        /// The option's value.
        asked: String,
    },
    /// The log device is too small.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    /// The data device is smaller than one block.
    #[error("data device {path} is empty, expected at least {LB_SIZE} bytes")]
    Empty {
        /// Which.
        path: camino::Utf8PathBuf,
    },
    /// The system said no.
    #[error("format {path}")]
    Io {
        /// Which disk.
        path: camino::Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formatted {
    /// The super sector.
    pub sector: SuperSector,
    /// Its checksum field.
    pub checksum: u32,
}

/// Formats `ldev` as the log device of a volume on `ddev`, whose data are kept. Refuses disks in use.
///
/// `pbs` is for files; block devices have their own. With `discard` the log device is discarded first, if it can be.
pub fn format_log_device(
    ldev: &Utf8Path,
    ddev: &Utf8Path,
    name: &str,
    pbs: Option<PhysicalBlockSize>,
    discard: bool,
) -> Result<Formatted, FormatError> {
    let (log, data) = (Disk::open(ldev)?, Disk::open(ddev)?);
    let failed = |source: io::Error| FormatError::Io {
        path: ldev.to_owned(),
        source,
    };
    let of = |disk: &Disk| {
        disk.physical_block_size().map_err(|source| FormatError::Io {
            path: disk.path().to_owned(),
            source,
        })
    };
    let (of_log, of_data) = (of(&log)?, of(&data)?);
    let own = [of_log, of_data, pbs];
    let chosen = own
        .into_iter()
        .flatten()
        .next()
        .unwrap_or(PhysicalBlockSize::B512);
    // A file takes any physical block size; what is fixed must agree.
    if own.into_iter().flatten().any(|p| p != chosen) {
        let show = |p: Option<PhysicalBlockSize>| p.map_or_else(|| "any".to_owned(), |p| p.to_string());
        return Err(FormatError::PhysicalBlockSize {
            log: show(of_log),
            data: show(of_data),
            asked: show(pbs),
        });
    }
    let device_size = Lb(data.size() / LB_SIZE);
    if device_size.0 == 0 {
        return Err(FormatError::Empty {
            path: ddev.to_owned(),
        });
    }
    let sector = SuperSector::format(
        chosen,
        log.size(),
        device_size,
        name,
        Uuid::random(),
        Salt::random(),
    )?;
    if discard {
        // Best effort: not every disk can.
        let _ = log.punch(0, log.size());
    }
    // The zero block at lsid 0 is durable before the super sector that makes it the end of the log.
    fault::point("wdev.format.before_zero_block").map_err(failed)?;
    log.write(&vec![0; chosen.bytes()], sector.ring().offset_of(Lsid(0)))
        .map_err(failed)?;
    log.sync().map_err(failed)?;
    fault::point("wdev.format.before_super_sector").map_err(failed)?;
    let block = sector.encode();
    log.write(&block, SUPER_SECTOR_OFFSET).map_err(failed)?;
    log.sync().map_err(failed)?;
    let checksum = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    Ok(Formatted { sector, checksum })
}
