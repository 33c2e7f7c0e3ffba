//! Values to values, one file per arrow of the flow. Nothing here knows where the bytes came from or go to.
//!
//! ```text
//!  wlog  --wlog_to_wdiff-->  wdiff  --merge_wdiffs-->  wdiff  --wdiff_to_base_image-->  base image
//!                 \_ overlay: later records win, piece by piece _/
//! ```

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit (asserted in format); what is narrowed further was bounded first"
)]

pub mod image_target;
pub mod merge_wdiffs;
pub mod overlay;
pub mod wdiff_to_base_image;
pub mod wlog_to_wdiff;

pub use image_target::ImageTarget;
pub use merge_wdiffs::{MergeError, MergeStats, WdiffMerger, merge_to_sorted};
pub use wdiff_to_base_image::{ApplyError, ApplyStats, DiscardMode, apply_wdiffs};
pub use wlog_to_wdiff::{ConvertError, ConvertStats, DEFAULT_MAX_IO, IndexedConverter, SortedConverter};

#[cfg(test)]
mod tests;
