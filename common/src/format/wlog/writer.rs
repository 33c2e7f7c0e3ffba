//! Writing a wlog to a byte stream.

use std::io::{self, Write};

use super::{WlogFileHeader, end_block};
use crate::format::log_device::Logpack;
use crate::types::Lsid;

/// Why a wlog could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteWlogError {
    /// The stream failed.
    #[error("write wlog at lsid {lsid}")]
    Io {
        /// Where the next pack goes.
        lsid: Lsid,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The pack does not continue the wlog.
    #[error("logpack of lsid {found} does not follow: the wlog goes on at {expected}")]
    OutOfPlace {
        /// The pack's lsid.
        found: Lsid,
        /// Where the wlog goes on.
        expected: Lsid,
    },
    /// No reader takes a file header with an empty or reversed lsid range.
    #[error("write a wlog from lsid {begin} to {end}: expected begin < end")]
    Range {
        /// The begin lsid.
        begin: Lsid,
        /// The end lsid.
        end: Lsid,
    },
    /// The pack has another physical block size than the wlog.
    #[error("logpack {lsid} has physical blocks of {found} bytes, the wlog of {expected}")]
    OtherBlockSize {
        /// The pack.
        lsid: Lsid,
        /// Its block size.
        found: usize,
        /// The wlog's.
        expected: usize,
    },
}

/// Writes a wlog. Without [`WlogWriter::finish`] it stays incomplete and readers say so.
#[derive(Debug)]
pub struct WlogWriter<W> {
    out: W,
    header: WlogFileHeader,
    next: Lsid,
}

impl<W: Write> WlogWriter<W> {
    /// Writes the file header. Packs must carry its salt.
    pub fn new(mut out: W, header: WlogFileHeader) -> Result<Self, WriteWlogError> {
        let (next, end) = (header.begin, header.end);
        if next >= end {
            return Err(WriteWlogError::Range { begin: next, end });
        }
        out.write_all(&header.encode())
            .map_err(|source| WriteWlogError::Io { lsid: next, source })?;
        Ok(Self { out, header, next })
    }

    /// Writes the next pack.
    pub fn write(&mut self, pack: &Logpack) -> Result<(), WriteWlogError> {
        let header = pack.header();
        if header.lsid() != self.next {
            return Err(WriteWlogError::OutOfPlace {
                found: header.lsid(),
                expected: self.next,
            });
        }
        if header.pbs() != self.header.pbs {
            let (found, expected) = (header.pbs().bytes(), self.header.pbs.bytes());
            return Err(WriteWlogError::OtherBlockSize {
                lsid: self.next,
                found,
                expected,
            });
        }
        let io = |source| WriteWlogError::Io {
            lsid: header.lsid(),
            source,
        };
        self.out.write_all(pack.block()).map_err(io)?;
        self.out.write_all(pack.data()).map_err(io)?;
        self.next = header.next_lsid();
        Ok(())
    }

    /// Where the next pack goes.
    pub fn next_lsid(&self) -> Lsid {
        self.next
    }

    /// Writes the end block and gives the stream back, unflushed.
    pub fn finish(mut self) -> Result<W, WriteWlogError> {
        let lsid = self.next;
        self.out
            .write_all(&end_block(self.header.pbs, self.header.salt))
            .map_err(|source| WriteWlogError::Io { lsid, source })?;
        Ok(self.out)
    }
}
