//! The indexed layout: images in the order they came, found through an index at the end.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use super::file_header::{Layout, WDIFF_HEADER_SIZE, WdiffFileHeader};
use super::indexed_record::{INDEX_RECORD_SIZE, INDEX_SUPER_SIZE, IndexRecord, IndexSuper};
use super::reader_memory::{Claim, ReaderMemory};
use super::record::{Content, Data, Image, RecordKind, WdiffRecord};
use super::sorted_writer::{WriteStats, WriteWdiffError};
use super::{MAX_IMAGE_BYTES, ReadWdiffError};
use crate::format::read_at::ReadAt;
use crate::types::{Compression, Lb, Uuid};

/// Index records read at once.
const INDEX_CHUNK: u64 = 256;

/// Reads an indexed wdiff, record by record in address order. Every MUST check of the format is made on the way,
/// except that an image's decompressed size is checked when it is decompressed, and nothing of an image when all its
/// records are passed over.
#[derive(Debug)]
pub struct IndexedReader<R> {
    input: R,
    header: WdiffFileHeader,
    index: IndexSuper,
    next: u64,
    chunk: Vec<u8>,
    chunk_from: u64,
    from: Lb,
    /// Decoded, but not given out yet.
    upcoming: Option<IndexRecord>,
    /// Whether pieces of one image are joined; then the record that was found not to belong to `upcoming`.
    joins: bool,
    behind: Option<IndexRecord>,
    /// Images of which pieces may still come.
    kept: Vec<Kept>,
    memory: ReaderMemory,
    max_image: usize,
}

/// An image that a later record may share.
#[derive(Debug)]
struct Kept {
    /// One of its records.
    record: IndexRecord,
    /// Where the image ends: behind that no record shares it.
    until: Lb,
    image: Arc<Image>,
    _claim: Claim,
}

/// Whether two records, both normal, share an image. Of others the data offset means nothing, and may equal an image's.
fn share_image(a: &IndexRecord, b: &IndexRecord) -> bool {
    let key = |r: &IndexRecord| {
        (
            r.data_offset,
            r.data_size,
            r.orig_blocks,
            r.io_checksum,
            r.compression,
        )
    };
    key(a) == key(b)
}

/// Whether `next` goes on where `record` ends, in the volume and in the image of both.
fn continues(record: &IndexRecord, next: &IndexRecord) -> bool {
    (record.kind, next.kind) == (RecordKind::Normal, RecordKind::Normal)
        && record.address.0 + record.blocks.0 == next.address.0
        && record.io_offset.0 + record.blocks.0 == next.io_offset.0
        && share_image(record, next)
}

impl<R: ReadAt> IndexedReader<R> {
    /// Reads the file header and the index super of a file of `file_size` bytes.
    pub fn open(input: R, file_size: u64) -> Result<Self, ReadWdiffError> {
        let mut bytes = [0; WDIFF_HEADER_SIZE];
        let position = file_size;
        if file_size < (WDIFF_HEADER_SIZE + INDEX_SUPER_SIZE) as u64 {
            return Err(ReadWdiffError::Truncated {
                position,
                part: "file header or index super",
            });
        }
        read(&input, &mut bytes, 0)?;
        let header = WdiffFileHeader::decode(&bytes)?;
        if header.layout != Layout::Indexed {
            return Err(ReadWdiffError::field("file header", 0, "type", 0, "1 (indexed)"));
        }
        let mut bytes = [0; INDEX_SUPER_SIZE];
        read(&input, &mut bytes, file_size - INDEX_SUPER_SIZE as u64)?;
        let index = IndexSuper::decode(&bytes, file_size)?;
        Ok(Self {
            input,
            header,
            index,
            next: 0,
            chunk: Vec::new(),
            chunk_from: 0,
            from: Lb(0),
            upcoming: None,
            joins: false,
            behind: None,
            kept: Vec::new(),
            memory: ReaderMemory::of(1),
            max_image: MAX_IMAGE_BYTES,
        })
    }

    /// Takes images of up to this many bytes, decompressed.
    #[must_use]
    pub fn max_image_bytes(mut self, max: usize) -> Self {
        self.max_image = max;
        self
    }

    /// Shares `memory` with other readers.
    pub fn share(&mut self, memory: &ReaderMemory) {
        self.memory = memory.clone();
    }

    /// From the next record on, gives pieces of one image that lie side by side, in the image as in the volume, as one
    /// record, whose size and address need not be aligned.
    pub fn join_pieces(&mut self) {
        self.joins = true;
    }

    /// The file header.
    pub fn header(&self) -> &WdiffFileHeader {
        &self.header
    }

    /// The index super.
    pub fn index(&self) -> &IndexSuper {
        &self.index
    }

    /// The next index record, without its data; None at the end.
    pub fn next_index_record(&mut self) -> Result<Option<IndexRecord>, ReadWdiffError> {
        if let Some(record) = self.upcoming.take() {
            return Ok(Some(record));
        }
        let first = match self.behind.take() {
            Some(record) => Some(record),
            None => self.decode_next()?,
        };
        let Some(mut joined) = first.filter(|_| self.joins) else {
            return Ok(first);
        };
        while let Some(record) = self.decode_next()? {
            if !continues(&joined, &record) {
                self.behind = Some(record);
                break;
            }
            // At most the size of the image, in which both lie.
            joined.blocks.0 += record.blocks.0;
        }
        Ok(Some(joined))
    }

    /// The next index record as it is stored.
    fn decode_next(&mut self) -> Result<Option<IndexRecord>, ReadWdiffError> {
        let total = u64::from(self.index.n_records);
        if self.next == total {
            return Ok(None);
        }
        let position_of = |n: u64| self.index.index_offset + n * INDEX_RECORD_SIZE as u64;
        if self.next == self.chunk_from + (self.chunk.len() / INDEX_RECORD_SIZE) as u64 {
            let count = INDEX_CHUNK.min(total - self.next) as usize;
            self.chunk.resize(count * INDEX_RECORD_SIZE, 0);
            self.chunk_from = self.next;
            read(&self.input, &mut self.chunk, position_of(self.next))?;
        }
        let at = (self.next - self.chunk_from) as usize * INDEX_RECORD_SIZE;
        let record = IndexRecord::decode(
            &self.chunk[at..at + INDEX_RECORD_SIZE],
            position_of(self.next),
            self.from,
            self.index.index_offset,
            self.max_image,
        )?;
        self.next += 1;
        self.from = Lb(record.address.0 + record.blocks.0);
        Ok(Some(record))
    }

    /// The logical blocks of the next record, whose image is not read for that; None at the end.
    pub fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError> {
        let upcoming = self.next_index_record()?;
        self.upcoming = upcoming;
        Ok(upcoming.map(|record| record.address.0..record.address.0 + record.blocks.0))
    }

    /// The next record, its stored image verified; None at the end.
    pub fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError> {
        let Some(record) = self.next_index_record()? else {
            return Ok(None);
        };
        let content = match record.kind {
            RecordKind::AllZero => Content::AllZero,
            RecordKind::Discard => Content::Discard,
            RecordKind::Normal => {
                let image = self.image(&record)?;
                Content::Normal(Data::whole(image).slice(record.io_offset, record.blocks))
            }
        };
        Ok(Some(WdiffRecord {
            address: record.address,
            blocks: record.blocks,
            content,
        }))
    }

    fn image(&mut self, record: &IndexRecord) -> Result<Arc<Image>, ReadWdiffError> {
        self.kept.retain(|kept| kept.until > record.address);
        if let Some(kept) = self.kept.iter().find(|kept| share_image(&kept.record, record)) {
            return Ok(Arc::clone(&kept.image));
        }
        let mut stored = vec![0; record.data_size as usize];
        read(&self.input, &mut stored, record.data_offset)?;
        let image = Arc::new(Image::stored(
            record.compression,
            stored.into(),
            record.orig_blocks,
            None,
        ));
        let (found, expected) = (image.checksum(), record.io_checksum);
        if found != expected {
            let position = record.data_offset;
            return Err(ReadWdiffError::Checksum {
                part: "image",
                position,
                found,
                expected,
            });
        }
        self.keep(record, &image);
        Ok(image)
    }

    /// Keeps an image for the records behind this one, if there are any and there is room.
    fn keep(&mut self, record: &IndexRecord, image: &Arc<Image>) {
        let behind = record.orig_blocks.0.saturating_sub(record.io_offset.0);
        let until = Lb(record.address.0.saturating_add(behind));
        if until.0 <= record.address.0 + record.blocks.0 {
            return;
        }
        // Decompressed, if it will be, it is kept as well.
        let bytes = u64::from(record.data_size) + record.orig_blocks.bytes();
        if let Some(claim) = self.memory.claim(bytes) {
            self.kept.push(Kept {
                record: *record,
                until,
                image: Arc::clone(image),
                _claim: claim,
            });
        }
    }
}

fn read(input: &impl ReadAt, buf: &mut [u8], position: u64) -> Result<(), ReadWdiffError> {
    input
        .read_exact_at(buf, position)
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ReadWdiffError::Truncated {
                position,
                part: "indexed file",
            },
            _ => ReadWdiffError::Io { position, source },
        })
}

/// Where an image was stored; index records are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredImage {
    /// Its compression.
    pub compression: Compression,
    /// Byte position in the file.
    pub data_offset: u64,
    /// Stored bytes.
    pub data_size: u32,
    /// Of the stored bytes.
    pub checksum: u32,
    /// Logical blocks, decompressed.
    pub blocks: Lb,
}

/// Writes an indexed wdiff: images as they come, the index at the end. Without [`IndexedWriter::finish`] readers
/// refuse the file.
#[derive(Debug)]
pub struct IndexedWriter<W> {
    out: W,
    position: u64,
    n_data: u32,
}

impl<W: Write> IndexedWriter<W> {
    /// Writes the file header. `uuid` is nil where unknown.
    pub fn new(out: W, uuid: Uuid) -> Result<Self, WriteWdiffError> {
        let mut writer = Self {
            out,
            position: 0,
            n_data: 0,
        };
        writer.put(
            &WdiffFileHeader {
                layout: Layout::Indexed,
                uuid,
            }
            .encode(),
        )?;
        Ok(writer)
    }

    /// Appends an image.
    pub fn add_image(&mut self, image: &Image) -> Result<StoredImage, WriteWdiffError> {
        let blocks = image.blocks();
        let too_large = || WriteWdiffError::TooLarge {
            address: Lb(0),
            blocks,
        };
        let data_size = u32::try_from(image.stored_bytes().len()).map_err(|_| too_large())?;
        let data_offset = self.position;
        self.put(image.stored_bytes())?;
        self.count(1);
        Ok(StoredImage {
            compression: image.compression(),
            data_offset,
            data_size,
            checksum: image.checksum(),
            blocks,
        })
    }

    /// Appends `count` images that lie back to back.
    pub fn add_images(&mut self, stored: &[u8], count: u64) -> Result<(), WriteWdiffError> {
        self.put(stored)?;
        self.count(count);
        Ok(())
    }

    /// Counts IOs of which nothing is stored.
    pub fn add_dataless(&mut self, count: u64) {
        self.count(count);
    }

    fn count(&mut self, count: u64) {
        self.n_data = u32::try_from(u64::from(self.n_data) + count).unwrap_or(u32::MAX);
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes the index, whose records come in address order. Gives the stream back, unflushed.
    pub fn finish(
        mut self,
        records: impl IntoIterator<Item = IndexRecord>,
    ) -> Result<(W, WriteStats), WriteWdiffError> {
        let index_offset = self.position.next_multiple_of(8);
        self.put(&[0; 8][..(index_offset - self.position) as usize])?;
        let (mut count, mut from) = (0u64, Lb(0));
        let mut buf = Vec::with_capacity(INDEX_CHUNK as usize * INDEX_RECORD_SIZE);
        for record in records {
            if record.address < from {
                return Err(WriteWdiffError::Order {
                    found: record.address,
                    expected: from,
                });
            }
            from = Lb(record.address.0 + record.blocks.0);
            buf.extend_from_slice(&record.encode());
            count += 1;
            if buf.len() == buf.capacity() {
                self.put(&buf)?;
                buf.clear();
            }
        }
        self.put(&buf)?;
        let n_records = u32::try_from(count).map_err(|_| WriteWdiffError::TooMany(count))?;
        self.put(
            &IndexSuper {
                index_offset,
                n_records,
                n_data: self.n_data,
            }
            .encode(),
        )?;
        Ok((
            self.out,
            WriteStats {
                records: count,
                bytes: self.position,
            },
        ))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteWdiffError> {
        let position = self.position;
        self.out
            .write_all(bytes)
            .map_err(|source| WriteWdiffError::Io { position, source })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
