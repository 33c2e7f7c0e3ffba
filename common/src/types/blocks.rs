use std::fmt;

use serde::{Deserialize, Serialize};

use super::ParseError;

/// Bytes in a logical block. Volume addresses and IO sizes count these, always.
pub const LB_SIZE: u64 = 512;

/// A number of logical blocks of 512 bytes: an address on a volume, or a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lb(pub u64);

impl Lb {
    /// Logical blocks that hold `bytes`, rounded up.
    pub const fn covering(bytes: u64) -> Self {
        Self(bytes.div_ceil(LB_SIZE))
    }

    /// The size in bytes; saturates at `u64::MAX`.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(LB_SIZE)
    }
}

impl fmt::Display for Lb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in a physical block of a WalB device (`pbs`): 512 or 4096.
///
/// Everything on a log device - addresses, lsids, the ring's size - counts physical blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PhysicalBlockSize(u32);

impl PhysicalBlockSize {
    /// 512-byte physical blocks.
    pub const B512: Self = Self(512);
    /// 4096-byte physical blocks.
    pub const B4096: Self = Self(4096);

    /// Accepts 512 or 4096, the sizes that occur.
    pub fn new(bytes: u32) -> Result<Self, ParseError> {
        match bytes {
            512 | 4096 => Ok(Self(bytes)),
            _ => Err(ParseError::new(
                "physical block size",
                &bytes.to_string(),
                "512 or 4096",
            )),
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Logical blocks in one physical block: 1 or 8.
    pub const fn lbs(self) -> u64 {
        self.0 as u64 / LB_SIZE
    }

    /// Physical blocks that the log data of an IO of `size` occupies.
    pub const fn pbs_of(self, size: Lb) -> u64 {
        size.0.div_ceil(self.lbs())
    }
}

impl TryFrom<u32> for PhysicalBlockSize {
    type Error = ParseError;
    fn try_from(bytes: u32) -> Result<Self, ParseError> {
        Self::new(bytes)
    }
}

impl From<PhysicalBlockSize> for u32 {
    fn from(pbs: PhysicalBlockSize) -> u32 {
        pbs.0
    }
}

impl fmt::Display for PhysicalBlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
