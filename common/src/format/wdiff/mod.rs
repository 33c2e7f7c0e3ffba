//! A wdiff: the net effect of a stretch of log as disjoint address ranges. Byte tables: docs/formats/wdiff.md.
//!
//! ```text
//!  sorted   file header | pack header, data | pack header, data | ... | end pack     readable as a stream
//!  indexed  file header | images | index records | index super                       needs positioned reads
//! ```
//!
//! Both give the same thing: [`WdiffRecord`]s in ascending address order that do not overlap. The data of a record
//! stay compressed until someone asks for them.

mod any;
mod file_header;
mod file_name;
mod indexed;
mod indexed_record;
mod reader_memory;
mod record;
mod sorted;
mod sorted_pack;
mod sorted_writer;

pub use any::{RecordSource, WdiffFileError, WdiffReader};
pub use file_header::{Layout, WDIFF_HEADER_SIZE, WdiffFileHeader};
pub use file_name::WdiffFileName;
pub use indexed::{IndexedReader, IndexedWriter, StoredImage};
pub use indexed_record::{INDEX_RECORD_SIZE, INDEX_SUPER_SIZE, IndexRecord, IndexSuper};
pub use reader_memory::ReaderMemory;
pub use record::{Content, Data, Image, RecordKind, WdiffRecord};
pub use sorted::SortedReader;
pub use sorted_pack::{MAX_PACK_DATA, PACK_HEADER_SIZE, PACK_RECORDS_MAX, PackHeader, PackRecord};
pub use sorted_writer::{
    EncodedPack, NextPack, PACK_DATA_TARGET, PackBatch, PackBuilder, SortedWriter, WriteStats,
    WriteWdiffError,
};

use crate::format::compress::DecompressError;
use crate::types::Lb;
use std::io;

/// Largest image (decompressed) a reader takes unless told otherwise. Existing writers stay at 32 MiB.
pub const MAX_IMAGE_BYTES: usize = 64 << 20;

/// Why a wdiff cannot be read on. Positions are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadWdiffError {
    /// The medium failed.
    #[error("read wdiff at byte {position}")]
    Io {
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends too early.
    #[error("wdiff ends at byte {position}, inside its {part}")]
    Truncated {
        /// Its length.
        position: u64,
        /// What is cut.
        part: &'static str,
    },
    /// A sorted file ends without its end pack, so that records may be missing.
    #[error("wdiff ends at byte {position} without an end pack")]
    MissingEndPack {
        /// Its length.
        position: u64,
    },
    /// Bytes follow the end of the wdiff.
    #[error("bytes follow the end of the wdiff at byte {position}")]
    Trailing {
        /// The end.
        position: u64,
    },
    /// A structure does not sum to zero, or an image not to what its record says.
    #[error("{part} at byte {position} of the wdiff: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Which structure.
        part: &'static str,
        /// Where.
        position: u64,
        /// What it sums to.
        found: u32,
        /// What it should.
        expected: u32,
    },
    /// A field has a value it cannot have.
    #[error("{part} at byte {position} of the wdiff: {field} is {found}, expected {expected}")]
    Field {
        /// Which structure.
        part: &'static str,
        /// Where.
        position: u64,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: String,
    },
    /// Records overlap or go backwards.
    #[error(
        "record at byte {position} of the wdiff: address {found} is below {expected}, where the one before ends"
    )]
    Order {
        /// Where.
        position: u64,
        /// Its address.
        found: Lb,
        /// The least it could be.
        expected: Lb,
    },
    /// An image does not decompress.
    #[error("data of the record at address {address}")]
    Decompress {
        /// The record's address.
        address: Lb,
        /// Why.
        #[source]
        source: DecompressError,
    },
}

impl ReadWdiffError {
    fn field(
        part: &'static str,
        position: u64,
        field: &'static str,
        found: u64,
        expected: impl ToString,
    ) -> Self {
        Self::Field {
            part,
            position,
            field,
            found,
            expected: expected.to_string(),
        }
    }
}

/// Checks that a structure sums to zero.
fn sums_to_zero(part: &'static str, position: u64, bytes: &[u8]) -> Result<(), ReadWdiffError> {
    use crate::format::checksum::{Salt, checksum};
    match checksum(bytes, Salt::ZERO) {
        0 => Ok(()),
        found => Err(ReadWdiffError::Checksum {
            part,
            position,
            found,
            expected: 0,
        }),
    }
}
