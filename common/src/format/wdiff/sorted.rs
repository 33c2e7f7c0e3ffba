//! Reading the sorted layout as a stream: record by record, a short run of images in memory at a time.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::file_header::{Layout, WDIFF_HEADER_SIZE, WdiffFileHeader};
use super::reader_memory::ReaderMemory;
use super::record::{Content, Data, Image, RecordKind, WdiffRecord};
use super::sorted_pack::{PACK_HEADER_SIZE, PackHeader, PackRecord};
use super::{MAX_IMAGE_BYTES, ReadWdiffError};
use crate::format::checksum::{Salt, checksum};
use crate::types::Lb;

/// Reads a sorted wdiff. Every MUST check of the format is made on the way, except that a datum's decompressed size
/// is checked when it is decompressed.
#[derive(Debug)]
pub struct SortedReader<R> {
    input: R,
    header: WdiffFileHeader,
    position: u64,
    pack: PackHeader,
    next_in_pack: usize,
    /// Data of the pack that were read but not given out yet.
    run: Bytes,
    memory: ReaderMemory,
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
            run: Bytes::new(),
            memory: ReaderMemory::of(1),
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

    /// Shares `memory` with other readers.
    pub fn share(&mut self, memory: &ReaderMemory) {
        self.memory = memory.clone();
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
        let Some(record) = self.upcoming()? else {
            return Ok(None);
        };
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

    /// The logical blocks of the next record, whose data are not read for that; None behind the end pack.
    pub fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError> {
        let upcoming = self.upcoming()?;
        Ok(upcoming.map(|record| record.address.0..record.address.0 + record.blocks.0))
    }

    /// The next record, from its pack's header.
    fn upcoming(&mut self) -> Result<Option<PackRecord>, ReadWdiffError> {
        while self.next_in_pack == self.pack.records().len() {
            if self.pack.is_end() {
                return Ok(None);
            }
            self.next_pack()?;
        }
        Ok(Some(self.pack.records()[self.next_in_pack]))
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

    /// The image of the record before `next_in_pack`.
    fn image(&mut self, record: PackRecord) -> Result<Image, ReadWdiffError> {
        let size = record.data_size as usize;
        if self.run.is_empty() {
            self.read_run(size)?;
        }
        let at = self.position - self.run.len() as u64;
        let stored = self.run.split_to(size);
        let (found, expected) = (checksum(&stored, Salt::ZERO), record.checksum);
        if found != expected {
            return Err(ReadWdiffError::Checksum {
                part: "data",
                position: at,
                found,
                expected,
            });
        }
        Ok(Image::stored(
            record.compression,
            stored,
            record.blocks,
            Some(found),
        ))
    }

    /// Reads an image of `first` bytes and, as far as they fit, those that follow it in the pack. Images of a run share
    /// its memory, so its size also bounds what one of them can keep alive.
    fn read_run(&mut self, first: usize) -> Result<(), ReadWdiffError> {
        let mut bytes = first;
        for record in &self.pack.records()[self.next_in_pack..] {
            match bytes + record.data_size as usize {
                more if more <= self.memory.ahead() => bytes = more,
                _ => break,
            }
        }
        let mut run = vec![0; bytes];
        if self.fill(&mut run)? < bytes {
            return Err(ReadWdiffError::Truncated {
                position: self.position,
                part: "data",
            });
        }
        self.run = run.into();
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, ReadWdiffError> {
        let position = self.position;
        let found = crate::format::fill(&mut self.input, buf)
            .map_err(|source| ReadWdiffError::Io { position, source })?;
        self.position += found as u64;
        Ok(found)
    }
}
