//! A wdiff of either layout, by its name.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use super::file_header::{Layout, WDIFF_HEADER_SIZE, WdiffFileHeader};
use super::indexed::IndexedReader;
use super::reader_memory::ReaderMemory;
use super::record::WdiffRecord;
use super::sorted::SortedReader;
use super::{MAX_IMAGE_BYTES, ReadWdiffError};
use crate::format::read_at::ReadAt;
use crate::types::{Lb, Uuid};

/// Records in ascending address order, without overlap.
pub trait RecordSource {
    /// The range of the next one, without reading its data; None at the end.
    fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError>;

    /// The next one, its stored data verified; None at the end.
    fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError>;

    /// Passes over the next one. Its data are read and verified only if that is on the way.
    fn skip_record(&mut self) -> Result<(), ReadWdiffError>;

    /// Shares `memory` with other sources from now on.
    fn share(&mut self, memory: &ReaderMemory);

    /// From the next record on, pieces of one image that lie side by side come as one record.
    fn join_pieces(&mut self);
}

impl<R: Read> RecordSource for SortedReader<R> {
    fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError> {
        Self::next_range(self)
    }

    fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError> {
        Self::next_record(self)
    }

    fn skip_record(&mut self) -> Result<(), ReadWdiffError> {
        self.next_record().map(drop)
    }

    fn share(&mut self, memory: &ReaderMemory) {
        Self::share(self, memory);
    }

    fn join_pieces(&mut self) {
        // Each record has an image of its own.
    }
}

impl<R: ReadAt> RecordSource for IndexedReader<R> {
    fn next_range(&mut self) -> Result<Option<Range<u64>>, ReadWdiffError> {
        Self::next_range(self)
    }

    fn next_record(&mut self) -> Result<Option<WdiffRecord>, ReadWdiffError> {
        Self::next_record(self)
    }

    fn skip_record(&mut self) -> Result<(), ReadWdiffError> {
        self.next_index_record().map(drop)
    }

    fn share(&mut self, memory: &ReaderMemory) {
        Self::share(self, memory);
    }

    fn join_pieces(&mut self) {
        Self::join_pieces(self);
    }
}

/// A named wdiff cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read wdiff {name}")]
pub struct WdiffFileError {
    /// The file, or what stands for it.
    pub name: String,
    /// What is wrong, and where.
    #[source]
    pub source: ReadWdiffError,
}

/// A wdiff of either layout. Errors carry its name.
pub struct WdiffReader {
    name: String,
    header: WdiffFileHeader,
    source: Box<dyn RecordSource + Send>,
}

impl std::fmt::Debug for WdiffReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WdiffReader({}, {:?})", self.name, self.header)
    }
}

impl WdiffReader {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WdiffFileError> {
        let name = path.as_ref().display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_file(file, name),
            Err(source) => Err(WdiffFileError {
                name,
                source: ReadWdiffError::Io { position: 0, source },
            }),
        }
    }

    /// Reads an open file from its start.
    pub fn from_file(file: File, name: impl Into<String>) -> Result<Self, WdiffFileError> {
        Self::from_file_bounded(file, name, MAX_IMAGE_BYTES)
    }

    /// As [`WdiffReader::from_file`], with another bound for the size of an image.
    pub fn from_file_bounded(
        file: File,
        name: impl Into<String>,
        max_image: usize,
    ) -> Result<Self, WdiffFileError> {
        let name = name.into();
        match Self::file_source(file, max_image) {
            Ok((header, source)) => Ok(Self { name, header, source }),
            Err(source) => Err(WdiffFileError { name, source }),
        }
    }

    fn file_source(
        file: File,
        max_image: usize,
    ) -> Result<(WdiffFileHeader, Box<dyn RecordSource + Send>), ReadWdiffError> {
        let io = |source| ReadWdiffError::Io { position: 0, source };
        let size = file.metadata().map_err(io)?.len();
        let mut bytes = [0; WDIFF_HEADER_SIZE];
        let found = crate::format::fill(&mut &file, &mut bytes).map_err(io)?;
        let header = WdiffFileHeader::decode(&bytes[..found])?;
        let source: Box<dyn RecordSource + Send> = match header.layout {
            Layout::Sorted => {
                // Large reads go past the buffer; it serves the pack headers and small images.
                let input = BufReader::with_capacity(16 << 10, file);
                let reader = SortedReader::after_header(input, header);
                Box::new(reader.nothing_follows().max_image_bytes(max_image))
            }
            Layout::Indexed => Box::new(IndexedReader::open(file, size)?.max_image_bytes(max_image)),
        };
        Ok((header, source))
    }

    /// Any other source, e.g. a [`SortedReader`] over a socket.
    pub fn from_source(
        source: impl RecordSource + Send + 'static,
        header: WdiffFileHeader,
        name: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            header,
            source: Box::new(source),
        }
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file header.
    pub fn header(&self) -> &WdiffFileHeader {
        &self.header
    }

    /// The log sequence it came from; nil if unknown.
    pub fn uuid(&self) -> Uuid {
        self.header.uuid
    }

    /// The logical blocks of the next record, without reading its data; None at the end.
    pub fn next_range(&mut self) -> Result<Option<Range<u64>>, WdiffFileError> {
        self.source.next_range().map_err(|source| WdiffFileError {
            name: self.name.clone(),
            source,
        })
    }

    /// Passes over the next record. Its data are read and verified only if that is on the way, as in the sorted layout.
    pub fn skip_record(&mut self) -> Result<(), WdiffFileError> {
        self.source.skip_record().map_err(|source| WdiffFileError {
            name: self.name.clone(),
            source,
        })
    }

    /// The next record, its stored data verified; None at the end.
    pub fn next_record(&mut self) -> Result<Option<WdiffRecord>, WdiffFileError> {
        self.source.next_record().map_err(|source| WdiffFileError {
            name: self.name.clone(),
            source,
        })
    }

    /// Shares `memory` with other readers from now on.
    pub fn share(&mut self, memory: &ReaderMemory) {
        self.source.share(memory);
    }

    /// From the next record on, gives pieces of one image that lie side by side as one record. The indexed layout cuts a
    /// write into aligned pieces; joined again, what nothing has overwritten is all of its image, and can be passed on
    /// as it is stored. What the wdiff says stays the same, but not in the records that the existing tools make of it.
    pub fn join_pieces(&mut self) {
        self.source.join_pieces();
    }

    /// The same reader, joining pieces.
    #[must_use]
    pub fn joining_pieces(mut self) -> Self {
        self.join_pieces();
        self
    }

    /// Reads everything that is left and decompresses it, to see whether it is sound. Tells the end of the highest
    /// range, 0 if there are none.
    pub fn verify(mut self) -> Result<Lb, WdiffFileError> {
        let mut end = Lb(0);
        while let Some(record) = self.next_record()? {
            end = record.end();
            record.raw_data().map_err(|source| WdiffFileError {
                name: self.name.clone(),
                source: ReadWdiffError::Decompress {
                    address: record.address,
                    source,
                },
            })?;
        }
        Ok(end)
    }
}
