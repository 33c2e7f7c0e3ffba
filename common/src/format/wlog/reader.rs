//! Whole wlogs, and several of them one after the other, from a blocking byte stream.

use std::io::{self, Read};

use super::file_header::{WLOG_HEADER_SIZE, WlogFileHeader, WlogFileHeaderError};
use super::logpack_reader::{LogpackReader, ReadLogpackError};
use crate::format::log_device::Logpack;
use crate::types::{Lsid, Uuid};

/// Why a wlog cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadWlogError {
    /// The stream failed inside a file header.
    #[error("read wlog file header")]
    Io(#[source] io::Error),
    /// The stream stops inside a file header.
    #[error("wlog ends inside its file header: {found} of 4096 bytes")]
    Truncated {
        /// Bytes present.
        found: usize,
    },
    /// A file header is damaged.
    #[error("wlog file header is damaged")]
    Header(#[from] WlogFileHeaderError),
    /// A pack is damaged, or the end is.
    #[error("read wlog")]
    Logpack(#[from] ReadLogpackError),
    /// A wlog that follows another is of another log sequence.
    #[error("wlog of uuid {found} follows one of {expected}")]
    OtherUuid {
        /// Its uuid.
        found: Uuid,
        /// The first one's.
        expected: Uuid,
    },
    /// A wlog that follows another does not start where that ended.
    #[error("wlog starts at lsid {found}, the one before it ended at {expected}")]
    Gap {
        /// Where it starts.
        found: Lsid,
        /// Where the other ended.
        expected: Lsid,
    },
}

impl WlogFileHeader {
    /// Checks that a wlog with header `next` continues this one, which really ended at `end`.
    pub fn followed_by(&self, next: &Self, end: Lsid) -> Result<(), ReadWlogError> {
        if next.uuid != self.uuid {
            return Err(ReadWlogError::OtherUuid {
                found: next.uuid,
                expected: self.uuid,
            });
        }
        if next.begin != end {
            return Err(ReadWlogError::Gap {
                found: next.begin,
                expected: end,
            });
        }
        Ok(())
    }
}

/// Reads a wlog, or a concatenation of wlogs: [`WlogReader::next_pack`] until it gives none, then
/// [`WlogReader::next_wlog`].
#[derive(Debug)]
pub struct WlogReader<R> {
    header: WlogFileHeader,
    packs: LogpackReader<R>,
}

impl<R: Read> WlogReader<R> {
    /// Reads the file header.
    pub fn open(mut input: R) -> Result<Self, ReadWlogError> {
        let header = read_header(&mut input)?.ok_or(ReadWlogError::Truncated { found: 0 })?;
        let packs = LogpackReader::new(input, header.pbs, header.salt, header.begin);
        Ok(Self { header, packs })
    }

    /// The file header of the current wlog.
    pub fn header(&self) -> &WlogFileHeader {
        &self.header
    }

    /// The next pack of the current wlog, all its checksums verified; None after its end block.
    pub fn next_pack(&mut self) -> Result<Option<Logpack>, ReadWlogError> {
        Ok(self.packs.next_pack()?)
    }

    /// Lsid after the packs read so far.
    pub fn next_lsid(&self) -> Lsid {
        self.packs.next_lsid()
    }

    /// Goes on to the wlog that follows in the same stream; None at the stream's end. It must continue this one: the
    /// same uuid, and the lsid at which this one really ended. Unread packs of this one are read first.
    pub fn next_wlog(mut self) -> Result<Option<Self>, ReadWlogError> {
        while self.next_pack()?.is_some() {}
        let expected = self.next_lsid();
        let mut input = self.packs.into_inner();
        let Some(header) = read_header(&mut input)? else {
            return Ok(None);
        };
        self.header.followed_by(&header, expected)?;
        let packs = LogpackReader::new(input, header.pbs, header.salt, header.begin);
        Ok(Some(Self { header, packs }))
    }
}

fn read_header(input: &mut impl Read) -> Result<Option<WlogFileHeader>, ReadWlogError> {
    let mut bytes = [0; WLOG_HEADER_SIZE];
    match crate::format::fill(input, &mut bytes).map_err(ReadWlogError::Io)? {
        0 => Ok(None),
        WLOG_HEADER_SIZE => Ok(Some(WlogFileHeader::decode(&bytes)?)),
        found => Err(ReadWlogError::Truncated { found }),
    }
}
