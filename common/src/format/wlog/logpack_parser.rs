//! Packs from chunks that arrive as they like, for receivers that must not block.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::MAX_PACK_BYTES;
use super::logpack_reader::{Expected, ReadLogpackError};
use crate::format::checksum::Salt;
use crate::format::log_device::{Logpack, LogpackHeader};
use crate::types::{Lsid, PhysicalBlockSize};

/// What a parser got out of the bytes pushed so far.
#[derive(Debug)]
pub enum Parsed {
    /// A whole pack, all its checksums verified.
    Pack(Logpack),
    /// Push more first.
    NeedMore,
    /// The end block; nothing more belongs to this wlog.
    End,
}

/// Feed it with [`LogpackParser::push`], then take packs with [`LogpackParser::next`] until it needs more. Doing so
/// after every push keeps at most one pack and one chunk in memory. After an error it is of no further use.
#[derive(Debug)]
pub struct LogpackParser {
    expected: Expected,
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// The header whose data are being waited for.
    header: Option<(LogpackHeader, Bytes)>,
    ended: bool,
}

impl LogpackParser {
    /// A parser of packs from `first` on.
    pub fn new(pbs: PhysicalBlockSize, salt: Salt, first: Lsid) -> Self {
        let expected = Expected {
            pbs,
            salt,
            lsid: first,
            max_pack_bytes: MAX_PACK_BYTES,
        };
        Self {
            expected,
            chunks: VecDeque::new(),
            buffered: 0,
            header: None,
            ended: false,
        }
    }

    /// Takes packs of up to this many bytes, header included.
    #[must_use]
    pub fn max_pack_bytes(mut self, max: usize) -> Self {
        self.expected.max_pack_bytes = max;
        self
    }

    /// Adds the next bytes of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        self.buffered += chunk.len();
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next pack, if it is all there.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator ends for good; this one may only need more"
    )]
    pub fn next(&mut self) -> Result<Parsed, ReadLogpackError> {
        if self.ended {
            return Ok(Parsed::End);
        }
        if self.header.is_none() {
            let Some(block) = self.take(self.expected.pbs.bytes()) else {
                return Ok(Parsed::NeedMore);
            };
            let Some(header) = self.expected.header(&block)? else {
                self.ended = true;
                return Ok(Parsed::End);
            };
            self.header = Some((header, block));
        }
        let wanted = self.header.as_ref().map_or(0, |(h, _)| h.data_bytes());
        let Some(data) = self.take(wanted) else {
            return Ok(Parsed::NeedMore);
        };
        let Some((header, block)) = self.header.take() else {
            return Ok(Parsed::NeedMore);
        };
        self.expected.pack(header, block, data).map(Parsed::Pack)
    }

    /// Lsid after the packs taken so far.
    pub fn next_lsid(&self) -> Lsid {
        self.expected.lsid
    }

    /// Bytes pushed but not yet part of a pack taken.
    pub fn buffered(&self) -> usize {
        self.buffered + self.header.as_ref().map_or(0, |(_, block)| block.len())
    }

    /// To be called when the stream is over: an error unless it ended with the end block, with nothing behind it.
    pub fn finish(self) -> Result<(), ReadLogpackError> {
        let lsid = self.expected.lsid;
        let pb = self.expected.pbs.bytes();
        let (part, expected) = match &self.header {
            Some((header, _)) => ("data", header.data_bytes()),
            None => ("header", pb),
        };
        match (self.ended, self.buffered()) {
            (true, 0) => Ok(()),
            (false, 0) => Err(ReadLogpackError::MissingEndBlock { lsid }),
            (true, found) => Err(ReadLogpackError::Trailing { lsid, found }),
            (false, _) => Err(ReadLogpackError::Truncated {
                lsid,
                part,
                found: self.buffered,
                expected,
            }),
        }
    }

    /// The first `count` bytes, if they are there; copied only when they span chunks.
    fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.buffered < count {
            return None;
        }
        self.buffered -= count;
        if count == 0 {
            return Some(Bytes::new());
        }
        let first = self.chunks.front_mut()?;
        let whole = if first.len() >= count {
            first.split_to(count)
        } else {
            let mut whole = BytesMut::with_capacity(count);
            while whole.len() < count {
                let chunk = self.chunks.front_mut()?;
                let part = chunk.split_to(chunk.len().min(count - whole.len()));
                whole.extend_from_slice(&part);
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
            }
            whole.freeze()
        };
        if self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
        Some(whole)
    }
}
