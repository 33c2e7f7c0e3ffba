//! An archive's directory without its daemon: restore, list, verify. Nothing here writes into that directory.

mod list;
mod restore;
mod verify;

pub use list::List;
pub use restore::Restore;
pub use verify::Verify;
