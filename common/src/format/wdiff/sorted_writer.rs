//! Writing the sorted layout: records are gathered into packs, and a pack is put together as one byte string.
//!
//! ```text
//!  records --NextPack--> PackBatch --encode--> EncodedPack --SortedWriter--> file
//! ```
//! Encoding, where the time goes, needs nothing but the batch and a compressor: it may happen on several threads.

use std::io::{self, Write};

use super::file_header::{Layout, WdiffFileHeader};
use super::record::{Content, Data, RecordKind, WdiffRecord};
use super::sorted_pack::{PACK_HEADER_SIZE, PACK_RECORDS_MAX, PackHeader, PackRecord};
use crate::format::checksum::{Salt, checksum};
use crate::format::compress::{Compressor, DecompressError};
use crate::types::{Compression, CompressionSetting, LB_SIZE, Lb, Uuid};

/// Data of a pack, before compression: below the format's limit, as it is memory per pack being put together.
pub const PACK_DATA_TARGET: u64 = 4 << 20;

/// Why a wdiff could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteWdiffError {
    /// The stream failed.
    #[error("write wdiff at byte {position}")]
    Io {
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record starts below the end of the one before.
    #[error("record at address {found} does not follow: the one before ends at {expected}")]
    Order {
        /// Its address.
        found: Lb,
        /// The least it could be.
        expected: Lb,
    },
    /// The record is too large for the format.
    #[error("record at address {address} has {blocks} blocks, more than a wdiff record holds")]
    TooLarge {
        /// Its address.
        address: Lb,
        /// Its size.
        blocks: Lb,
    },
    /// The index is too large for the format.
    #[error("{0} records are more than a wdiff index holds")]
    TooMany(u64),
    /// Data to recompress do not decompress.
    #[error("recompress record at address {address}")]
    Decompress {
        /// Its address.
        address: Lb,
        /// Why.
        #[source]
        source: DecompressError,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Records in the file.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A pack being put together.
#[derive(Debug)]
pub struct PackBuilder {
    header: PackHeader,
    /// The header's place, then the data so far.
    bytes: Vec<u8>,
}

/// A whole pack as stored, with its header.
#[derive(Debug)]
pub struct EncodedPack {
    bytes: Vec<u8>,
    records: usize,
    /// Where its last record ends.
    end: Lb,
}

impl EncodedPack {
    /// Its records.
    pub fn records(&self) -> usize {
        self.records
    }

    /// As it is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its memory, for the next one.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

impl PackBuilder {
    /// An empty pack, put together in `buffer`, whose content is of no interest: one that an earlier pack gave back
    /// saves the kernel from handing out, and us from touching, fresh memory for every pack.
    pub fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(PACK_HEADER_SIZE, 0);
        Self {
            header: PackHeader::default(),
            bytes: buffer,
        }
    }

    /// Adds a range without data. Like those below, the caller knows that the pack has room: fewer than 127 records,
    /// and data of at most 32 MiB or of just one record.
    pub fn add_dataless(&mut self, address: Lb, blocks: Lb, kind: RecordKind) {
        self.push(address, blocks, kind, Compression::None, self.bytes.len());
    }

    /// Adds data, which are whole logical blocks, compressed if that makes them smaller.
    pub fn add_raw(&mut self, address: Lb, raw: &[u8], compressor: &mut Compressor) {
        let start = self.bytes.len();
        let blocks = Lb(raw.len() as u64 / LB_SIZE);
        let compression = compressor.store(raw, &mut self.bytes);
        self.push(address, blocks, RecordKind::Normal, compression, start);
    }

    /// Adds data: as they are stored if that is the wanted type already, else recompressed.
    pub fn add_data(
        &mut self,
        address: Lb,
        data: &Data,
        compressor: &mut Compressor,
    ) -> Result<(), DecompressError> {
        if data.is_stored_as(compressor.setting().kind) {
            let start = self.bytes.len();
            let image = data.image();
            self.bytes.extend_from_slice(image.stored_bytes());
            self.header.push(PackRecord {
                address,
                blocks: data.blocks(),
                kind: RecordKind::Normal,
                compression: image.compression(),
                data_offset: 0,
                data_size: (self.bytes.len() - start) as u32,
                checksum: image.checksum(),
            });
        } else {
            self.add_raw(address, &data.raw()?, compressor);
        }
        Ok(())
    }

    fn push(&mut self, address: Lb, blocks: Lb, kind: RecordKind, compression: Compression, start: usize) {
        let stored = &self.bytes[start..];
        self.header.push(PackRecord {
            address,
            blocks,
            kind,
            compression,
            data_offset: 0,
            data_size: stored.len() as u32,
            checksum: if stored.is_empty() {
                0
            } else {
                checksum(stored, Salt::ZERO)
            },
        });
    }

    /// The pack, of at least one record.
    pub fn finish(mut self) -> EncodedPack {
        self.bytes[..PACK_HEADER_SIZE].copy_from_slice(&self.header.encode());
        let last = self.header.records().last();
        EncodedPack {
            records: self.header.records().len(),
            end: last.map_or(Lb(0), |r| Lb(r.address.0 + r.blocks.0)),
            bytes: self.bytes,
        }
    }
}

/// Records that become one pack.
#[derive(Debug, Default)]
pub struct PackBatch {
    records: Vec<WdiffRecord>,
    /// Their data will not take more.
    bytes: u64,
    compresses: bool,
}

impl PackBatch {
    /// Whether anything has to be compressed; else encoding is copying, and not worth another thread.
    pub fn compresses(&self) -> bool {
        self.compresses
    }

    /// The pack, compressed, in `buffer`.
    pub fn encode(
        self,
        compressor: &mut Compressor,
        mut buffer: Vec<u8>,
    ) -> Result<EncodedPack, WriteWdiffError> {
        buffer.clear();
        buffer.reserve(PACK_HEADER_SIZE + self.bytes as usize);
        let mut pack = PackBuilder::new(buffer);
        for record in &self.records {
            let (address, blocks) = (record.address, record.blocks);
            match &record.content {
                Content::Normal(data) => pack
                    .add_data(address, data, compressor)
                    .map_err(|source| WriteWdiffError::Decompress { address, source })?,
                Content::AllZero | Content::Discard => pack.add_dataless(address, blocks, record.kind()),
            }
        }
        Ok(pack.finish())
    }
}

/// Gathers records, which come in address order, into packs.
#[derive(Debug)]
pub struct NextPack {
    wanted: Compression,
    batch: PackBatch,
    from: Lb,
}

impl NextPack {
    /// For a file whose data are to be compressed as `wanted`.
    pub fn new(wanted: Compression) -> Self {
        Self {
            wanted,
            batch: PackBatch::default(),
            from: Lb(0),
        }
    }

    /// Adds a record; gives the pack before it if that is full.
    pub fn push(&mut self, record: WdiffRecord) -> Result<Option<PackBatch>, WriteWdiffError> {
        let (address, blocks) = (record.address, record.blocks);
        if address < self.from {
            return Err(WriteWdiffError::Order {
                found: address,
                expected: self.from,
            });
        }
        let mut compresses = false;
        let bytes = match &record.content {
            Content::Normal(data) if data.is_stored_as(self.wanted) => {
                data.image().stored_bytes().len() as u64
            }
            Content::Normal(_) => {
                compresses = true;
                blocks.bytes()
            }
            Content::AllZero | Content::Discard => 0,
        };
        if blocks.0 > u32::MAX.into() || bytes > u32::MAX.into() || address.0.checked_add(blocks.0).is_none()
        {
            return Err(WriteWdiffError::TooLarge { address, blocks });
        }
        let count = self.batch.records.len();
        let full = count == PACK_RECORDS_MAX || (count > 0 && self.batch.bytes + bytes > PACK_DATA_TARGET);
        let before = full.then(|| std::mem::take(&mut self.batch));
        self.from = record.end();
        self.batch.records.push(record);
        self.batch.bytes += bytes;
        self.batch.compresses |= compresses;
        Ok(before)
    }

    /// The last pack, if any record is left.
    pub fn finish(self) -> Option<PackBatch> {
        (!self.batch.records.is_empty()).then_some(self.batch)
    }
}

/// Writes a sorted wdiff. Without [`SortedWriter::finish`] it has no end pack and readers refuse it.
#[derive(Debug)]
pub struct SortedWriter<W> {
    out: W,
    compressor: Compressor,
    next: NextPack,
    buffer: Vec<u8>,
    from: Lb,
    stats: WriteStats,
}

impl<W: Write> SortedWriter<W> {
    /// Writes the file header. `uuid` is nil where unknown.
    pub fn new(out: W, uuid: Uuid, setting: CompressionSetting) -> Result<Self, WriteWdiffError> {
        let mut writer = Self {
            out,
            compressor: Compressor::new(setting),
            next: NextPack::new(setting.kind),
            buffer: Vec::new(),
            from: Lb(0),
            stats: WriteStats::default(),
        };
        let layout = Layout::Sorted;
        writer.put(&WdiffFileHeader { layout, uuid }.encode())?;
        Ok(writer)
    }

    /// Writes the next record. Data stored with the wanted compression already are passed on as they are.
    pub fn write(&mut self, record: &WdiffRecord) -> Result<(), WriteWdiffError> {
        match self.next.push(record.clone())? {
            Some(batch) => self.write_batch(batch),
            None => Ok(()),
        }
    }

    fn write_batch(&mut self, batch: PackBatch) -> Result<(), WriteWdiffError> {
        let pack = batch.encode(&mut self.compressor, std::mem::take(&mut self.buffer))?;
        self.write_pack(&pack)?;
        self.buffer = pack.into_buffer();
        Ok(())
    }

    /// Writes a pack put together elsewhere, whose records follow those written so far. Not to be mixed with
    /// [`SortedWriter::write`], whose records may still wait to be written.
    pub fn write_pack(&mut self, pack: &EncodedPack) -> Result<(), WriteWdiffError> {
        debug_assert!(self.from <= pack.end, "packs come in order");
        self.from = pack.end;
        self.stats.records += pack.records as u64;
        self.put(&pack.bytes)
    }

    /// Writes what is left and the end pack. Gives the stream back, unflushed.
    pub fn finish(mut self) -> Result<(W, WriteStats), WriteWdiffError> {
        let next = std::mem::replace(&mut self.next, NextPack::new(Compression::None));
        if let Some(batch) = next.finish() {
            self.write_batch(batch)?;
        }
        self.put(&PackHeader::end().encode())?;
        Ok((self.out, self.stats))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteWdiffError> {
        let position = self.stats.bytes;
        self.out
            .write_all(bytes)
            .map_err(|source| WriteWdiffError::Io { position, source })?;
        self.stats.bytes += bytes.len() as u64;
        Ok(())
    }
}
