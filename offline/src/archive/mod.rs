//! An archive's directory without its daemon: restore, list, verify. Nothing here writes into that directory, and the
//! daemon may run on it meanwhile.
//!
//! ```text
//!  place     where things are: DIR/VOL, the base image
//!  when      which snapshot is wanted
//!  source    a choice, everything for it open; whether it still held once it was read
//!  output    a file, a block device or stdout
//! ```

mod list;
mod output;
mod place;
mod restore;
mod source;
mod verify;
mod when;

pub use list::List;
pub use restore::Restore;
pub use verify::Verify;
