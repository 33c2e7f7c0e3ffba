//! Hostile bytes for every parser: what may come from a disk, a peer or an operator, damaged on purpose.
//!
//! ```text
//!  seeds (golden files, generators) --> engine: mutate --> target.repair: sums made right again
//!                ^                                              |
//!                +-- kept if new code was reached <-- coverage  v
//!                                                          target.run: parse, compare with a naive reader
//! ```
//!
//! - [`target`]: one per parser. A run panics when an invariant is broken: not only where the parser panics, but also
//!   where it takes more memory than its bound, or gives something else than the naive reader does.
//! - [`walb_fuzz_engine`]: mutation, coverage, the search, whose findings are kept as files; and the counting allocator
//!   behind the bounds, which also notices writes behind the end of an allocation.
//! - [`naive`]: simple readers, written from the format pages only, without checks.
//!
//! `cargo xtask fuzz` builds with coverage and runs everything; without coverage (the tests) the engine works blindly.
//! How to use it: docs/testing.md.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit; random numbers may be cut"
)]

pub mod naive;
pub mod target;

pub use target::{TARGETS, Target};
