//! An image as it was at a snapshot, as a stream in address order: the base image overlaid by merged wdiffs.
//!
//! ```text
//!  base      |ddddddd|       |dddddddddddd|      d data, elsewhere holes
//!  wdiffs       |nn|   |n|z|         |nnnnnn|    n data, z zeros or discarded
//!  stream    |ddd|nn|dd|  |n|     |ddd|nnnnnn|
//! ```
//!
//! One window of the address space at a time: what of the base the records leave visible is read in few large reads,
//! the records are decompressed over it in place. No byte of the base is read twice, and what a record hides only
//! where it lies between visible parts close to each other. Holes of the base, all-zero records and discarded ranges
//! (unless discards are ignored) are never materialised.
//!
//! Memory depends neither on the size of the image nor on the number of records: 3 windows of 512 KiB, and what merging
//! takes ([`WdiffMerger`]). Restoring from 100 indexed wdiffs whose images are 1 MiB took 24 MiB.

mod sinks;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::ops::Range;

pub use sinks::{RestoreStats, restore_to_image, restore_to_writer};

use crate::convert::batch::{BATCH_BYTES, Batch, Op, What};
use crate::convert::image_source::ImageSource;
use crate::convert::merge_wdiffs::WdiffMerger;
use crate::convert::wdiff_to_base_image::{ApplyError, DiscardMode, joined};
use crate::format::wdiff::{Content, WdiffReader, WdiffRecord};
use crate::types::{LB_SIZE, Lb};

/// Address space looked at at once. Windows are aligned, so records rarely cross from one into the next.
const WINDOW: u64 = BATCH_BYTES as u64;
/// Visible parts of the base at most this far apart are read together with what lies between.
const READ_OVER: u64 = 64 << 10;
/// Zeros shorter than this are data: no file system keeps such holes.
const HOLE_MIN: u64 = 4096;

/// Restoring stopped before its end. What was given out is right, but not all.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The base image cannot be read.
    #[error("{act} the base image at block {address}")]
    Base {
        /// What was tried.
        act: &'static str,
        /// Where.
        address: Lb,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The wdiffs cannot be laid over it: they cannot be read, are damaged, or reach beyond its end.
    #[error("restore what follows block {from}")]
    Overlay {
        /// All blocks below were restored.
        from: Lb,
        /// What is wrong.
        #[source]
        source: ApplyError,
    },
    /// The target has no room for the image.
    #[error("the target has {found} bytes, expected {expected} at least")]
    TargetTooSmall {
        /// Its size.
        found: u64,
        /// Bytes of the image.
        expected: u64,
    },
    /// The target failed.
    #[error("{act} the restored image at block {address}")]
    Target {
        /// What was tried.
        act: &'static str,
        /// Where.
        address: Lb,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream is used although it has failed before.
    #[error("the stream has failed before, at block {at}")]
    FailedBefore {
        /// All blocks below were restored.
        at: Lb,
    },
    /// The caller asked to stop.
    #[error("restoring was stopped")]
    Stopped,
}

/// A part of the restored image. Positions and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Data, at most 512 KiB.
    Data {
        /// Where they belong.
        position: u64,
        /// The data.
        data: &'a [u8],
    },
    /// A range of zeros, of any length.
    Zeros {
        /// Where it starts.
        position: u64,
        /// Its length.
        length: u64,
    },
}

/// The restored image as chunks in address order that follow each other without a gap, pulled with
/// [`RestoreStream::next_chunk`], or as plain bytes with [`Read`].
///
/// Each wdiff is read to its end, past the last chunk, so that damage of anything that shows is noticed: without a `None`
/// (or a read of no bytes) from the stream the image is not complete.
#[derive(Debug)]
pub struct RestoreStream<B> {
    base: B,
    size: u64,
    merger: WdiffMerger,
    /// The next record, of which nothing was given out.
    next: Option<WdiffRecord>,
    /// Everything below was given out.
    at: u64,
    /// The first data of the base at or behind the last place asked for.
    base_data: Range<u64>,
    failed: bool,
    parts: Vec<Part>,
    batch: Batch,
    given: usize,
    read: u64,
}

/// What a range of a window is made of.
#[derive(Debug)]
struct Part {
    start: u64,
    end: u64,
    from: From,
}

#[derive(Debug)]
enum From {
    Base,
    Zeros,
    Record(WdiffRecord),
}

impl<B: ImageSource> RestoreStream<B> {
    /// Lays `inputs`, oldest first, over `base`. Discarded ranges read as zeros unless they are ignored.
    pub fn new(base: B, inputs: Vec<WdiffReader>, discard: DiscardMode) -> Result<Self, RestoreError> {
        let size = base.size().map_err(|source| RestoreError::Base {
            act: "size",
            address: Lb(0),
            source,
        })?;
        let from = Lb(0);
        let mut merger = WdiffMerger::new(joined(inputs), Lb(0)).map_err(|error| RestoreError::Overlay {
            from,
            source: error.into(),
        })?;
        if discard == DiscardMode::Ignore {
            merger = merger.without_discards();
        }
        Ok(Self {
            base,
            size,
            merger,
            next: None,
            at: 0,
            base_data: 0..0,
            failed: false,
            parts: Vec::new(),
            batch: Batch::default(),
            given: 0,
            read: 0,
        })
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Leaves out what lies below `position`, which is a whole number of blocks. Only before the first chunk.
    pub fn skip_to(&mut self, position: u64) -> Result<(), RestoreError> {
        let position = position.min(self.size);
        while let Some(record) = self.peek()? {
            let (start, end) = (record.address.bytes(), record.end().bytes());
            if start >= position {
                break;
            }
            let rest = (end > position).then(|| record.slice(lb(position), record.end()));
            self.next = rest;
        }
        self.at = position;
        Ok(())
    }

    /// The next chunk; None behind the end of the image, when all wdiffs were read to their ends.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, RestoreError> {
        if self.given == self.batch.ops().len() {
            let mut batch = std::mem::take(&mut self.batch);
            self.given = 0;
            self.read = 0;
            batch.clear();
            self.fill(&mut batch)?;
            self.batch = batch;
        }
        let Some(op) = self.batch.ops().get(self.given) else {
            return Ok(None);
        };
        self.given += 1;
        let (position, length) = (op.position, op.length);
        Ok(Some(match self.batch.data(op) {
            Some(data) => Chunk::Data { position, data },
            None => Chunk::Zeros { position, length },
        }))
    }

    /// Puts what follows into the empty `batch`: a window, or a longer range of zeros. False, with nothing in it, at the
    /// end.
    fn fill(&mut self, batch: &mut Batch) -> Result<bool, RestoreError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(RestoreError::FailedBefore { at: lb(self.at) });
        }
        let next = self.peek()?.map(|record| record.address.bytes());
        if self.at == self.size {
            self.failed = false;
            return Ok(false);
        }
        let quiet_end = match &mut self.next {
            // One record without data may go on for terabytes.
            Some(record) if next == Some(self.at) && !matches!(record.content, Content::Normal(_)) => {
                let end = record.end().bytes();
                if end - self.at >= WINDOW {
                    self.next = None;
                }
                end
            }
            _ => self.base_data(self.at)?.start.min(next.unwrap_or(self.size)),
        };
        if quiet_end.saturating_sub(self.at) >= WINDOW {
            batch.push(Op {
                position: self.at,
                length: quiet_end - self.at,
                what: What::Zeros,
            });
            self.at = quiet_end;
        } else {
            let end = self.size.min((self.at / WINDOW + 1) * WINDOW);
            self.window(end, batch)?;
            self.at = end;
        }
        self.failed = false;
        Ok(true)
    }

    /// Makes the window from where we are to `end`.
    fn window(&mut self, end: u64, batch: &mut Batch) -> Result<(), RestoreError> {
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear();
        let mut at = self.at;
        while let Some(mut record) = self.take_below(end)? {
            let start = record.address.bytes();
            if record.end().bytes() > end {
                self.next = Some(record.slice(lb(end), record.end()));
                record = record.slice(record.address, lb(end));
            }
            self.base_parts(at, start, &mut parts)?;
            at = record.end().bytes();
            let from = match record.content {
                Content::Normal(_) => From::Record(record),
                Content::AllZero | Content::Discard => From::Zeros,
            };
            parts.push(Part { start, end: at, from });
        }
        self.base_parts(at, end, &mut parts)?;
        self.read_base(&parts, batch)?;
        let origin = self.at;
        for part in parts.drain(..) {
            let (position, length) = (part.start, part.end - part.start);
            let offset = (position - origin) as usize;
            let what = match part.from {
                From::Zeros if length >= HOLE_MIN => What::Zeros,
                From::Zeros => {
                    batch.room(offset, length as usize).fill(0);
                    What::Data(offset)
                }
                From::Base => What::Data(offset),
                From::Record(record) => {
                    let room = batch.room(offset, length as usize);
                    lay(&record, room).map_err(|source| RestoreError::Overlay {
                        from: lb(origin),
                        source,
                    })?;
                    What::Data(offset)
                }
            };
            batch.push(Op {
                position,
                length,
                what,
            });
        }
        self.parts = parts;
        Ok(())
    }

    /// Reads the visible parts of the base.
    fn read_base(&self, parts: &[Part], batch: &mut Batch) -> Result<(), RestoreError> {
        let mut visible = parts.iter().filter(|part| matches!(part.from, From::Base));
        let Some(first) = visible.next() else {
            return Ok(());
        };
        let mut run = first.start..first.end;
        loop {
            let part = visible.next();
            if let Some(part) = part
                && part.start - run.end <= READ_OVER
            {
                run.end = part.end;
                continue;
            }
            let room = batch.room((run.start - self.at) as usize, (run.end - run.start) as usize);
            self.base
                .read_exact_at(room, run.start)
                .map_err(|source| RestoreError::Base {
                    act: "read",
                    address: lb(run.start),
                    source,
                })?;
            match part {
                Some(part) => run = part.start..part.end,
                None => return Ok(()),
            }
        }
    }

    /// Adds what the base has in `[at, end)`.
    fn base_parts(&mut self, mut at: u64, end: u64, parts: &mut Vec<Part>) -> Result<(), RestoreError> {
        while at < end {
            let data = self.base_data(at)?;
            let (stop, from) = if data.start <= at {
                (data.end.min(end), From::Base)
            } else {
                (data.start.min(end), From::Zeros)
            };
            parts.push(Part {
                start: at,
                end: stop,
                from,
            });
            at = stop;
        }
        Ok(())
    }

    /// The first data of the base that end behind `at`; beyond the image if there are none.
    fn base_data(&mut self, at: u64) -> Result<Range<u64>, RestoreError> {
        if at >= self.base_data.end {
            let found = self.base.data_from(at).map_err(|source| RestoreError::Base {
                act: "find data of",
                address: lb(at),
                source,
            })?;
            self.base_data = match found {
                Some(data) if data.end > at && data.start < self.size => data,
                // Someone punched a hole meanwhile: zeros will be read.
                Some(data) if data.start < self.size => at..self.size,
                _ => self.size..u64::MAX,
            };
        }
        Ok(self.base_data.clone())
    }

    /// The next record if it starts below `end`.
    fn take_below(&mut self, end: u64) -> Result<Option<WdiffRecord>, RestoreError> {
        match self.peek()? {
            Some(record) if record.address.bytes() < end => Ok(self.next.take()),
            _ => Ok(None),
        }
    }

    fn peek(&mut self) -> Result<Option<&WdiffRecord>, RestoreError> {
        if self.next.is_none() {
            let from = lb(self.at);
            let failed = |source| RestoreError::Overlay { from, source };
            self.next = self.merger.next_record().map_err(|e| failed(e.into()))?;
            if let Some(record) = &self.next {
                let size = Lb(self.size / LB_SIZE);
                let (address, end) = (record.address, record.end());
                if end > size {
                    return Err(failed(ApplyError::BeyondEnd { address, end, size }));
                }
            }
        }
        Ok(self.next.as_ref())
    }
}

/// Decompresses a record with data into the window.
fn lay(record: &WdiffRecord, room: &mut [u8]) -> Result<(), ApplyError> {
    match &record.content {
        Content::Normal(data) => data.copy_raw(room).map_err(|source| ApplyError::Decompress {
            address: record.address,
            source,
        }),
        Content::AllZero | Content::Discard => unreachable!("only records with data are laid"),
    }
}

fn lb(position: u64) -> Lb {
    Lb(position / LB_SIZE)
}

impl<B: ImageSource> Read for RestoreStream<B> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let op = loop {
            // The operation last given out may not be through.
            match self.given.checked_sub(1).and_then(|n| self.batch.ops().get(n)) {
                Some(op) if self.read < op.length => break *op,
                _ => {}
            }
            if self.next_chunk().map_err(io::Error::other)?.is_none() {
                return Ok(0);
            }
            self.read = 0;
        };
        let length = (buf.len() as u64).min(op.length - self.read) as usize;
        match self.batch.data(&op) {
            Some(data) => buf[..length].copy_from_slice(&data[self.read as usize..][..length]),
            None => buf[..length].fill(0),
        }
        self.read += length as u64;
        Ok(length)
    }
}
