use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// A generation id: names an instant of a volume; only grows inside one lineage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gid(pub u64);

impl Gid {
    /// The largest gid; stands for "none yet" in the done record of a storage volume.
    pub const MAX: Self = Self(u64::MAX);

    /// The following gid; stays at the largest.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Gid {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        // `u64::from_str` would also take a plus sign.
        if text.bytes().all(|b| b.is_ascii_digit())
            && let Ok(gid) = text.parse()
        {
            return Ok(Self(gid));
        }
        Err(ParseError::new("gid", text, "a decimal number below 2^64"))
    }
}
