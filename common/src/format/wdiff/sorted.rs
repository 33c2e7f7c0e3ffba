//! The sorted layout as a stream: record by record in, record by record out, one image in memory at a time.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::file_header::{Layout, WDIFF_HEADER_SIZE, WdiffFileHeader};
use super::record::{Content, Data, Image, RecordKind, WdiffRecord};
use super::sorted_pack::{PACK_HEADER_SIZE, PackHeader, PackRecord};
use super::{MAX_IMAGE_BYTES, ReadWdiffError};
use crate::format::compress::{Compressor, DecompressError};
use crate::types::{Compression, CompressionSetting, Lb, Uuid};

/// Data gathered before a pack is written. Below the format's limit, as it is memory per writer.
const PACK_DATA_TARGET: u32 = 8 << 20;

/// Reads a sorted wdiff. Every MUST check of the format is made on the way, except that a datum's decompressed size
/// is checked when it is decompressed.
#[derive(Debug)]
pub struct SortedReader<R> {
    input: R,
    header: WdiffFileHeader,
    position: u64,
    pack: PackHeader,
    next_in_pack: usize,
    /// Where the last record ended.
    from: Lb,
    max_image: usize,
    nothing_follows: bool,
}

impl<R: Read> SortedReader<R> {
    /// Reads the file header.
    pub fn new(mut input: R) -> Result<Self, ReadWdiffError> {
        let mut bytes = [0; WDIFF_HEADER_SIZE];
        let found = crate::format::fill(&mut input, &mut bytes)
            .map_err(|source| ReadWdiffError::Io { position: 0, source })?;
        let header = WdiffFileHeader::decode(&bytes[..found])?;
        if header.layout != Layout::Sorted {
            return Err(ReadWdiffError::field("file header", 0, "type", 1, "0 (sorted)"));
        }
        Ok(Self::after_header(input, header))
    }

    /// Goes on behind a file header that was already read.
    pub fn after_header(input: R, header: WdiffFileHeader) -> Self {
        Self {
            input,
            header,
            position: WDIFF_HEADER_SIZE as u64,
            pack: PackHeader::default(),
            next_in_pack: 0,
            from: Lb(0),
            max_image: MAX_IMAGE_BYTES,
            nothing_follows: false,
        }
    }

    /// Takes images of up to this many bytes, decompressed.
    #[must_use]
    pub fn max_image_bytes(mut self, max: usize) -> Self {
        self.max_image = max;
        self
    }

    /// Refuses bytes behind the end pack, as in a file.
    #[must_use]
    pub fn nothing_follows(mut self) -> Self {
        self.nothing_follows = true;
        self
    }

    /// The file header.
    pub fn header(&self) -> &WdiffFileHeader {
        &self.header
    }

    /// The pack of the record read last, and its index in it.
    pub fn place(&self) -> (&PackHeader, usize) {
        (&self.pack, self.next_in_pack.saturating_sub(1))
    }

    /// The next record, its stored data verified; None behind the end pack.
    pub fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError> {
        while self.next_in_pack == self.pack.records().len() {
            if self.pack.is_end() {
                return Ok(None);
            }
            self.next_pack()?;
        }
        let record = self.pack.records()[self.next_in_pack];
        self.next_in_pack += 1;
        self.from = Lb(record.address.0 + record.blocks.0);
        let content = match record.kind {
            RecordKind::AllZero => Content::AllZero,
            RecordKind::Discard => Content::Discard,
            RecordKind::Normal => Content::Normal(Data::whole(Arc::new(self.image(record)?))),
        };
        Ok(Some(WdiffRecord {
            address: record.address,
            blocks: record.blocks,
            content,
        }))
    }

    fn next_pack(&mut self) -> Result<(), ReadWdiffError> {
        let mut bytes = [0; PACK_HEADER_SIZE];
        let at = self.position;
        match self.fill(&mut bytes)? {
            0 => return Err(ReadWdiffError::MissingEndPack { position: at }),
            PACK_HEADER_SIZE => {}
            _ => {
                return Err(ReadWdiffError::Truncated {
                    position: self.position,
                    part: "pack header",
                });
            }
        }
        self.pack = PackHeader::decode(&bytes, at, self.from, self.max_image)?;
        self.next_in_pack = 0;
        if self.pack.is_end() && self.nothing_follows {
            let end = self.position;
            if self.fill(&mut [0])? != 0 {
                return Err(ReadWdiffError::Trailing { position: end });
            }
        }
        Ok(())
    }

    fn image(&mut self, record: PackRecord) -> Result<Image, ReadWdiffError> {
        let at = self.position;
        let mut stored = vec![0; record.data_size as usize];
        if self.fill(&mut stored)? < stored.len() {
            return Err(ReadWdiffError::Truncated {
                position: self.position,
                part: "data",
            });
        }
        let image = Image::stored(record.compression, Bytes::from(stored), record.blocks, None);
        let (found, expected) = (image.checksum(), record.checksum);
        if found != expected {
            return Err(ReadWdiffError::Checksum {
                part: "data",
                position: at,
                found,
                expected,
            });
        }
        Ok(image)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, ReadWdiffError> {
        let position = self.position;
        let found = crate::format::fill(&mut self.input, buf)
            .map_err(|source| ReadWdiffError::Io { position, source })?;
        self.position += found as u64;
        Ok(found)
    }
}

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

/// Writes a sorted wdiff. Without [`SortedWriter::finish`] it has no end pack and readers refuse it.
#[derive(Debug)]
pub struct SortedWriter<W> {
    out: W,
    compressor: Compressor,
    pack: PackHeader,
    images: Vec<Arc<Image>>,
    from: Lb,
    stats: WriteStats,
}

impl<W: Write> SortedWriter<W> {
    /// Writes the file header. `uuid` is nil where unknown.
    pub fn new(out: W, uuid: Uuid, setting: CompressionSetting) -> Result<Self, WriteWdiffError> {
        let compressor = Compressor::new(setting);
        let (pack, images, from) = (PackHeader::default(), Vec::new(), Lb(0));
        let mut writer = Self {
            out,
            compressor,
            pack,
            images,
            from,
            stats: WriteStats::default(),
        };
        writer.put(
            &WdiffFileHeader {
                layout: Layout::Sorted,
                uuid,
            }
            .encode(),
        )?;
        Ok(writer)
    }

    /// Writes the next record. Data stored with the wanted compression already are passed on as they are.
    pub fn write(&mut self, record: &WdiffRecord) -> Result<(), WriteWdiffError> {
        let (address, blocks) = (record.address, record.blocks);
        if address < self.from {
            return Err(WriteWdiffError::Order {
                found: address,
                expected: self.from,
            });
        }
        let too_large = || WriteWdiffError::TooLarge { address, blocks };
        if blocks.0 > u32::MAX.into() || address.0.checked_add(blocks.0).is_none() {
            return Err(too_large());
        }
        let kind = record.kind();
        let (mut compression, mut data_size, mut checksum) = (Compression::None, 0, 0);
        if let Content::Normal(data) = &record.content {
            let image = data
                .to_stored(&mut self.compressor)
                .map_err(|source| WriteWdiffError::Decompress { address, source })?;
            compression = image.compression();
            data_size = u32::try_from(image.stored_bytes().len()).map_err(|_| too_large())?;
            checksum = image.checksum();
            self.make_room(data_size)?;
            self.images.push(image);
        } else {
            self.make_room(0)?;
        }
        self.pack.push(PackRecord {
            address,
            blocks,
            kind,
            compression,
            data_offset: 0,
            data_size,
            checksum,
        });
        self.from = record.end();
        self.stats.records += 1;
        Ok(())
    }

    /// Writes what is left and the end pack. Gives the stream back, unflushed.
    pub fn finish(mut self) -> Result<(W, WriteStats), WriteWdiffError> {
        self.flush_pack()?;
        self.put(&PackHeader::end().encode())?;
        Ok((self.out, self.stats))
    }

    fn make_room(&mut self, data_size: u32) -> Result<(), WriteWdiffError> {
        if !self.pack.has_room_for(data_size) || self.pack.total_size() >= PACK_DATA_TARGET {
            self.flush_pack()?;
        }
        Ok(())
    }

    fn flush_pack(&mut self) -> Result<(), WriteWdiffError> {
        if self.pack.records().is_empty() {
            return Ok(());
        }
        let header = std::mem::take(&mut self.pack).encode();
        self.put(&header)?;
        for image in std::mem::take(&mut self.images) {
            self.put(image.stored_bytes())?;
        }
        Ok(())
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
