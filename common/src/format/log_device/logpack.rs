//! A logpack in memory: its header and the data blocks behind it.

use bytes::Bytes;

use super::{LogRecord, LogpackHeader, RecordKind};
use crate::format::checksum::{Salt, checksum};
use crate::types::Lsid;

/// A header and its data, as read from a log device or a wlog, in the bytes they were stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logpack {
    header: LogpackHeader,
    block: Bytes,
    data: Bytes,
}

/// The data of a record do not sum to what the record says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "data of record {index} at lsid {lsid} (logpack {pack}) sum to {found:08x}, the record says {expected:08x}"
)]
pub struct DataChecksumError {
    /// The pack.
    pub pack: Lsid,
    /// Which record, from 0.
    pub index: usize,
    /// The record's lsid.
    pub lsid: Lsid,
    /// What the record says.
    pub expected: u32,
    /// What the data sum to.
    pub found: u32,
}

impl LogpackHeader {
    /// Checks the data blocks behind this header, record by record; names the first that fails.
    pub fn verify_data(&self, data: &[u8], salt: Salt) -> Result<(), DataChecksumError> {
        for (index, record) in self.records().iter().enumerate() {
            if record.kind != RecordKind::Normal {
                continue;
            }
            let found = checksum(&data[self.data_range(record)], salt);
            if found != record.checksum {
                let (pack, lsid, expected) = (self.lsid(), record.lsid, record.checksum);
                return Err(DataChecksumError {
                    pack,
                    index,
                    lsid,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

impl Logpack {
    /// A pack of a header just built or changed. `data` holds exactly the header's data blocks.
    pub fn new(header: LogpackHeader, salt: Salt, data: Bytes) -> Self {
        let block = header.encode(salt);
        Self::from_stored(header, block, data)
    }

    /// A pack whose header was decoded from `block`.
    pub fn from_stored(header: LogpackHeader, block: Bytes, data: Bytes) -> Self {
        assert_eq!(data.len(), header.data_bytes(), "a pack comes with all its data");
        Self { header, block, data }
    }

    /// The header.
    pub fn header(&self) -> &LogpackHeader {
        &self.header
    }

    /// The header block as stored.
    pub fn block(&self) -> &Bytes {
        &self.block
    }

    /// All data blocks, tails of short IOs and padding included.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Bytes of the whole pack.
    pub fn stored_bytes(&self) -> usize {
        self.block.len() + self.data.len()
    }

    /// Exactly the data of one of the pack's records; shares the pack's memory.
    pub fn record_data(&self, record: &LogRecord) -> Bytes {
        self.data.slice(self.header.data_range(record))
    }

    /// The records with their data (empty for discards).
    pub fn records(&self) -> impl Iterator<Item = (&LogRecord, Bytes)> {
        self.header.records().iter().map(|r| (r, self.record_data(r)))
    }

    /// Checks the data of every normal record; names the first that fails.
    pub fn verify(&self, salt: Salt) -> Result<(), DataChecksumError> {
        self.header.verify_data(&self.data, salt)
    }

    /// The pack cut to its first `n` records; see [`LogpackHeader::shrunk_to`].
    pub fn shrunk_to(&self, n: usize, salt: Salt) -> Option<Self> {
        let header = self.header.shrunk_to(n)?;
        let data = self.data.slice(..header.data_bytes());
        Some(Self::new(header, salt, data))
    }
}
