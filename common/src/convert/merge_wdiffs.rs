//! Merging wdiffs, oldest first, as a stream: memory for a few records per input, whatever the wdiffs' sizes.
//!
//! The result is that of laying all records of the oldest over nothing, then those of the next over that, and so on.
//! Here the records come by address instead, so each goes under the newer ones and over the older ones already there.
//! What ends at or below the lowest address still unread can change no more and is given out.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use crate::convert::overlay::Piece;
use crate::format::wdiff::{
    Content, SortedWriter, WdiffFileError, WdiffReader, WdiffRecord, WriteStats, WriteWdiffError,
};
use crate::types::{CompressionSetting, Lb, Uuid};

/// A merge cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// An input cannot be read.
    #[error("merge")]
    Read(#[from] WdiffFileError),
    /// The output cannot be written.
    #[error("write the merged wdiff")]
    Write(#[from] WriteWdiffError),
}

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Records read from all inputs.
    pub records_in: u64,
    /// The wdiff written.
    pub wdiff: WriteStats,
}

/// A piece waiting until nothing unread can change it.
#[derive(Debug, Clone)]
struct Waiting {
    /// Number of its input; higher is newer.
    input: usize,
    blocks: u64,
    /// Where its record started: chunks are counted from there, not from where older or newer records cut it.
    origin: u64,
    content: Content,
}

/// The merged records of several wdiffs, pulled one by one in address order.
#[derive(Debug)]
pub struct WdiffMerger {
    inputs: Vec<Input>,
    max_io: u64,
    drop_discards: bool,
    waiting: BTreeMap<u64, Waiting>,
    ready: VecDeque<WdiffRecord>,
    records_in: u64,
}

#[derive(Debug)]
struct Input {
    reader: WdiffReader,
    /// Its next record; None once it ended.
    next: Option<WdiffRecord>,
}

impl WdiffMerger {
    /// Starts a merge of `inputs`, oldest first. `max_io` bounds the records given out; 0 for no bound.
    pub fn new(inputs: Vec<WdiffReader>, max_io: Lb) -> Result<Self, WdiffFileError> {
        let mut merger = Self {
            inputs: Vec::with_capacity(inputs.len()),
            max_io: max_io.0,
            drop_discards: false,
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            records_in: 0,
        };
        for mut reader in inputs {
            let next = reader.next_record()?;
            merger.inputs.push(Input { reader, next });
        }
        Ok(merger)
    }

    /// Leaves discards out before merging, so that older data under them survive: applying the result is applying
    /// the inputs in order with discards ignored.
    #[must_use]
    pub fn without_discards(mut self) -> Self {
        self.drop_discards = true;
        self
    }

    /// Records read so far.
    pub fn records_in(&self) -> u64 {
        self.records_in
    }

    /// The next merged record; None when all inputs are through.
    pub fn next_record(&mut self) -> Result<Option<WdiffRecord>, WdiffFileError> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            let lowest = self.lowest();
            let unread_from = lowest.map_or(u64::MAX, |n| self.inputs[n].address());
            if let Some((&address, piece)) = self.waiting.first_key_value()
                && (address + piece.blocks <= unread_from || lowest.is_none())
            {
                self.give_out();
            } else if let Some(input) = lowest {
                self.take_from(input)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// The input whose next record starts lowest.
    fn lowest(&self) -> Option<usize> {
        (0..self.inputs.len())
            .filter(|&n| self.inputs[n].next.is_some())
            .min_by_key(|&n| self.inputs[n].address())
    }

    fn take_from(&mut self, number: usize) -> Result<(), WdiffFileError> {
        let input = &mut self.inputs[number];
        let following = input.reader.next_record()?;
        let Some(record) = std::mem::replace(&mut input.next, following) else {
            return Ok(());
        };
        self.records_in += 1;
        let dropped = self.drop_discards && matches!(record.content, Content::Discard);
        if record.blocks.0 > 0 && !dropped {
            self.place(number, record);
        }
        Ok(())
    }

    /// Puts a record under the newer pieces and over the older ones.
    fn place(&mut self, input: usize, record: WdiffRecord) {
        let (start, end) = (record.address.0, record.end().0);
        let below = self.waiting.range(..start).next_back().map(|(a, _)| *a);
        let inside: Vec<u64> = self.waiting.range(start..end).map(|(a, _)| *a).collect();
        let mut free = start;
        let new = |from: u64, to: u64| Waiting {
            input,
            blocks: to - from,
            origin: start,
            content: record.content.part(from - start, to - from),
        };
        for address in below.into_iter().chain(inside) {
            let Some(old) = self.waiting.get(&address) else {
                continue;
            };
            let old_end = address + old.blocks;
            if old_end <= start {
                continue;
            }
            if old.input > input {
                // Newer: the record only gets what lies before it.
                if free < address {
                    self.waiting.insert(free, new(free, address));
                }
                free = free.max(old_end);
            } else if let Some(old) = self.waiting.remove(&address) {
                let part = |from: u64, to: u64| Waiting {
                    blocks: to - from,
                    content: old.content.part(from - address, to - from),
                    ..old
                };
                if address < start {
                    self.waiting.insert(address, part(address, start));
                }
                if end < old_end {
                    self.waiting.insert(end, part(end, old_end));
                }
            }
        }
        if free < end {
            self.waiting.insert(free, new(free, end));
        }
    }

    /// Gives out the lowest piece, in chunks.
    fn give_out(&mut self) {
        let Some((address, piece)) = self.waiting.pop_first() else {
            return;
        };
        let end = address + piece.blocks;
        let next_cut = match self.max_io {
            0 => end,
            max => {
                // A piece may end at the very last address.
                let chunks = (address - piece.origin) / max + 1;
                piece.origin.saturating_add(chunks.saturating_mul(max)).min(end)
            }
        };
        let content = piece.content.part(0, next_cut - address);
        self.ready.push_back(WdiffRecord {
            address: Lb(address),
            blocks: Lb(next_cut - address),
            content,
        });
        if next_cut < end {
            let content = piece.content.part(next_cut - address, end - next_cut);
            self.waiting.insert(
                next_cut,
                Waiting {
                    blocks: end - next_cut,
                    content,
                    ..piece
                },
            );
        }
    }
}

impl Input {
    fn address(&self) -> u64 {
        self.next.as_ref().map_or(u64::MAX, |record| record.address.0)
    }
}

/// Merges `inputs`, oldest first, into a sorted wdiff. Records that survive whole and are already compressed as
/// wanted are copied as they are stored. Gives the stream back, unflushed.
pub fn merge_to_sorted<W: Write>(
    inputs: Vec<WdiffReader>,
    out: W,
    uuid: Uuid,
    setting: CompressionSetting,
    max_io: Lb,
) -> Result<(W, MergeStats), MergeError> {
    let mut merger = WdiffMerger::new(inputs, max_io)?;
    let mut writer = SortedWriter::new(out, uuid, setting)?;
    while let Some(record) = merger.next_record()? {
        writer.write(&record)?;
    }
    let records_in = merger.records_in();
    let (out, wdiff) = writer.finish()?;
    Ok((out, MergeStats { records_in, wdiff }))
}
