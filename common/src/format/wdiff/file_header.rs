//! The file header of both layouts.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ReadWdiffError, sums_to_zero};
use crate::format::checksum::{Salt, checksum};
use crate::types::Uuid;

/// Bytes of a wdiff file header.
pub const WDIFF_HEADER_SIZE: usize = 32;
const VERSION: u16 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    checksum: U32,
    version: U16,
    layout: u8,
    reserved: [u8; 9],
    uuid: [u8; 16],
}
const _: () = assert!(size_of::<Stored>() == WDIFF_HEADER_SIZE);

/// How a wdiff file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Readable as a stream.
    Sorted,
    /// Writable in any order; an index at the end.
    Indexed,
}

/// What a wdiff says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WdiffFileHeader {
    /// The layout of what follows.
    pub layout: Layout,
    /// Of the log sequence it came from; nil where unknown.
    pub uuid: Uuid,
}

impl WdiffFileHeader {
    /// Reads the first 32 bytes of a wdiff.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReadWdiffError> {
        const PART: &str = "file header";
        let Ok(stored) = Stored::ref_from_bytes(bytes) else {
            return Err(ReadWdiffError::Truncated {
                position: bytes.len() as u64,
                part: PART,
            });
        };
        sums_to_zero(PART, 0, bytes)?;
        if stored.version.get() != VERSION {
            return Err(ReadWdiffError::field(
                PART,
                0,
                "version",
                stored.version.get().into(),
                VERSION,
            ));
        }
        let layout = match stored.layout {
            0 => Layout::Sorted,
            1 => Layout::Indexed,
            other => {
                return Err(ReadWdiffError::field(
                    PART,
                    0,
                    "type",
                    other.into(),
                    "0 (sorted) or 1 (indexed)",
                ));
            }
        };
        Ok(Self {
            layout,
            uuid: Uuid(stored.uuid),
        })
    }

    /// The 32 bytes to store.
    pub fn encode(&self) -> [u8; WDIFF_HEADER_SIZE] {
        let layout = match self.layout {
            Layout::Sorted => 0,
            Layout::Indexed => 1,
        };
        let mut stored = Stored {
            checksum: 0.into(),
            version: VERSION.into(),
            layout,
            reserved: [0; 9],
            uuid: self.uuid.0,
        };
        stored.checksum = checksum(stored.as_bytes(), Salt::ZERO).into();
        zerocopy::transmute!(stored)
    }
}
