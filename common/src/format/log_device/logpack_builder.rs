//! Building a logpack header record by record, within the limits of the format.

use bytes::Bytes;

use super::{LogRecord, LogpackHeader, RecordKind};
use crate::format::checksum::Salt;
use crate::types::{Lb, Lsid, PhysicalBlockSize};

/// A pack under construction. Only headers are built here; data go to the blocks the records' lsids name.
#[derive(Debug)]
pub struct LogpackBuilder {
    header: LogpackHeader,
    salt: Salt,
}

/// Why a record was not added. The pack is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It fits a new pack, but not this one.
    #[error("logpack is full")]
    Full,
    /// It fits no pack: a size its kind cannot have.
    #[error(
        "record of {0} logical blocks: a write has 1 to 65535, a discard 1 to 2^32-1, padding whole physical blocks"
    )]
    Size(Lb),
    /// The pack has its padding already.
    #[error("a logpack has at most one padding record")]
    SecondPadding,
}

impl LogpackBuilder {
    /// An empty pack whose header will be at `lsid`.
    pub fn new(pbs: PhysicalBlockSize, salt: Salt, lsid: Lsid) -> Self {
        Self {
            header: LogpackHeader {
                pbs,
                lsid,
                total_io_pb: 0,
                records: Vec::new(),
            },
            salt,
        }
    }

    /// Whether a write of `size` would fit.
    pub fn has_room_for(&self, size: Lb) -> bool {
        self.room(self.header.pbs.pbs_of(size)).is_ok()
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.header.records.is_empty()
    }

    /// Lsid at which the data of the next record would start.
    pub fn next_data_lsid(&self) -> Lsid {
        self.header.next_lsid()
    }

    /// Adds a write whose data sum to `checksum` with the log's salt. Its data belong at the record's lsid.
    pub fn push_normal(&mut self, offset: Lb, size: Lb, checksum: u32) -> Result<LogRecord, PushError> {
        if !(1..=65535).contains(&size.0) {
            return Err(PushError::Size(size));
        }
        self.push(RecordKind::Normal, offset, size, checksum)
    }

    /// Adds a discard.
    pub fn push_discard(&mut self, offset: Lb, size: Lb) -> Result<LogRecord, PushError> {
        if !(1..=u64::from(u32::MAX)).contains(&size.0) {
            return Err(PushError::Size(size));
        }
        self.push(RecordKind::Discard, offset, size, 0)
    }

    /// Adds `pbs` physical blocks of padding, e.g. up to the ring's end.
    pub fn push_padding(&mut self, pbs: u64) -> Result<LogRecord, PushError> {
        let size = Lb(pbs.saturating_mul(self.header.pbs.lbs()));
        if pbs > 65535 {
            return Err(PushError::Size(size));
        }
        if self.header.records.iter().any(|r| r.kind == RecordKind::Padding) {
            return Err(PushError::SecondPadding);
        }
        self.push(RecordKind::Padding, Lb(0), size, 0)
    }

    /// The header and its block; nothing if no record was added, as there are no empty packs.
    pub fn finish(self) -> Option<(LogpackHeader, Bytes)> {
        if self.is_empty() {
            return None;
        }
        let block = self.header.encode(self.salt);
        Some((self.header, block))
    }

    /// The total after adding `data_pbs` blocks.
    fn room(&self, data_pbs: u64) -> Result<u16, PushError> {
        let total = u64::from(self.header.total_io_pb) + data_pbs;
        // At 65535 not even a discard goes in: its local lsid would not fit 16 bits.
        if self.header.total_io_pb == u16::MAX
            || self.header.records.len() >= LogpackHeader::max_records(self.header.pbs)
        {
            return Err(PushError::Full);
        }
        u16::try_from(total).map_err(|_| PushError::Full)
    }

    fn push(
        &mut self,
        kind: RecordKind,
        offset: Lb,
        size: Lb,
        checksum: u32,
    ) -> Result<LogRecord, PushError> {
        let lsid_local = self.header.total_io_pb.wrapping_add(1);
        let lsid = self.header.next_lsid();
        let record = LogRecord {
            kind,
            offset,
            size,
            lsid,
            lsid_local,
            checksum,
        };
        self.header.total_io_pb = self.room(record.data_pbs(self.header.pbs))?;
        self.header.records.push(record);
        Ok(record)
    }
}
