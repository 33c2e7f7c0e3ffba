//! What a list of changes, in order, does to single blocks.

use std::collections::BTreeSet;

/// What becomes of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Whole logical blocks.
    Data(Vec<u8>),
    /// Zeros.
    Zero,
    /// Discarded.
    Discard,
    /// Data that do not decompress.
    Broken,
}

/// A range and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// First logical block.
    pub address: u64,
    /// Logical blocks.
    pub blocks: u64,
    /// What is there afterwards.
    pub change: Change,
}

/// What is in a block afterwards. Data of zeros and zeros are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// Nothing wrote it.
    Untouched,
    /// These bytes.
    Data(&'a [u8]),
    /// Discarded.
    Discard,
    /// Nobody can tell.
    Broken,
}

/// What the steps leave in a block: the last one that covers it decides.
pub fn block(steps: &[Step], at: u64) -> Block<'_> {
    let covers = |s: &&Step| s.address <= at && at - s.address < s.blocks;
    let Some(step) = steps.iter().rev().find(covers) else {
        return Block::Untouched;
    };
    match &step.change {
        Change::Zero => Block::Data(&[0; 512]),
        Change::Discard => Block::Discard,
        Change::Broken => Block::Broken,
        Change::Data(data) => Block::Data(&data[(at - step.address) as usize * 512..][..512]),
    }
}

/// The blocks at which something can change: both sides of every range's ends, and all blocks of small ranges.
pub fn places(steps: &[Step]) -> BTreeSet<u64> {
    let mut places = BTreeSet::new();
    for step in steps {
        let end = step.address.saturating_add(step.blocks);
        places.extend([
            step.address.saturating_sub(1),
            step.address,
            end.saturating_sub(1),
            end,
        ]);
        places.extend((step.address..end).take(16));
    }
    places
}

/// Panics unless both lists of steps do the same.
pub fn assert_same(what: &str, found: &[Step], expected: &[Step]) {
    let mut all = places(found);
    all.extend(places(expected));
    for at in all {
        assert_eq!(block(found, at), block(expected, at), "{what}: block {at}");
    }
}

/// Does the steps to an image. None if one reaches beyond it, or if data that do not decompress are left in it.
pub fn apply(steps: &[Step], old: &[u8], ignore_discards: bool) -> Option<Vec<u8>> {
    let steps = steps
        .iter()
        .filter(|s| s.blocks > 0 && !(ignore_discards && s.change == Change::Discard));
    let steps: Vec<Step> = steps.cloned().collect();
    let size = old.len() as u64 / 512;
    if steps
        .iter()
        .any(|s| s.address.checked_add(s.blocks).is_none_or(|end| end > size))
    {
        return None;
    }
    let mut image = old.to_vec();
    let mut broken = vec![false; size as usize];
    for step in &steps {
        let blocks = step.address as usize..(step.address + step.blocks) as usize;
        let part = &mut image[blocks.start * 512..blocks.end * 512];
        match &step.change {
            Change::Data(data) => part.copy_from_slice(data),
            Change::Zero | Change::Discard => part.fill(0),
            Change::Broken => {}
        }
        broken[blocks].fill(step.change == Change::Broken);
    }
    (!broken.contains(&true)).then_some(image)
}
