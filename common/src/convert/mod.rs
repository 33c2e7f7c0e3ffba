//! Values to values, one file per arrow of the flow. Nothing here knows where the bytes came from or go to.
//!
//! ```text
//!  log device --log_device_to_wlog--> wlog --wlog_to_wdiff--> wdiff --merge_wdiffs--> wdiff --wdiff_to_base_image--> image
//!                     overlay: later records win, piece by piece _/            full image --image_to_wdiff--> wdiff
//!                           base image + wdiffs --restore_stream--> the image of a snapshot
//! ```

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit (asserted in format); what is narrowed further was bounded first"
)]

mod batch;
pub mod block_hash;
pub mod bulk_hash;
pub mod content_hash;
pub mod image_scan;
pub mod image_source;
pub mod image_target;
pub mod image_to_wdiff;
pub mod in_order;
pub mod log_device_to_wlog;
pub mod merge_wdiffs;
pub mod overlay;
pub mod restore_stream;
pub mod wdiff_to_base_image;
pub mod wlog_files;
pub mod wlog_to_wdiff;
pub mod write_sorted;

pub use block_hash::{BlockHash, BlockHasher, block_hash};
pub use bulk_hash::{BULK_HASH_LEN, BulkHashes, ZeroHashes, bulk_hash, section_bulks};
pub use content_hash::{ContentHash, content_hash};
pub use image_scan::ScanError;
pub use image_source::ImageSource;
pub use image_target::ImageTarget;
pub use image_to_wdiff::{DEFAULT_IMAGE_IO, ImageToWdiffError, image_to_indexed, image_to_sorted};
pub use in_order::all_cores;
pub use log_device_to_wlog::{ExtractError, Extracted, log_device_to_wlog};
pub use merge_wdiffs::{MergeError, MergeStats, WdiffMerger, merge_to_sorted};
pub use restore_stream::{
    Chunk, RestoreError, RestoreStats, RestoreStream, restore_to_image, restore_to_writer,
};
pub use wdiff_to_base_image::{ApplyError, ApplyStats, DiscardMode, apply_wdiffs};
pub use wlog_files::{ConvertWlogError, ConvertedLog, WdiffForm, WlogFile, convert_wlogs};
pub use wlog_to_wdiff::{ConvertError, ConvertStats, DEFAULT_MAX_IO, IndexedConverter, SortedConverter};
pub use write_sorted::write_sorted;

#[cfg(test)]
mod tests;
