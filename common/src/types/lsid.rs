use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// A log sequence id: counts the physical blocks of log ever written since the last format or reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsid(pub u64);

impl Lsid {
    /// Names no block; also stands for "as far as the log goes" as the end of a wlog.
    pub const INVALID: Self = Self(u64::MAX);
    /// The largest lsid that can name a block.
    pub const MAX: Self = Self(u64::MAX - 1);
}

impl fmt::Display for Lsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Lsid {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.bytes().all(|b| b.is_ascii_digit())
            && let Ok(lsid) = text.parse()
        {
            return Ok(Self(lsid));
        }
        Err(ParseError::new("lsid", text, "a decimal number below 2^64"))
    }
}
