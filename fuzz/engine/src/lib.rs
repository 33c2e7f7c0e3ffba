//! The search for inputs that break a parser: mutate, repair, run, keep what reaches new code.
//!
//! A crate of its own because it is never built with coverage: the compiler's pass calls functions that are in here.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hosts are 64-bit; random numbers may be cut"
)]

mod coverage;
mod guard;
pub mod memory;
mod mutate;
mod search;

pub use coverage::{Coverage, is_instrumented};
pub use guard::{Failure, check};
pub use mutate::Mutator;
pub use search::{Budget, Finding, Search, Summary};

/// A parser and what it must keep to.
pub struct Target {
    /// Its name on the command line and in file names.
    pub name: &'static str,
    /// What is parsed.
    pub about: &'static str,
    /// Inputs to start from, good ones for the most part.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes a mutated input's checksums right again; the flag asks for lengths and places to agree as well.
    pub repair: fn(&mut Vec<u8>, bool),
    /// Parses; panics where an invariant is broken.
    pub run: fn(&[u8]),
    /// Longest input.
    pub max_len: usize,
}
