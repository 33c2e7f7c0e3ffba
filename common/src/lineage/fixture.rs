//! Short ways to write down snapshots and diffs in tests.

use super::{DiffSet, MetaDiff, Snapshot};
use crate::types::{Gid, Timestamp};

pub fn snap(text: &str) -> Snapshot {
    text.parse().unwrap()
}

/// `|0|-->|5|` is a mergeable log diff; a suffix ` --`, ` M-`, ` -C` or ` MC` says otherwise.
pub fn diff(text: &str) -> MetaDiff {
    let (arrow, flags) = text.split_once(' ').unwrap_or((text, "M-"));
    let (begin, end) = arrow.split_once("-->").unwrap();
    MetaDiff::new(snap(begin), snap(end))
        .unwrap()
        .with_mergeable(flags.contains('M'))
        .with_compared(flags.contains('C'))
}

pub fn diffs(texts: &[&str]) -> Vec<MetaDiff> {
    texts.iter().map(|t| diff(t)).collect()
}

pub fn set(texts: &[&str]) -> DiffSet {
    diffs(texts).into_iter().collect()
}

/// `n` clean diffs of one gid and one byte each, timed by their end gid.
pub fn one_by_one(n: u64) -> DiffSet {
    (0..n)
        .map(|g| {
            MetaDiff::new(Snapshot::clean(Gid(g)), Snapshot::clean(Gid(g + 1)))
                .unwrap()
                .with_timestamp(Timestamp(g + 1))
                .with_size(1)
        })
        .collect()
}
