use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// How a stored block image is compressed. The number is the on-disk id (docs/formats/compression.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Compression {
    /// Raw.
    None = 0,
    /// A zlib stream (RFC 1950), in spite of the name.
    Gzip = 1,
    /// A raw snappy block.
    Snappy = 2,
    /// An .xz container, in spite of the name.
    Lzma = 3,
    /// A raw LZ4 block.
    Lz4 = 4,
    /// One zstd frame.
    Zstd = 5,
}

impl Compression {
    /// Every type, by id.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Gzip,
        Self::Snappy,
        Self::Lzma,
        Self::Lz4,
        Self::Zstd,
    ];

    /// The type with an on-disk id.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The on-disk id.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The name used in options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl FromStr for Compression {
    type Err = ParseError;
    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| ParseError::new("compression type", name, "none, snappy, gzip, lzma, lz4 or zstd"))
    }
}

/// Type, level and number of threads: `TYPE:LEVEL:CPUS`, e.g. `snappy:0:1`. Level 0 is the type's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CompressionSetting {
    /// The type.
    pub kind: Compression,
    /// 0 to 9; 0 is the type's own default.
    pub level: u8,
    /// Threads to compress with, at least 1.
    pub cpus: u16,
}

impl CompressionSetting {
    /// A type at its default level with one thread.
    pub const fn of(kind: Compression) -> Self {
        Self {
            kind,
            level: 0,
            cpus: 1,
        }
    }
}

impl fmt::Display for CompressionSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind.name(), self.level, self.cpus)
    }
}

impl FromStr for CompressionSetting {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || {
            ParseError::new(
                "compression",
                text,
                "TYPE[:LEVEL[:CPUS]] with LEVEL 0 to 9 and CPUS 1 to 65535",
            )
        };
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default().parse()?;
        let level = parts.next().map_or(Ok(0), str::parse).map_err(|_| bad())?;
        let cpus = parts.next().map_or(Ok(1), str::parse).map_err(|_| bad())?;
        if parts.next().is_some() || level > 9 || cpus == 0 {
            return Err(bad());
        }
        Ok(Self { kind, level, cpus })
    }
}

impl TryFrom<String> for CompressionSetting {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<CompressionSetting> for String {
    fn from(setting: CompressionSetting) -> String {
        setting.to_string()
    }
}
