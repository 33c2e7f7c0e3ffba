//! Packs from a blocking byte stream, every header and every datum verified.

use std::io::{self, Read};

use bytes::Bytes;

use super::MAX_PACK_BYTES;
use crate::format::checksum::Salt;
use crate::format::log_device::{DataChecksumError, Logpack, LogpackHeader, LogpackHeaderError};
use crate::types::{Lsid, PhysicalBlockSize};

/// Why a stream of packs cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogpackError {
    /// The stream failed.
    #[error("read logpack {lsid}")]
    Io {
        /// The pack sought.
        lsid: Lsid,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream stops inside a pack.
    #[error("wlog ends inside logpack {lsid}: {found} of {expected} bytes of its {part}")]
    Truncated {
        /// The pack.
        lsid: Lsid,
        /// Header or data.
        part: &'static str,
        /// Bytes present.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The stream stops at a pack boundary, but no end block says that it is complete.
    #[error("wlog ends at lsid {lsid} without an end block")]
    MissingEndBlock {
        /// Where the next pack would be.
        lsid: Lsid,
    },
    /// Bytes follow the end block where nothing may.
    #[error("{found} bytes follow the end block of the wlog that ends at lsid {lsid}")]
    Trailing {
        /// The real end of the wlog.
        lsid: Lsid,
        /// How many.
        found: usize,
    },
    /// A header block is damaged or out of place.
    #[error("header of logpack {lsid} is damaged")]
    Header {
        /// The pack sought.
        lsid: Lsid,
        /// What is wrong.
        #[source]
        source: LogpackHeaderError,
    },
    /// A record's data are damaged.
    #[error("logpack {lsid} is damaged")]
    Data {
        /// The pack.
        lsid: Lsid,
        /// Which data.
        #[source]
        source: DataChecksumError,
    },
    /// The pack is larger than this reader takes.
    #[error("logpack {lsid} has {found} bytes, at most {max} are taken")]
    TooLarge {
        /// The pack.
        lsid: Lsid,
        /// Its size.
        found: usize,
        /// The bound.
        max: usize,
    },
}

/// What every pack of a stream is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub pbs: PhysicalBlockSize,
    pub salt: Salt,
    pub lsid: Lsid,
    pub max_pack_bytes: usize,
}

impl Expected {
    /// The header in `block`; None if it is the end block.
    pub fn header(&self, block: &[u8]) -> Result<Option<LogpackHeader>, ReadLogpackError> {
        let lsid = self.lsid;
        let header = match LogpackHeader::decode(block, self.pbs, self.salt, lsid) {
            Ok(header) => header,
            Err(LogpackHeaderError::EndBlock) => return Ok(None),
            Err(source) => return Err(ReadLogpackError::Header { lsid, source }),
        };
        let found = self.pbs.bytes() + header.data_bytes();
        if found > self.max_pack_bytes {
            return Err(ReadLogpackError::TooLarge {
                lsid,
                found,
                max: self.max_pack_bytes,
            });
        }
        Ok(Some(header))
    }

    /// The verified pack; moves on to the next.
    pub fn pack(
        &mut self,
        header: LogpackHeader,
        block: Bytes,
        data: Bytes,
    ) -> Result<Logpack, ReadLogpackError> {
        let pack = Logpack::from_stored(header, block, data);
        pack.verify(self.salt).map_err(|source| ReadLogpackError::Data {
            lsid: self.lsid,
            source,
        })?;
        self.lsid = pack.header().next_lsid();
        Ok(pack)
    }
}

/// Reads packs up to and including the end block, and not a byte further.
#[derive(Debug)]
pub struct LogpackReader<R> {
    input: R,
    expected: Expected,
    without_end_block: bool,
    ended: bool,
}

impl<R: Read> LogpackReader<R> {
    /// A reader of packs from `first` on.
    pub fn new(input: R, pbs: PhysicalBlockSize, salt: Salt, first: Lsid) -> Self {
        let expected = Expected {
            pbs,
            salt,
            lsid: first,
            max_pack_bytes: MAX_PACK_BYTES,
        };
        Self {
            input,
            expected,
            without_end_block: false,
            ended: false,
        }
    }

    /// Takes packs of up to this many bytes, header included.
    #[must_use]
    pub fn max_pack_bytes(mut self, max: usize) -> Self {
        self.expected.max_pack_bytes = max;
        self
    }

    /// Also takes a stream that ends at a pack boundary without an end block.
    #[must_use]
    pub fn accept_missing_end_block(mut self) -> Self {
        self.without_end_block = true;
        self
    }

    /// The next pack, all its checksums verified; None at the end.
    pub fn next_pack(&mut self) -> Result<Option<Logpack>, ReadLogpackError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        let Some(header) = self.expected.header(&block)? else {
            self.ended = true;
            return Ok(None);
        };
        let mut data = vec![0; header.data_bytes()];
        let found = self.fill(&mut data)?;
        if found < data.len() {
            return Err(self.truncated("data", found, data.len()));
        }
        self.expected.pack(header, block, data.into()).map(Some)
    }

    /// Lsid after the packs read so far; at the end, the real end of the wlog.
    pub fn next_lsid(&self) -> Lsid {
        self.expected.lsid
    }

    /// The input, positioned after what was read.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn block(&mut self) -> Result<Option<Bytes>, ReadLogpackError> {
        let mut block = vec![0; self.expected.pbs.bytes()];
        match self.fill(&mut block)? {
            0 if self.without_end_block => {
                self.ended = true;
                Ok(None)
            }
            0 => Err(ReadLogpackError::MissingEndBlock {
                lsid: self.expected.lsid,
            }),
            found if found < block.len() => Err(self.truncated("header", found, block.len())),
            _ => Ok(Some(block.into())),
        }
    }

    fn truncated(&self, part: &'static str, found: usize, expected: usize) -> ReadLogpackError {
        ReadLogpackError::Truncated {
            lsid: self.expected.lsid,
            part,
            found,
            expected,
        }
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, ReadLogpackError> {
        crate::format::fill(&mut self.input, buf).map_err(|source| ReadLogpackError::Io {
            lsid: self.expected.lsid,
            source,
        })
    }
}
