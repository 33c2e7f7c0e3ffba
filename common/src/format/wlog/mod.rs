//! A wlog: a stretch of log as a byte stream. Byte tables: docs/formats/wlog.md.
//!
//! ```text
//!  file header (4096) | header block, data blocks | header block, data blocks | ... | end block
//! ```
//!
//! Packs are those of the log device, in lsid order without gaps. The end block says that the stream is complete; a
//! stream that stops without one is refused unless the reader was told to accept it.

mod end_block;
mod file_header;
mod logpack_parser;
mod logpack_reader;
mod reader;
mod walker;
mod writer;

pub use crate::format::log_device::{DataChecksumError, Logpack};
pub use end_block::end_block;
pub use file_header::{WLOG_HEADER_SIZE, WlogFileHeader, WlogFileHeaderError};
pub use logpack_parser::{LogpackParser, Parsed};
pub use logpack_reader::{LogpackReader, ReadLogpackError};
pub use reader::{ReadWlogError, WlogReader};
pub use walker::{FoundLogpack, WlogWalker};
pub use writer::{WlogWriter, WriteWlogError};

/// Largest pack a reader takes unless told otherwise. The format allows about 256 MiB; writers stay far below.
pub const MAX_PACK_BYTES: usize = 64 << 20;
