//! Durable files: the only place that replaces small files, removes files for good, writes large new ones past the page
//! cache and names fault points.
//!
//! The order of every replacement: temporary file in the same directory, write, fsync, rename over the target, fsync of
//! the directory. Whoever reads the target sees the old content or the new, never a mixture, whatever happened.

mod direct_writer;
mod durable;
pub mod fault;
mod file_error;

pub use direct_writer::DirectWriter;
pub use durable::{
    TEMPORARY_SUFFIX, remove_durable, rename_durable, replace_durable, sync_dir, temporary_path,
};
pub use file_error::{At, FileError};
