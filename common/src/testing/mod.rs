//! What tests of this and other crates share: random IOs, logs and wdiffs made of them, and a volume to compare with.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit; random bytes may be cut"
)]

pub mod generators;
pub mod image;

pub use generators::{Io, indexed_wdiff, logpacks, random_ios, sorted_wdiff, wdiff_reader, wlog};
pub use image::MemImage;
