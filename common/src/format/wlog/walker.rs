//! The logpack headers of a wlog that can be read anywhere; the data stay where they are.

use std::io;

use super::MAX_PACK_BYTES;
use super::file_header::{WLOG_HEADER_SIZE, WlogFileHeader};
use super::logpack_reader::{Expected, ReadLogpackError};
use super::reader::ReadWlogError;
use crate::format::log_device::LogpackHeader;
use crate::format::read_at::ReadAt;
use crate::types::Lsid;

/// Largest physical block.
const BLOCK_MAX: usize = 4096;

/// Walks through a wlog, or several one after the other, from header to header. What a [`super::WlogReader`] refuses it
/// refuses, except that data are only looked at by who reads them.
#[derive(Debug)]
pub struct WlogWalker<R> {
    input: R,
    size: u64,
    position: u64,
    header: WlogFileHeader,
    expected: Expected,
    ended: bool,
}

/// A logpack's header and where its data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLogpack {
    /// The header.
    pub header: LogpackHeader,
    /// Byte position of the data blocks behind it.
    pub data: u64,
}

impl<R: ReadAt> WlogWalker<R> {
    /// Starts at the file header at byte 0 of an input of `size` bytes.
    pub fn open(input: R, size: u64) -> Result<Self, ReadWlogError> {
        let header = file_header(&input, size, 0)?.ok_or(ReadWlogError::Truncated { found: 0 })?;
        Ok(Self {
            input,
            size,
            position: WLOG_HEADER_SIZE as u64,
            expected: expected(&header),
            header,
            ended: false,
        })
    }

    /// The file header of the current wlog.
    pub fn header(&self) -> &WlogFileHeader {
        &self.header
    }

    /// Lsid after the packs found so far; at the end, the real end of the wlog.
    pub fn next_lsid(&self) -> Lsid {
        self.expected.lsid
    }

    /// Byte position after the packs found so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next pack of the current wlog, all of which is there; None after its end block.
    pub fn next_pack(&mut self) -> Result<Option<FoundLogpack>, ReadWlogError> {
        if self.ended {
            return Ok(None);
        }
        let lsid = self.expected.lsid;
        let left = self.size.saturating_sub(self.position);
        let truncated = |part, found: u64, expected| ReadLogpackError::Truncated {
            lsid,
            part,
            found: found as usize,
            expected,
        };
        let mut block = [0; BLOCK_MAX];
        let block = &mut block[..self.expected.pbs.bytes()];
        if left == 0 {
            return Err(ReadLogpackError::MissingEndBlock { lsid }.into());
        }
        if left < block.len() as u64 {
            return Err(truncated("header", left, block.len()).into());
        }
        self.input
            .read_exact_at(block, self.position)
            .map_err(|source| ReadLogpackError::Io { lsid, source })?;
        let data = self.position + block.len() as u64;
        let Some(header) = self.expected.header(block)? else {
            self.ended = true;
            self.position = data;
            return Ok(None);
        };
        let bytes = header.data_bytes();
        if self.size - data < bytes as u64 {
            return Err(truncated("data", self.size - data, bytes).into());
        }
        self.position = data + bytes as u64;
        self.expected.lsid = header.next_lsid();
        Ok(Some(FoundLogpack { header, data }))
    }

    /// Goes on to the wlog that follows in the same input; None at its end. It must continue this one, as
    /// [`super::WlogReader::next_wlog`] demands.
    pub fn next_wlog(mut self) -> Result<Option<Self>, ReadWlogError> {
        while self.next_pack()?.is_some() {}
        let Some(header) = file_header(&self.input, self.size, self.position)? else {
            return Ok(None);
        };
        self.header.followed_by(&header, self.next_lsid())?;
        Ok(Some(Self {
            position: self.position + WLOG_HEADER_SIZE as u64,
            expected: expected(&header),
            header,
            ended: false,
            ..self
        }))
    }
}

fn expected(header: &WlogFileHeader) -> Expected {
    Expected {
        pbs: header.pbs,
        salt: header.salt,
        lsid: header.begin,
        max_pack_bytes: MAX_PACK_BYTES,
    }
}

fn file_header(
    input: &impl ReadAt,
    size: u64,
    position: u64,
) -> Result<Option<WlogFileHeader>, ReadWlogError> {
    match size.saturating_sub(position) {
        0 => Ok(None),
        left if left < WLOG_HEADER_SIZE as u64 => Err(ReadWlogError::Truncated { found: left as usize }),
        _ => {
            let mut bytes = [0; WLOG_HEADER_SIZE];
            let read: io::Result<()> = input.read_exact_at(&mut bytes, position);
            read.map_err(ReadWlogError::Io)?;
            Ok(Some(WlogFileHeader::decode(&bytes)?))
        }
    }
}
