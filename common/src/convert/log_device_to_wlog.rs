//! Log device to wlog: the packs of a stretch of log, copied out as a file that can travel.
//!
//! Works on a log device at rest. While its device runs, the writer may come by and overwrite what is being read, which
//! looks like an early end. So the wlog comes back without its end block: the caller looks whether the log from `begin`
//! on is still there, and only then finishes it.

use std::io::Write;

use crate::format::log_device::{ScanEnd, ScanError, Scanner, SuperSector};
use crate::format::read_at::ReadAt;
use crate::format::wlog::{WlogFileHeader, WlogWriter, WriteWlogError};
use crate::types::Lsid;

/// A log cannot be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The log device cannot be read.
    #[error("extract the log")]
    Read(#[from] ScanError),
    /// The wlog cannot be written.
    #[error("write the wlog")]
    Write(#[from] WriteWlogError),
    /// Nothing can lie in the range.
    #[error("extract the log from lsid {begin} to {end}: expected an end beyond the begin")]
    Range {
        /// Where the wlog would begin: not below the oldest lsid.
        begin: Lsid,
        /// Where it should end.
        end: Lsid,
    },
}

/// What was extracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Lsid of the first pack: what was asked for, or the oldest lsid if that is larger.
    pub begin: Lsid,
    /// Lsid after the last pack: the real end of the wlog.
    pub end: Lsid,
    /// Packs in it.
    pub packs: u64,
    /// Where and why the log itself ended; None if the end asked for came first.
    pub log_end: Option<ScanEnd>,
}

/// Copies the packs that start in `[begin, end)` to `out` as one wlog, all their checksums verified, the last one whole.
/// [`Lsid::INVALID`] as `end` stands for as far as the log goes. A begin below the oldest lsid is raised to it. Of a torn
/// last pack come the good records. `progress` is told the lsid after each pack.
///
/// Gives the wlog back, to be finished by [`WlogWriter::finish`].
pub fn log_device_to_wlog<D: ReadAt, W: Write>(
    device: D,
    sector: &SuperSector,
    begin: Lsid,
    end: Lsid,
    out: W,
    mut progress: impl FnMut(Lsid),
) -> Result<(WlogWriter<W>, Extracted), ExtractError> {
    let begin = begin.max(sector.oldest());
    if begin >= end {
        return Err(ExtractError::Range { begin, end });
    }
    let (pbs, salt, uuid) = (sector.pbs(), sector.salt(), sector.uuid());
    let header = WlogFileHeader {
        pbs,
        salt,
        uuid,
        begin,
        end,
    };
    let mut wlog = WlogWriter::new(out, header)?;
    let mut scanner = Scanner::new(device, sector.ring(), salt, begin);
    let mut packs = 0;
    while scanner.next_lsid() < end {
        let Some(pack) = scanner.next_pack()? else { break };
        wlog.write(&pack)?;
        packs += 1;
        progress(wlog.next_lsid());
    }
    let extracted = Extracted {
        begin,
        end: wlog.next_lsid(),
        packs,
        log_end: scanner.end().cloned(),
    };
    Ok((wlog, extracted))
}

#[cfg(test)]
mod tests;
