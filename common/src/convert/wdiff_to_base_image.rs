//! Applying wdiffs to a volume's image.
//!
//! Applying is idempotent: after a crash the same wdiffs are applied again from the start. The order the caller keeps:
//! the intention to apply is durable before the first byte here; the image is synced here before this returns; only
//! then may the caller record that the wdiffs are applied, and delete them.

use std::io;
use std::ops::ControlFlow;

use crate::convert::image_target::ImageTarget;
use crate::convert::merge_wdiffs::WdiffMerger;
use crate::disk::fault;
use crate::format::compress::DecompressError;
use crate::format::wdiff::{Content, WdiffFileError, WdiffReader};
use crate::types::{LB_SIZE, Lb};

/// Adjacent writes are gathered up to this size.
const WRITE_BYTES: usize = 1 << 20;
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
pub fn apply_wdiffs<T: ImageTarget + ?Sized>(
    inputs: Vec<WdiffReader>,
    image: &T,
    discard: DiscardMode,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ApplyStats, ApplyError> {
    let mut merger = WdiffMerger::new(inputs, Lb(0))?;
    if discard == DiscardMode::Ignore {
        merger = merger.without_discards();
    }
    let bytes = image.size().map_err(|source| ApplyError::Image {
        act: "size",
        position: 0,
        source,
    })?;
    let size = Lb(bytes / LB_SIZE);
    let mut run = Run {
        image,
        at: 0,
        buf: Vec::new(),
        stats: ApplyStats::default(),
        progress,
    };
    while let Some(record) = merger.next_record()? {
        let (address, end) = (record.address, record.end());
        if end > size {
            return Err(ApplyError::BeyondEnd { address, end, size });
        }
        run.stats.records += 1;
        let (position, length) = (address.bytes(), record.blocks.bytes());
        match (&record.content, discard) {
            (Content::Normal(data), _) => {
                let raw = data
                    .raw()
                    .map_err(|source| ApplyError::Decompress { address, source })?;
                run.data(position, &raw)?;
            }
            (Content::AllZero, _) | (Content::Discard, DiscardMode::Zero) => run.zeroes(position, length)?,
            (Content::Discard, DiscardMode::Passdown) => run.discard(position, length)?,
            (Content::Discard, DiscardMode::Ignore) => {}
        }
    }
    run.flush()?;
    let stats = run.stats;
    let failed = |source| ApplyError::Image {
        act: "sync",
        position: 0,
        source,
    };
    fault::point("convert.apply.written").map_err(failed)?;
    // Durable before the caller records that the wdiffs are applied.
    image.sync().map_err(failed)?;
    fault::point("convert.apply.synced").map_err(failed)?;
    Ok(stats)
}

/// Data gathered for one write.
struct Run<'a, T: ?Sized> {
    image: &'a T,
    at: u64,
    buf: Vec<u8>,
    stats: ApplyStats,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl<T: ImageTarget + ?Sized> Run<'_, T> {
    fn data(&mut self, position: u64, raw: &[u8]) -> Result<(), ApplyError> {
        let follows = self.at + self.buf.len() as u64 == position;
        if !follows || self.buf.len() + raw.len() > WRITE_BYTES {
            self.flush()?;
            self.at = position;
        }
        if raw.len() >= WRITE_BYTES {
            return self.write(position, raw);
        }
        self.buf.extend_from_slice(raw);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        let buf = std::mem::take(&mut self.buf);
        if !buf.is_empty() {
            self.write(self.at, &buf)?;
        }
        self.buf = buf;
        self.buf.clear();
        Ok(())
    }

    fn write(&mut self, position: u64, data: &[u8]) -> Result<(), ApplyError> {
        self.image
            .write_at(data, position)
            .map_err(|source| ApplyError::Image {
                act: "write",
                position,
                source,
            })?;
        self.stats.written += data.len() as u64;
        self.report()
    }

    fn zeroes(&mut self, position: u64, length: u64) -> Result<(), ApplyError> {
        self.flush()?;
        for (position, length) in parts(position, length) {
            self.image
                .write_zeroes(position, length)
                .map_err(|source| ApplyError::Image {
                    act: "write zeros to",
                    position,
                    source,
                })?;
            self.stats.zeroed += length;
            self.report()?;
        }
        Ok(())
    }

    fn discard(&mut self, position: u64, length: u64) -> Result<(), ApplyError> {
        self.flush()?;
        for (position, length) in parts(position, length) {
            self.image
                .discard(position, length)
                .map_err(|source| ApplyError::Image {
                    act: "discard from",
                    position,
                    source,
                })?;
            self.stats.discarded += length;
            self.report()?;
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

fn parts(position: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(DATALESS_BYTES)).map(move |n| {
        let done = n * DATALESS_BYTES;
        (position + done, (length - done).min(DATALESS_BYTES))
    })
}
