//! The wlog file header. Byte table: docs/formats/wlog.md.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::checksum::{Salt, checksum};
use crate::format::log_device::LOG_VERSION;
use crate::types::{LB_SIZE, Lsid, PhysicalBlockSize, Uuid};

/// Bytes of a wlog file header.
pub const WLOG_HEADER_SIZE: usize = 4096;
const KIND_WLOG: u16 = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    kind: U16,
    version: U16,
    header_size: U16,
    reserved: U16,
    checksum: U32,
    salt: U32,
    logical_bs: U32,
    physical_bs: U32,
    uuid: [u8; 16],
    begin: U64,
    end: U64,
}
const _: () = assert!(size_of::<Stored>() == 56 && std::mem::offset_of!(Stored, begin) == 40);

/// What a wlog says about itself. `begin < end` in one that was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WlogFileHeader {
    /// Physical block size of everything that follows.
    pub pbs: PhysicalBlockSize,
    /// Salt of pack headers and data.
    pub salt: Salt,
    /// Of the log sequence.
    pub uuid: Uuid,
    /// Lsid of the first pack.
    pub begin: Lsid,
    /// Upper bound of the lsids; the real end may be before it. [`Lsid::INVALID`] for "as far as it goes".
    pub end: Lsid,
}

/// Why bytes are no wlog file header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WlogFileHeaderError {
    /// Not 4096 bytes.
    #[error("wlog file header has {found} bytes, expected 4096")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// The header does not sum to zero.
    #[error("wlog file header checksum wrong: it sums to {sum:08x}, expected 0")]
    Checksum {
        /// What it sums to.
        sum: u32,
    },
    /// A field has a value it cannot have.
    #[error("wlog file header {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// The lsid range is empty or reversed.
    #[error("wlog file header has begin lsid {begin}, end lsid {end}: expected begin < end")]
    Range {
        /// The begin lsid.
        begin: Lsid,
        /// The end lsid.
        end: Lsid,
    },
}

impl WlogFileHeader {
    /// Reads the first 4096 bytes of a wlog.
    pub fn decode(bytes: &[u8]) -> Result<Self, WlogFileHeaderError> {
        use WlogFileHeaderError::{Checksum, Field, Length, Range};
        let length = || Length { found: bytes.len() };
        let (stored, _) = Stored::ref_from_prefix(bytes).map_err(|_| length())?;
        if bytes.len() != WLOG_HEADER_SIZE {
            return Err(length());
        }
        match checksum(bytes, Salt::ZERO) {
            0 => {}
            sum => return Err(Checksum { sum }),
        }
        for (field, found, wanted, expected) in [
            (
                "sector type",
                u64::from(stored.kind.get()),
                u64::from(KIND_WLOG),
                "4",
            ),
            ("version", stored.version.get().into(), LOG_VERSION.into(), "2"),
            (
                "header size",
                stored.header_size.get().into(),
                WLOG_HEADER_SIZE as u64,
                "4096",
            ),
            (
                "logical block size",
                stored.logical_bs.get().into(),
                LB_SIZE,
                "512",
            ),
        ] {
            if found != wanted {
                return Err(Field {
                    field,
                    found,
                    expected,
                });
            }
        }
        let physical = stored.physical_bs.get();
        let pbs = PhysicalBlockSize::new(physical).map_err(|_| Field {
            field: "physical block size",
            found: physical.into(),
            expected: "512 or 4096",
        })?;
        let (begin, end) = (Lsid(stored.begin.get()), Lsid(stored.end.get()));
        if begin >= end {
            return Err(Range { begin, end });
        }
        Ok(Self {
            pbs,
            salt: Salt(stored.salt.get()),
            uuid: Uuid(stored.uuid),
            begin,
            end,
        })
    }

    /// The 4096 bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            kind: KIND_WLOG.into(),
            version: LOG_VERSION.into(),
            header_size: (WLOG_HEADER_SIZE as u16).into(),
            reserved: 0.into(),
            checksum: 0.into(),
            salt: self.salt.0.into(),
            logical_bs: (LB_SIZE as u32).into(),
            physical_bs: u32::from(self.pbs).into(),
            uuid: self.uuid.0,
            begin: self.begin.0.into(),
            end: self.end.0.into(),
        };
        let mut bytes = stored.as_bytes().to_vec();
        bytes.resize(WLOG_HEADER_SIZE, 0);
        let sum = checksum(&bytes, Salt::ZERO);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}
