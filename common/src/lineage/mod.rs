//! The algebra of snapshots and diffs: what follows what, what may be applied or merged, what can be restored.
//!
//! Everything here is a pure function over values; block data is never touched (that is [`crate::convert`]).
//!
//! ```text
//!  BaseState  --apply-->  snapshot  --apply-->  snapshot ...      a chain of diffs, chosen from a DiffSet
//!   <|0,10|>   |0|-->|5|   |5,10|   |5|-->|10|   |10|
//! ```
//!
//! * [`Snapshot`]: a pair of gids `(B, E)`. Clean (`B == E`) means one instant; dirty means each block shows some
//!   instant between the two.
//! * [`MetaDiff`]: leads from one snapshot to another. Its stored form is the name of its file.
//! * [`BaseState`]: what the base image shows: a snapshot, or something on its way from one to another.
//! * [`DiffSet`]: the diffs an archive or a proxy holds for one volume, and every choice made from them.

mod base_state;
mod choose;
mod diff;
mod diff_set;
mod file_name;
mod snapshot;

#[cfg(test)]
mod block_model;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod life_tests;

pub use base_state::{BaseState, NotApplicable};
pub use choose::{MergeLimits, MergeUntil, NoMergeableDiff, Restorable};
pub use diff::{DiffError, MetaDiff, Relation};
pub use diff_set::{DiffSet, FlagChange, NoSuchSnapshot};
pub use snapshot::{Snapshot, SnapshotError};
