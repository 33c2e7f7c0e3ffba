//! The super sector: what a log device says about itself. Byte table: docs/formats/log-device.md.
//!
//! Only copy 0 (byte 4096) is ever read. A second copy follows it on some devices; it is as old as the format of the
//! device and must not be used as a fallback.

use std::borrow::Cow;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{KIND_SUPER, LOG_VERSION, Ring};
use crate::format::checksum::{Salt, checksum};
use crate::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize, Uuid};

/// Byte position of the super sector on a log device.
pub const SUPER_SECTOR_OFFSET: u64 = 4096;
const NAME_LEN: usize = 32;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Stored {
    kind: U16,
    version: U16,
    checksum: U32,
    logical_bs: U32,
    physical_bs: U32,
    metadata_size: U32,
    salt: U32,
    uuid: [u8; 16],
    name: [u8; NAME_LEN],
    ring_size: U64,
    oldest: U64,
    written: U64,
    device_size: U64,
}
const _: () = assert!(size_of::<Stored>() == 104 && std::mem::offset_of!(Stored, ring_size) == 72);

/// A believed super sector. Invariants: both lsids valid, `oldest <= written`, a ring of at least one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperSector {
    pbs: PhysicalBlockSize,
    metadata_size: u32,
    salt: Salt,
    uuid: Uuid,
    name: Vec<u8>,
    ring_size: u64,
    oldest: Lsid,
    written: Lsid,
    device_size: Lb,
}

/// Why a block is no super sector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperSectorError {
    /// Not one physical block.
    #[error("super sector has {found} bytes, expected {expected}")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes of a physical block.
        expected: usize,
    },
    /// The block does not sum to zero.
    #[error("super sector checksum wrong: the block sums to {sum:08x}, expected 0")]
    Checksum {
        /// What it sums to.
        sum: u32,
    },
    /// A fixed or bounded field has a value it cannot have.
    #[error("super sector {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: String,
    },
    /// The name field has no end.
    #[error("super sector name has no NUL within its 32 bytes")]
    Name,
    /// The lsids contradict each other.
    #[error(
        "super sector lsids are oldest {oldest}, written {written}: expected valid ones, oldest <= written"
    )]
    Lsids {
        /// The oldest lsid.
        oldest: Lsid,
        /// The written lsid.
        written: Lsid,
    },
    /// The ring reaches beyond the end of the device.
    #[error("ring ends at byte {ring_end}, but the log device has {device_bytes} bytes")]
    RingBeyondDevice {
        /// First byte after the ring.
        ring_end: u64,
        /// Bytes of the log device.
        device_bytes: u64,
    },
}

/// A log device without room for a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log device of {found} bytes is too small: a ring needs at least {needed}")]
pub struct TooSmall {
    /// Bytes of the log device.
    pub found: u64,
    /// The least that works.
    pub needed: u64,
}

impl SuperSector {
    /// The super sector of a freshly formatted log device of `log_device_bytes`, for a volume of `device_size`.
    ///
    /// `uuid` and `salt` are random; a name longer than 31 bytes is cut. Whoever writes it also makes the block of
    /// lsid 0 invalid, before or together with it.
    pub fn format(
        pbs: PhysicalBlockSize,
        log_device_bytes: u64,
        device_size: Lb,
        name: &str,
        uuid: Uuid,
        salt: Salt,
    ) -> Result<Self, TooSmall> {
        let ring_size = Self::ring_size_for(pbs, log_device_bytes)?;
        let name = name.as_bytes()[..name.len().min(NAME_LEN - 1)].to_vec();
        let (oldest, written) = (Lsid(0), Lsid(0));
        Ok(Self {
            pbs,
            metadata_size: 0,
            salt,
            uuid,
            name,
            ring_size,
            oldest,
            written,
            device_size,
        })
    }

    /// Ring blocks that a log device of this size gets when it is formatted or reset.
    pub fn ring_size_for(pbs: PhysicalBlockSize, log_device_bytes: u64) -> Result<u64, TooSmall> {
        let pb = pbs.bytes() as u64;
        let before = SUPER_SECTOR_OFFSET / pb + 2;
        match (log_device_bytes / pb).checked_sub(before) {
            Some(size) if size > 0 => Ok(size),
            _ => Err(TooSmall {
                found: log_device_bytes,
                needed: (before + 1) * pb,
            }),
        }
    }

    /// Reads the physical block at [`SUPER_SECTOR_OFFSET`] of a device with physical block size `pbs`.
    pub fn decode(block: &[u8], pbs: PhysicalBlockSize) -> Result<Self, SuperSectorError> {
        use SuperSectorError::{Checksum, Length, Lsids, Name};
        let length = || Length {
            found: block.len(),
            expected: pbs.bytes(),
        };
        let (stored, _) = Stored::ref_from_prefix(block).map_err(|_| length())?;
        if block.len() != pbs.bytes() {
            return Err(length());
        }
        match checksum(block, Salt::ZERO) {
            0 => {}
            sum => return Err(Checksum { sum }),
        }
        expect("sector type", stored.kind.get().into(), KIND_SUPER.into())?;
        expect("version", stored.version.get().into(), LOG_VERSION.into())?;
        expect("logical block size", stored.logical_bs.get().into(), LB_SIZE)?;
        expect(
            "physical block size",
            stored.physical_bs.get().into(),
            pbs.bytes() as u64,
        )?;
        let (oldest, written) = (Lsid(stored.oldest.get()), Lsid(stored.written.get()));
        if oldest == Lsid::INVALID || written == Lsid::INVALID || oldest > written {
            return Err(Lsids { oldest, written });
        }
        let end = stored.name.iter().position(|&b| b == 0).ok_or(Name)?;
        let sector = Self {
            pbs,
            metadata_size: stored.metadata_size.get(),
            salt: Salt(stored.salt.get()),
            uuid: Uuid(stored.uuid),
            name: stored.name[..end].to_vec(),
            ring_size: stored.ring_size.get(),
            oldest,
            written,
            device_size: Lb(stored.device_size.get()),
        };
        // A ring that no device can hold would overflow the byte positions computed from it.
        let blocks_max = u64::MAX / pbs.bytes() as u64 - sector.first_pb();
        if sector.ring_size == 0 || sector.ring_size > blocks_max {
            let expected = format!("1 to {blocks_max}");
            return Err(SuperSectorError::Field {
                field: "ring size",
                found: sector.ring_size,
                expected,
            });
        }
        Ok(sector)
    }

    /// The physical block to store at [`SUPER_SECTOR_OFFSET`].
    pub fn encode(&self) -> Vec<u8> {
        let mut name = [0; NAME_LEN];
        name[..self.name.len()].copy_from_slice(&self.name);
        let stored = Stored {
            kind: KIND_SUPER.into(),
            version: LOG_VERSION.into(),
            checksum: 0.into(),
            logical_bs: 512.into(),
            physical_bs: u32::from(self.pbs).into(),
            metadata_size: self.metadata_size.into(),
            salt: self.salt.0.into(),
            uuid: self.uuid.0,
            name,
            ring_size: self.ring_size.into(),
            oldest: self.oldest.0.into(),
            written: self.written.0.into(),
            device_size: self.device_size.0.into(),
        };
        let mut block = stored.as_bytes().to_vec();
        block.resize(self.pbs.bytes(), 0);
        let sum = checksum(&block, Salt::ZERO);
        block[4..8].copy_from_slice(&sum.to_le_bytes());
        block
    }

    /// Refuses a log device that has become too small for the ring.
    pub fn check_fits(&self, log_device_bytes: u64) -> Result<(), SuperSectorError> {
        let ring_end = (self.first_pb() + self.ring_size) * self.pbs.bytes() as u64;
        if ring_end > log_device_bytes {
            return Err(SuperSectorError::RingBeyondDevice {
                ring_end,
                device_bytes: log_device_bytes,
            });
        }
        Ok(())
    }

    fn first_pb(&self) -> u64 {
        SUPER_SECTOR_OFFSET / self.pbs.bytes() as u64 + 2 + u64::from(self.metadata_size)
    }

    /// The ring's geometry.
    pub fn ring(&self) -> Ring {
        Ring::new(self.first_pb(), self.ring_size, self.pbs)
    }

    /// Physical block size.
    pub fn pbs(&self) -> PhysicalBlockSize {
        self.pbs
    }

    /// Salt of logpack headers and log data.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// Names this log sequence; changes on format and reset.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The device's name, possibly empty.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    /// Physical blocks in the ring.
    pub fn ring_size(&self) -> u64 {
        self.ring_size
    }

    /// Obsolete metadata blocks between the two copies: 0 in practice.
    pub fn metadata_size(&self) -> u32 {
        self.metadata_size
    }

    /// Everything below may be overwritten.
    pub fn oldest(&self) -> Lsid {
        self.oldest
    }

    /// Everything below is on the data device.
    pub fn written(&self) -> Lsid {
        self.written
    }

    /// Size of the volume.
    pub fn device_size(&self) -> Lb {
        self.device_size
    }

    /// With another oldest lsid, raising `written` if that would be passed.
    #[must_use]
    pub fn with_oldest(mut self, oldest: Lsid) -> Self {
        self.oldest = oldest;
        self.written = self.written.max(oldest);
        self
    }

    /// With another written lsid; never below oldest. The data device has been flushed up to it before this is stored.
    #[must_use]
    pub fn with_written(mut self, written: Lsid) -> Self {
        self.written = written.max(self.oldest);
        self
    }

    /// With another volume size.
    #[must_use]
    pub fn with_device_size(mut self, size: Lb) -> Self {
        self.device_size = size;
        self
    }

    /// With another name, cut to 31 bytes.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = name.as_bytes()[..name.len().min(NAME_LEN - 1)].to_vec();
        self
    }
}

fn expect(field: &'static str, found: u64, expected: u64) -> Result<(), SuperSectorError> {
    if found == expected {
        return Ok(());
    }
    Err(SuperSectorError::Field {
        field,
        found,
        expected: expected.to_string(),
    })
}
