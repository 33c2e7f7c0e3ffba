//! Wlogs that are at hand as files, to one wdiff: what survives is known before anything is compressed, and the data are not
//! kept in memory.
//!
//! ```text
//!  sorted    1 survey   every header and every checksum, in log order   -> which bytes of which file survive, by address
//!            2 build    only those bytes are read again, compressed and written
//!  indexed   1 plan     every header                                    -> of which IOs anything survives
//!            2 store    every datum is read and checked, in log order; those are compressed and written
//! ```
//! Memory: about 64 bytes per surviving piece (indexed: 90), and a few MiB per thread, whatever the size of the log. What
//! later writes cover entirely is neither compressed nor stored, in the indexed layout either.

mod indexed;
mod job_data;
mod sorted;
mod survey;

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use crate::convert::wlog_to_wdiff::ConvertStats;
use crate::format::wdiff::{Layout, WriteWdiffError};
use crate::format::wlog::ReadWlogError;
use crate::types::{CompressionSetting, Lb, Lsid, Uuid};

/// Files a conversion takes at most: their numbers are kept in 14 bits.
pub const WLOG_FILES_MAX: usize = 1 << 14;

/// An open wlog, or several in one file one after the other.
#[derive(Debug)]
pub struct WlogFile {
    name: String,
    file: File,
    size: u64,
}

impl WlogFile {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ConvertWlogError> {
        let name = path.as_ref().display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_file(file, name),
            Err(source) => Err(ConvertWlogError::Open { name, source }),
        }
    }

    /// A file already open, from its start, whatever its cursor.
    pub fn from_file(file: File, name: impl Into<String>) -> Result<Self, ConvertWlogError> {
        let name = name.into();
        match file.metadata() {
            Ok(metadata) => Ok(Self {
                name,
                file,
                size: metadata.len(),
            }),
            Err(source) => Err(ConvertWlogError::Open { name, source }),
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// What to make of the log.
#[derive(Debug, Clone, Copy)]
pub struct WdiffForm {
    /// The layout.
    pub layout: Layout,
    /// The compression, and how many threads work.
    pub setting: CompressionSetting,
    /// Bounds the pieces; 0 for no bound.
    pub max_io: Lb,
    /// In the indexed layout, also cut zeros and discards to that size, as the existing tools do. (In the sorted layout
    /// they are always cut.)
    pub cut_dataless: bool,
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of log read and checked so far; for the indexed layout that is all.
    Surveyed(u64),
    /// Pieces of the result dealt with, of so many.
    Built {
        /// So far.
        done: u64,
        /// In all.
        of: u64,
    },
}

/// A conversion cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConvertWlogError {
    /// A file cannot be opened.
    #[error("open wlog {name}")]
    Open {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("read wlog {name}")]
    Read {
        /// Which.
        name: String,
        /// What is wrong, and where.
        #[source]
        source: ReadWlogError,
    },
    /// Bytes that were there in the first pass cannot be read in the second.
    #[error("read wlog {name} again at byte {position}")]
    ReadAgain {
        /// Which.
        name: String,
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its headers say something else than a moment ago.
    #[error("wlog {name} was changed while it was read")]
    Changed {
        /// Which.
        name: String,
    },
    /// A record ends beyond the last address.
    #[error(
        "wlog {name}: log record at address {address} of {blocks} blocks ends beyond the largest address"
    )]
    Range {
        /// Which.
        name: String,
        /// The record's address.
        address: Lb,
        /// Its size.
        blocks: Lb,
    },
    /// The input is more than a conversion takes.
    #[error("{what}: {found}, at most {max} are taken")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// The wdiff cannot be written.
    #[error("write the wdiff")]
    Write(#[from] WriteWdiffError),
    /// The caller asked to stop.
    #[error("the conversion was stopped")]
    Stopped,
}

/// The log that was converted, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvertedLog {
    /// Of the log sequence; nil of no log.
    pub uuid: Uuid,
    /// Lsid of its first pack.
    pub begin: Lsid,
    /// Lsid after its last.
    pub end: Lsid,
    /// What was done.
    pub stats: ConvertStats,
}

/// Converts `logs`, oldest first, each the continuation of the one before, into one wdiff. `progress` is told now and then
/// how far it is, and can stop it. Gives the stream back, unflushed.
pub fn convert_wlogs<W: Write>(
    logs: &[WlogFile],
    out: W,
    form: WdiffForm,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(W, ConvertedLog), ConvertWlogError> {
    let mut progress = |at| match progress(at) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ConvertWlogError::Stopped),
    };
    match form.layout {
        Layout::Sorted => sorted::convert(logs, out, form, &mut progress),
        Layout::Indexed => indexed::convert(logs, out, form, &mut progress),
    }
}

/// As the layouts call it.
type Report<'a> = &'a mut dyn FnMut(Progress) -> Result<(), ConvertWlogError>;

/// A byte position in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    const POSITION_BITS: u32 = 48;

    fn new(file: usize, position: u64) -> Self {
        debug_assert!(
            file < WLOG_FILES_MAX && position >> Self::POSITION_BITS == 0,
            "checked by the survey"
        );
        Self((file as u64) << Self::POSITION_BITS | position)
    }

    fn file(self) -> usize {
        (self.0 >> Self::POSITION_BITS) as usize
    }

    fn position(self) -> u64 {
        self.0 & ((1 << Self::POSITION_BITS) - 1)
    }

    /// `bytes` further on; stays in the file, as the data a place stands for do.
    fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    fn read(self, logs: &[WlogFile], buf: &mut [u8]) -> Result<(), ConvertWlogError> {
        use crate::format::read_at::ReadAt;
        let log = &logs[self.file()];
        let position = self.position();
        log.file
            .read_exact_at(buf, position)
            .map_err(|source| ConvertWlogError::ReadAgain {
                name: log.name.clone(),
                position,
                source,
            })
    }
}

#[cfg(test)]
mod tests;
