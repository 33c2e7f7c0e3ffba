//! One newtype per idea, so that a signature says which number it takes.

mod blocks;
mod compression;
mod gid;
mod lsid;
mod size;
mod timestamp;
mod uuid;
mod volume_name;

pub use blocks::{LB_SIZE, Lb, PhysicalBlockSize};
pub use compression::{Compression, CompressionSetting};
pub use gid::Gid;
pub use lsid::Lsid;
pub use size::{format_size, parse_size};
pub use timestamp::Timestamp;
pub use uuid::Uuid;
pub use volume_name::VolumeName;

/// A value given as text was not of its type's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad {what} {found:?}: expected {expected}")]
pub struct ParseError {
    /// Which kind of value was parsed, e.g. `volume name`.
    pub what: &'static str,
    /// The text given (shortened when long).
    pub found: String,
    /// The form that would have been accepted.
    pub expected: &'static str,
}

impl ParseError {
    /// A parse error; `found` is cut to a length fit for one log line.
    pub fn new(what: &'static str, found: &str, expected: &'static str) -> Self {
        Self {
            what,
            found: found.chars().take(100).collect(),
            expected,
        }
    }
}
