use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// A volume's name: 1 to 64 characters of `0-9 a-z A-Z -`.
///
/// `_` is not allowed because image names (`wr_VOL_GID`) use it as a separator, so a volume name is also safe as a
/// path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// Checks the form.
    pub fn new(name: &str) -> Result<Self, ParseError> {
        let good =
            (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !good {
            return Err(ParseError::new(
                "volume name",
                name,
                "1 to 64 characters of 0-9 a-z A-Z -",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VolumeName {
    type Err = ParseError;
    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::new(name)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = ParseError;
    fn try_from(name: String) -> Result<Self, ParseError> {
        Self::new(&name)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}
