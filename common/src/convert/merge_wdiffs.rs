//! Merging wdiffs, oldest first, as a stream, in memory that depends neither on the wdiffs' sizes nor, but for small read
//! buffers, on their number. Images of which pieces are still to come are kept as far as [`ReaderMemory`] goes, else
//! read again; pieces that wait, and those given out, are taken out of images much larger than they are. Of what newer
//! wdiffs hide, data are not even read where the layout allows it.
//!
//! The result is that of laying all records of the oldest over nothing, then those of the next over that, and so on.
//! Here the records come by address instead, so each goes under the newer ones and over the older ones already there.
//! What ends at or below the lowest address still unread can change no more and is given out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque, binary_heap::PeekMut};
use std::io::Write;
use std::ops::Range;

use crate::convert::overlay::Piece;
use crate::convert::write_sorted::write_sorted;
use crate::format::wdiff::{
    Content, ReadWdiffError, ReaderMemory, WdiffFileError, WdiffReader, WdiffRecord, WriteStats,
    WriteWdiffError,
};
use crate::types::{CompressionSetting, Lb, Uuid};

/// Where the images of pieces that wait take more than this, the pieces are taken out of them. By themselves they take
/// little: they do not intersect, and each is of a record that reaches the lowest unread address.
const WAITING_BYTES: u64 = 8 << 20;

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
    address: u64,
    /// Its end.
    end: u64,
    /// Where its record started: chunks are counted from there, not from where older or newer records cut it.
    origin: u64,
    content: Content,
}

impl Waiting {
    fn part(&self, from: u64, to: u64) -> Self {
        Self {
            address: from,
            end: to,
            content: self.content.part(from - self.address, to - from),
            ..*self
        }
    }
}

/// The merged records of several wdiffs, pulled one by one in address order.
#[derive(Debug)]
pub struct WdiffMerger {
    inputs: Vec<WdiffReader>,
    /// Where every input's next record starts, the input's number, and where the record ends; lowest first, and of those
    /// at the same address the newest, which may hide the others. Records are read when it is their turn, so that inputs cost no data before.
    heads: BinaryHeap<Reverse<(u64, Reverse<usize>, u64)>>,
    max_io: u64,
    drop_discards: bool,
    /// By address. No more than there are inputs, and one: what is not given out yet reaches to the lowest unread
    /// address, and there each input has at most one record.
    waiting: VecDeque<Waiting>,
    records_in: u64,
}

impl WdiffMerger {
    /// Starts a merge of `inputs`, oldest first. `max_io` bounds the records given out; 0 for no bound.
    pub fn new(inputs: Vec<WdiffReader>, max_io: Lb) -> Result<Self, WdiffFileError> {
        let mut merger = Self {
            inputs: Vec::with_capacity(inputs.len()),
            heads: BinaryHeap::with_capacity(inputs.len()),
            max_io: max_io.0,
            drop_discards: false,
            waiting: VecDeque::new(),
            records_in: 0,
        };
        let memory = ReaderMemory::of(inputs.len());
        for (number, mut reader) in inputs.into_iter().enumerate() {
            reader.share(&memory);
            let first = reader.next_range()?;
            merger
                .heads
                .extend(first.map(|range| Reverse((range.start, Reverse(number), range.end))));
            merger.inputs.push(reader);
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
            let unread_from = self.unread_from();
            if let Some(first) = self.waiting.front()
                && unread_from.is_none_or(|from| first.end <= from)
            {
                return self.give_out();
            }
            if unread_from.is_none() {
                return Ok(None);
            }
            if let Some(untouched) = self.take_lowest()? {
                return Ok(Some(untouched));
            }
        }
    }

    /// Below this no record is unread.
    fn unread_from(&self) -> Option<u64> {
        self.heads.peek().map(|Reverse((address, ..))| *address)
    }

    /// Takes the lowest record that is unread. If no other can touch it, that is the next merged record.
    fn take_lowest(&mut self) -> Result<Option<WdiffRecord>, WdiffFileError> {
        let Some(mut head) = self.heads.peek_mut() else {
            return Ok(None);
        };
        let Reverse((start, Reverse(number), end)) = *head;
        let input = &mut self.inputs[number];
        let record = if is_hidden(&self.waiting, number, start..end) {
            input.skip_record()?;
            self.records_in += 1;
            None
        } else {
            input.next_record()?
        };
        let following = input.next_range()?;
        // One move in the heap instead of two.
        match following {
            Some(range) => {
                *head = Reverse((range.start, Reverse(number), range.end));
                // Finds its place again.
                drop(head);
            }
            None => {
                PeekMut::pop(head);
            }
        }
        let Some(record) = record else {
            return Ok(None);
        };
        self.records_in += 1;
        let dropped = self.drop_discards && matches!(record.content, Content::Discard);
        if record.blocks.0 == 0 || dropped {
            return Ok(None);
        }
        let alone = self.waiting.is_empty() && self.unread_from().is_none_or(|from| record.end().0 <= from);
        if alone && (self.max_io == 0 || record.blocks.0 <= self.max_io) {
            let (address, blocks) = (record.address, record.blocks);
            let content = self.detached(number, address, record.content)?;
            return Ok(Some(WdiffRecord {
                address,
                blocks,
                content,
            }));
        }
        self.place(number, record);
        self.bound_waiting()?;
        Ok(None)
    }

    /// Lets go of large images of which only small pieces wait.
    fn bound_waiting(&mut self) -> Result<(), WdiffFileError> {
        let held = |piece: &Waiting| match &piece.content {
            Content::Normal(data) => data.held_bytes(),
            Content::AllZero | Content::Discard => 0,
        };
        if self.waiting.len() < 2 || self.waiting.iter().map(held).sum::<u64>() <= WAITING_BYTES {
            return Ok(());
        }
        for n in 0..self.waiting.len() {
            let piece = &mut self.waiting[n];
            let (input, address) = (piece.input, Lb(piece.address));
            let content = std::mem::replace(&mut piece.content, Content::Discard);
            self.waiting[n].content = self.detached(input, address, content)?;
        }
        Ok(())
    }

    /// Content in memory of its own.
    fn detached(&self, input: usize, address: Lb, content: Content) -> Result<Content, WdiffFileError> {
        match content {
            Content::Normal(data) => match data.detached() {
                Ok(data) => Ok(Content::Normal(data)),
                Err(source) => Err(WdiffFileError {
                    name: self.inputs[input].name().to_owned(),
                    source: ReadWdiffError::Decompress { address, source },
                }),
            },
            dataless => Ok(dataless),
        }
    }

    /// Puts a record under the newer pieces and over the older ones.
    fn place(&mut self, input: usize, record: WdiffRecord) {
        let (start, end) = (record.address.0, record.end().0);
        let new = Waiting {
            input,
            address: start,
            end,
            origin: start,
            content: record.content,
        };
        let first = self.waiting.partition_point(|old| old.end <= start);
        let last = self.waiting.partition_point(|old| old.address < end);
        match last - first {
            0 => self.waiting.insert(first, new),
            // The same block written in several wdiffs: by far the most frequent case.
            1 if (self.waiting[first].address, self.waiting[first].end) == (start, end) => {
                if self.waiting[first].input < input {
                    self.waiting[first] = new;
                }
            }
            _ => self.place_among(first..last, &new),
        }
    }

    /// Puts a piece among those it intersects.
    fn place_among(&mut self, among: Range<usize>, new: &Waiting) {
        let at = among.start;
        let mut free = new.address;
        let mut pieces = Vec::with_capacity(2 * among.len() + 1);
        for old in self.waiting.drain(among) {
            if old.input > new.input {
                // Newer: the record only gets what lies before it.
                if free < old.address {
                    pieces.push(new.part(free, old.address));
                }
                free = old.end;
                pieces.push(old);
                continue;
            }
            if old.address < new.address {
                pieces.push(old.part(old.address, new.address));
            }
            if new.end < old.end {
                // The last of them, so that nothing newer is left out before it.
                pieces.push(new.part(free, new.end));
                free = new.end;
                pieces.push(old.part(new.end, old.end));
            }
        }
        if free < new.end {
            pieces.push(new.part(free, new.end));
        }
        for (n, piece) in pieces.into_iter().enumerate() {
            self.waiting.insert(at + n, piece);
        }
    }

    /// Gives out the lowest piece, up to where it is to be cut.
    fn give_out(&mut self) -> Result<Option<WdiffRecord>, WdiffFileError> {
        let Some(piece) = self.waiting.pop_front() else {
            return Ok(None);
        };
        let cut = match self.max_io {
            0 => piece.end,
            max => {
                // A piece may end at the very last address.
                let chunks = (piece.address - piece.origin) / max + 1;
                piece
                    .origin
                    .saturating_add(chunks.saturating_mul(max))
                    .min(piece.end)
            }
        };
        let (given, rest) = if cut < piece.end {
            (piece.part(piece.address, cut), Some(piece.part(cut, piece.end)))
        } else {
            (piece, None)
        };
        if let Some(rest) = rest {
            self.waiting.push_front(rest);
        }
        let address = Lb(given.address);
        Ok(Some(WdiffRecord {
            address,
            blocks: Lb(given.end - given.address),
            content: self.detached(given.input, address, given.content)?,
        }))
    }
}

/// Whether pieces of newer inputs leave nothing of a range.
fn is_hidden(waiting: &VecDeque<Waiting>, input: usize, range: Range<u64>) -> bool {
    let first = waiting.partition_point(|piece| piece.end <= range.start);
    let mut from = range.start;
    for piece in waiting.range(first..) {
        if from >= range.end || piece.address > from || piece.input < input {
            break;
        }
        from = piece.end;
    }
    from >= range.end
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
    let next = || merger.next_record().map_err(MergeError::Read).transpose();
    let (out, wdiff) = write_sorted(next, out, uuid, setting)?;
    let records_in = merger.records_in();
    Ok((out, MergeStats { records_in, wdiff }))
}
