//! What an archive keeps, read from its files alone: the daemon reads it so at its start, and whoever restores without
//! a daemon reads nothing else. Nothing here writes.
//!
//! ```text
//!  DIR/VOL/state          SyncReady, Archived or Stopped
//!  DIR/VOL/base           what the base image shows, e.g. <|0,1|>-20261122140000
//!  DIR/VOL/archive_uuid   this lineage of archive data
//!  DIR/VOL/uuid           life of the log that the diffs come from
//!  DIR/VOL/size           of the base image in logical blocks (not in a directory of the existing archive)
//!  DIR/VOL/*.wdiff        the diffs; each name carries its metadata
//!  IMAGES/wb_VOL          the base image
//! ```
//! The first four mean something only together with a state that says so. The existing archive stores them in a binary
//! form (`existing`); both forms are read, whatever file they are in.

pub mod check;
mod choice;
mod existing;
pub mod image_name;
mod volume_files;

pub use choice::{Choice, NotRestorable};
pub use volume_files::{Lineage, Listing, ReadError, VolumeFiles, volumes};

#[cfg(test)]
mod tests;
