//! Writing out what write-behind has put into the page cache, a little at a time.
//!
//! Left alone, the kernel collects what was written for many seconds, and the sync of a checkpoint then pushes hundreds of
//! MiB into the disk at once; the log, past the page cache, waits behind them. So the device keeps count of its dirty pages:
//! beyond `data_dirty_max_mib` write-behind itself has the kernel write some out, and waits so that there is never more
//! than a little under way. A checkpoint first lets all of them go out in the same way, and its sync finds little.
//!
//! None of this makes anything durable: that is the sync's, after which alone a checkpoint counts.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use walb_common::disk::fault;

use crate::disk::Disk;

/// Bytes of a page of the page cache. Larger ones only make the count too high.
const PAGE: u64 = 4096;
/// Bytes of a chunk, of which one bit per page is kept.
const CHUNK: u64 = 256 * PAGE;
/// Pages that are handed to the kernel in one call, about.
const BATCH_PAGES: u64 = 256;
/// Calls of one thread whose pages may be under way at once.
const UNDER_WAY_MAX: usize = 2;
/// Dirty pages that write-behind leaves while a checkpoint is being made.
const CLOSING_PAGES: u64 = 1024;

/// Which pages are dirty, as far as we made them so. What the kernel wrote out by itself still counts.
#[derive(Debug, Default)]
struct DirtyPages {
    chunks: BTreeMap<u64, [u64; 4]>,
    pages: u64,
    /// Where the next batch begins, so that all go out in one sweep of addresses after the other.
    cursor: u64,
    /// A checkpoint is being made.
    closing: bool,
}

impl DirtyPages {
    /// Counts the pages of a range of bytes.
    fn add(&mut self, range: Range<u64>) {
        for page in range.start / PAGE..range.end.div_ceil(PAGE) {
            let bits = self.chunks.entry(page * PAGE / CHUNK).or_default();
            let bit = page % (CHUNK / PAGE);
            let word = &mut bits[usize::try_from(bit / 64).unwrap_or(0)];
            let mask = 1 << (bit % 64);
            self.pages += u64::from(*word & mask == 0);
            *word |= mask;
        }
    }

    /// The next batch: chunks that follow the last one, up to the end of the disk. None: nothing is dirty.
    fn take(&mut self) -> Option<(Range<u64>, u64)> {
        let first = self.chunks.range(self.cursor..).next();
        let first = *first.or_else(|| self.chunks.first_key_value())?.0;
        let (mut last, mut pages) = (first, 0);
        while pages < BATCH_PAGES
            && let Some((&chunk, bits)) = self.chunks.range(first..).next()
        {
            pages += bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            last = chunk;
            self.chunks.remove(&chunk);
        }
        self.pages -= pages;
        self.cursor = last + 1;
        Some((first * CHUNK..(last + 1) * CHUNK, pages))
    }
}

/// The dirty pages of a data device.
#[derive(Debug)]
pub(super) struct Dirty {
    pages: Mutex<DirtyPages>,
    /// Pages that may stay dirty.
    max: u64,
}

/// What one thread has handed to the kernel and not yet waited for.
#[derive(Debug, Default)]
pub(super) struct UnderWay(VecDeque<Range<u64>>);

impl UnderWay {
    fn begin(&mut self, disk: &Disk, range: Range<u64>) -> io::Result<()> {
        disk.begin_writeout(&range)?;
        self.0.push_back(range);
        self.wait_down_to(disk, UNDER_WAY_MAX)
    }

    fn wait_down_to(&mut self, disk: &Disk, left: usize) -> io::Result<()> {
        while self.0.len() > left
            && let Some(range) = self.0.pop_front()
        {
            disk.await_writeout(&range)?;
        }
        Ok(())
    }
}

impl Dirty {
    /// Nothing is dirty yet. With `max_mib` of 0 the kernel decides when what goes out.
    pub fn new(max_mib: u32) -> Self {
        Self {
            pages: Mutex::default(),
            max: (u64::from(max_mib) << 20) / PAGE,
        }
    }

    fn lock(&self) -> MutexGuard<'_, DirtyPages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything is to be counted on this disk.
    pub fn counts(&self, disk: &Disk) -> bool {
        self.max > 0 && !disk.is_direct()
    }

    /// Counts a range of bytes that has just been written through the page cache.
    pub fn add(&self, range: Range<u64>) {
        self.lock().add(range);
    }

    /// Has so much written out that no more is dirty than may be.
    pub fn limit(&self, disk: &Disk, under_way: &mut UnderWay) -> io::Result<()> {
        loop {
            let mut dirty = self.lock();
            let max = if dirty.closing {
                self.max.min(CLOSING_PAGES)
            } else {
                self.max
            };
            if dirty.pages <= max {
                return Ok(());
            }
            let batch = dirty.take();
            drop(dirty);
            match batch {
                Some((range, _)) => under_way.begin(disk, range)?,
                None => return Ok(()),
            }
        }
    }

    /// Makes everything durable that was written before; what is dirty goes out a little at a time first.
    pub fn sync(&self, disk: &Disk) -> io::Result<()> {
        let mut left = {
            let mut dirty = self.lock();
            dirty.closing = true;
            dirty.pages
        };
        let mut under_way = UnderWay::default();
        let written = loop {
            // What becomes dirty meanwhile is write-behind's to limit: or a busy device would never be done.
            let batch = if left > 0 { self.lock().take() } else { None };
            let Some((range, pages)) = batch else {
                break under_way.wait_down_to(disk, 0);
            };
            left = left.saturating_sub(pages);
            if let Err(error) = under_way.begin(disk, range) {
                break Err(error);
            }
        };
        let synced = written
            .and_then(|()| fault::point("wdev.checkpoint.written_out"))
            .and_then(|()| disk.sync());
        self.lock().closing = false;
        synced
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_dirty_page_is_in_one_batch_and_batches_are_bounded(
            steps in proptest::collection::vec((0..2000u64, 1..700u64, 0..3usize), 1..30),
        ) {
            let (mut dirty, mut model) = (DirtyPages::default(), BTreeSet::new());
            let take_one = |dirty: &mut DirtyPages, model: &mut BTreeSet<u64>| {
                let Some((Range { start: from, end: to }, pages)) = dirty.take() else {
                    return model.is_empty();
                };
                let gone: Vec<u64> = model.range(from / PAGE..to / PAGE).copied().collect();
                for page in &gone {
                    assert!(model.remove(page));
                }
                gone.len() as u64 == pages && pages > 0 && pages < 2 * BATCH_PAGES
            };
            for (sector, sectors, takes) in steps {
                let (from, to) = (sector * 3 * 512, (sector * 3 + sectors) * 512);
                dirty.add(from..to);
                model.extend(from / PAGE..=(to - 1) / PAGE);
                prop_assert_eq!(dirty.pages, model.len() as u64);
                for _ in 0..takes {
                    prop_assert!(take_one(&mut dirty, &mut model));
                }
            }
            while !model.is_empty() {
                prop_assert!(take_one(&mut dirty, &mut model));
            }
            prop_assert_eq!((dirty.pages, dirty.chunks.len()), (0, 0));
        }
    }
}
