//! The log of a device, chunk by chunk, with every header and every datum verified before it goes anywhere.

use bytes::Bytes;
use walb_common::format::checksum::Salt;
use walb_common::format::wlog::{LogpackParser, Parsed, ReadLogpackError};
use walb_common::types::{Lsid, Uuid};
use walb_wdev::client::DeviceStatus;

use crate::device::{CallError, Device};

/// Bytes asked for at once.
const CHUNK: usize = 1 << 20;

/// The log could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("read the log at lsid {from}")]
    Device {
        from: Lsid,
        #[source]
        source: CallError,
    },
    #[error("the log read at lsid {from} has uuid {found}, expected {expected}: it was reset meanwhile")]
    OtherLog { from: Lsid, expected: Uuid, found: Uuid },
    #[error("the log read at lsid {from} is damaged")]
    Damaged {
        from: Lsid,
        #[source]
        source: ReadLogpackError,
    },
    #[error(
        "the log read at lsid {from} is not whole packs: they end at {reached} with {left} bytes left, expected an end at {next}"
    )]
    NotWhole {
        from: Lsid,
        reached: Lsid,
        left: usize,
        next: Lsid,
    },
    #[error("the log read at lsid {from} ends at {next}: expected an end from {from} to {limit}")]
    OutOfRange { from: Lsid, next: Lsid, limit: Lsid },
}

pub(super) struct VerifiedReader<'a> {
    device: &'a Device,
    parser: LogpackParser,
    uuid: Uuid,
    limit: Lsid,
}

impl<'a> VerifiedReader<'a> {
    pub(super) fn new(device: &'a Device, status: &DeviceStatus, from: Lsid, limit: Lsid) -> Self {
        let parser = LogpackParser::new(status.pbs, Salt(status.salt), from);
        Self {
            device,
            parser,
            uuid: status.uuid,
            limit,
        }
    }

    /// Where the packs read so far end.
    pub(super) fn reached(&self) -> Lsid {
        self.parser.next_lsid()
    }

    /// The next chunk and the lsid of its first pack; nothing if no further pack ends within the limit.
    pub(super) async fn next(&mut self) -> Result<Option<(Lsid, Bytes)>, ReadError> {
        let from = self.reached();
        if from >= self.limit {
            return Ok(None);
        }
        let chunk = self
            .device
            .read_log(from, self.limit, CHUNK)
            .await
            .map_err(|source| ReadError::Device { from, source })?;
        if chunk.uuid != self.uuid {
            return Err(ReadError::OtherLog {
                from,
                expected: self.uuid,
                found: chunk.uuid,
            });
        }
        if chunk.next < from || chunk.next > self.limit {
            return Err(ReadError::OutOfRange {
                from,
                next: chunk.next,
                limit: self.limit,
            });
        }
        if chunk.next == from {
            return Ok(None);
        }
        self.parser.push(chunk.bytes.clone());
        while let Parsed::Pack(_) = self
            .parser
            .next()
            .map_err(|source| ReadError::Damaged { from, source })?
        {}
        if self.reached() != chunk.next || self.parser.buffered() != 0 {
            let (reached, left) = (self.reached(), self.parser.buffered());
            return Err(ReadError::NotWhole {
                from,
                reached,
                left,
                next: chunk.next,
            });
        }
        Ok(Some((from, chunk.bytes)))
    }
}
