//! Applying wdiffs to a volume's image.
//!
//! Applying is idempotent: after a crash the same wdiffs are applied again from the start. The order the caller keeps:
//! the intention to apply is durable before the first byte here; the image is synced here before this returns; only
//! then may the caller record that the wdiffs are applied, and delete them.

use std::io;
use std::ops::ControlFlow;

use crate::convert::batch::{BATCH_BYTES, Batch, Op, What, pipelined};
use crate::convert::image_target::ImageTarget;
use crate::convert::merge_wdiffs::WdiffMerger;
use crate::disk::fault;
use crate::format::compress::DecompressError;
use crate::format::wdiff::{Content, WdiffFileError, WdiffReader, WdiffRecord};
use crate::types::{LB_SIZE, Lb};

/// Zeros and discards are passed on in parts of at most this size, so that a stop is heard between them.
const DATALESS_BYTES: u64 = 1 << 30;

/// What applying does with discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardMode {
    /// Nothing: the range keeps its data.
    Ignore,
    /// Writes zeros.
    Zero,
    /// Discards the range of the image.
    Passdown,
}

/// Applying stopped before its end. What was applied so far stays; applying again from the start completes it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A wdiff cannot be read.
    #[error("apply")]
    Read(#[from] WdiffFileError),
    /// A record's data are damaged.
    #[error("apply the record at address {address}")]
    Decompress {
        /// The record's address.
        address: Lb,
        /// Why.
        #[source]
        source: DecompressError,
    },
    /// A record reaches beyond the image.
    #[error("record at address {address} ends at {end}, but the image has {size} blocks")]
    BeyondEnd {
        /// The record's address.
        address: Lb,
        /// Its end.
        end: Lb,
        /// Blocks of the image.
        size: Lb,
    },
    /// The image failed.
    #[error("{act} the image at byte {position}")]
    Image {
        /// What was tried.
        act: &'static str,
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("applying was stopped")]
    Stopped,
}

/// What was applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApplyStats {
    /// Merged records.
    pub records: u64,
    /// Bytes of data written.
    pub written: u64,
    /// Bytes made zero.
    pub zeroed: u64,
    /// Bytes discarded.
    pub discarded: u64,
}

/// Applies `inputs`, oldest first, to `image`, and syncs it. `progress` is told the bytes dealt with so far, between
/// writes, and can stop it there.
///
/// Records are read, checked and decompressed on another thread than the one that calls and writes; neighbours are
/// written together. Memory: 1.5 MiB, and for each input its read buffer and the record at hand.
pub fn apply_wdiffs<T: ImageTarget + ?Sized>(
    inputs: Vec<WdiffReader>,
    image: &T,
    discard: DiscardMode,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ApplyStats, ApplyError> {
    let mut merger = WdiffMerger::new(joined(inputs), Lb(0))?;
    if discard == DiscardMode::Ignore {
        merger = merger.without_discards();
    }
    let bytes = image.size().map_err(failed("size", 0))?;
    let mut maker = Maker {
        merger,
        size: Lb(bytes / LB_SIZE),
        discard,
        next: None,
        records: 0,
    };
    let mut writer = Writer {
        image,
        stats: ApplyStats::default(),
        progress,
    };
    pipelined(|batch| maker.fill(batch), |batch| writer.write(batch))?;
    let stats = ApplyStats {
        records: maker.records,
        ..writer.stats
    };
    fault::point("convert.apply.written").map_err(failed("sync", 0))?;
    // Durable before the caller records that the wdiffs are applied.
    image.sync().map_err(failed("sync", 0))?;
    fault::point("convert.apply.synced").map_err(failed("sync", 0))?;
    Ok(stats)
}

/// The bytes are what counts here, and whole images are decompressed right where they are to be.
pub(super) fn joined(inputs: Vec<WdiffReader>) -> Vec<WdiffReader> {
    inputs.into_iter().map(WdiffReader::joining_pieces).collect()
}

/// Makes batches of the merged records.
struct Maker {
    merger: WdiffMerger,
    size: Lb,
    discard: DiscardMode,
    /// A record that the last batch had no room for.
    next: Option<WdiffRecord>,
    records: u64,
}

impl Maker {
    /// Fills a batch; false when that was the last.
    fn fill(&mut self, batch: &mut Batch) -> Result<bool, ApplyError> {
        let mut used = 0;
        while !batch.is_full() {
            let record = match self.next.take() {
                Some(record) => record,
                None => match self.merger.next_record()? {
                    Some(record) => record,
                    None => return Ok(false),
                },
            };
            let (address, end, size) = (record.address, record.end(), self.size);
            if end > size {
                return Err(ApplyError::BeyondEnd { address, end, size });
            }
            let length = record.blocks.bytes();
            let what = match (&record.content, self.discard) {
                (Content::Normal(data), _) => {
                    let from = used;
                    // One that is larger than a batch gets a batch of its own.
                    if from > 0 && from + length as usize > BATCH_BYTES {
                        self.next = Some(record);
                        return Ok(true);
                    }
                    used += length as usize;
                    data.copy_raw(batch.room(from, length as usize))
                        .map_err(|source| ApplyError::Decompress { address, source })?;
                    What::Data(from)
                }
                (Content::AllZero, _) | (Content::Discard, DiscardMode::Zero) => What::Zeros,
                (Content::Discard, DiscardMode::Passdown) => What::Discard,
                (Content::Discard, DiscardMode::Ignore) => continue,
            };
            self.records += 1;
            batch.push(Op {
                position: address.bytes(),
                length,
                what,
            });
        }
        Ok(true)
    }
}

/// Does what the batches say.
struct Writer<'a, T: ?Sized> {
    image: &'a T,
    stats: ApplyStats,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl<T: ImageTarget + ?Sized> Writer<'_, T> {
    fn write(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        for op in batch.ops() {
            if let Some(data) = batch.data(op) {
                self.image
                    .write_at(data, op.position)
                    .map_err(failed("write", op.position))?;
                self.stats.written += op.length;
                self.report()?;
                continue;
            }
            for (position, length) in parts(op.position, op.length) {
                if op.what == What::Discard {
                    self.image
                        .discard(position, length)
                        .map_err(failed("discard from", position))?;
                    self.stats.discarded += length;
                } else {
                    self.image
                        .write_zeroes(position, length)
                        .map_err(failed("write zeros to", position))?;
                    self.stats.zeroed += length;
                }
                self.report()?;
            }
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), ApplyError> {
        match (self.progress)(self.stats.written + self.stats.zeroed + self.stats.discarded) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ApplyError::Stopped),
        }
    }
}

fn failed(act: &'static str, position: u64) -> impl FnOnce(io::Error) -> ApplyError {
    move |source| ApplyError::Image {
        act,
        position,
        source,
    }
}

fn parts(position: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(DATALESS_BYTES)).map(move |n| {
        let done = n * DATALESS_BYTES;
        (position + done, (length - done).min(DATALESS_BYTES))
    })
}
