//! The log device: a super sector and a ring of logpacks. Byte tables: docs/formats/log-device.md.
//!
//! ```text
//!  byte 4096: super sector | super sector copy (never read) | ring: ... header data data header data ...
//! ```
//!
//! Everything counts physical blocks; an lsid numbers each block of log ever written, and its place is
//! `lsid mod ring size`. A pack is current only if its header carries the very lsid it was sought at: earlier laps
//! leave intact packs behind.

mod logpack;
mod logpack_builder;
mod logpack_header;
mod ring;
pub mod scan;
mod super_sector;

pub use logpack::{DataChecksumError, Logpack};
pub use logpack_builder::{LogpackBuilder, PushError};
pub(in crate::format) use logpack_header::encode_block;
pub use logpack_header::{LogRecord, LogpackHeader, LogpackHeaderError, RecordFault, RecordKind};
pub use ring::Ring;
pub use scan::{ScanEnd, ScanError, Scanner, stale_headers};
pub use super_sector::{SUPER_SECTOR_OFFSET, SuperSector, SuperSectorError, TooSmall};

/// Sector type of a super sector.
pub(in crate::format) const KIND_SUPER: u16 = 1;
/// Sector type of a logpack header.
pub(in crate::format) const KIND_LOGPACK: u16 = 3;
/// The log's format version. 2 made a record's size 32 bits wide.
pub(in crate::format) const LOG_VERSION: u16 = 2;
