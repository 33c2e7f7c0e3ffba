//! wlog to wdiff: every IO of the log laid over those before it; what is left is the net effect.
//!
//! The indexed converter stores images as they come and keeps only the index in memory; the sorted one keeps the data.

use std::io::Write;

use crate::convert::overlay::{Cut, Overlay, Piece};
use crate::convert::write_sorted::write_sorted;
use crate::format::checksum::{Salt, checksum};
use crate::format::compress::Compressor;
use crate::format::log_device::{LogRecord, Logpack, RecordKind as LogRecordKind};
use crate::format::wdiff::{
    Content, IndexRecord, IndexedWriter, RecordKind, StoredImage, WdiffRecord, WriteStats, WriteWdiffError,
};
use crate::types::{Compression, CompressionSetting, Lb, Uuid};

/// Largest piece unless told otherwise: 1 MiB.
pub const DEFAULT_MAX_IO: Lb = Lb(2048);

/// Memory for a pack's images that is kept for the next pack.
const KEPT_BYTES: usize = 4 << 20;

/// A log cannot be converted on.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The wdiff could not be written.
    #[error("write the wdiff")]
    Write(#[from] WriteWdiffError),
    /// A record of the log ends beyond the last address.
    #[error("log record at address {address} of {blocks} blocks ends beyond the largest address")]
    Range {
        /// Its address.
        address: Lb,
        /// Its size.
        blocks: Lb,
    },
}

/// What a conversion did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConvertStats {
    /// Logpacks taken.
    pub packs: u64,
    /// Log records taken, padding not counted.
    pub ios: u64,
    /// Their size on the volume, discards not counted.
    pub written: Lb,
    /// The wdiff.
    pub wdiff: WriteStats,
}

/// One IO of a log, as a wdiff sees it.
enum Io {
    Discard,
    AllZero,
    /// Nothing of it survives this very pack.
    Overwritten,
    Normal(bytes::Bytes),
}

/// Hands every IO of a pack to `take`, in order. The pack's checksums have been verified by whoever read it.
fn each_io<E: From<ConvertError>>(
    pack: &Logpack,
    stats: &mut ConvertStats,
    mut take: impl FnMut(u64, u64, Io) -> Result<(), E>,
) -> Result<(), E> {
    stats.packs += 1;
    let later = pack.header().records();
    for (index, (record, data)) in pack.records().enumerate() {
        let (address, blocks) = (record.offset, record.size);
        let io = match record.kind {
            LogRecordKind::Padding => continue,
            LogRecordKind::Discard => Io::Discard,
            LogRecordKind::Normal if is_covered(&later[index + 1..], record) => Io::Overwritten,
            LogRecordKind::Normal if is_zero(&data) => Io::AllZero,
            LogRecordKind::Normal => Io::Normal(data),
        };
        if address.0.checked_add(blocks.0).is_none() {
            return Err(ConvertError::Range { address, blocks }.into());
        }
        stats.ios += 1;
        if !matches!(io, Io::Discard) {
            stats.written.0 += blocks.0;
        }
        take(address.0, blocks.0, io)?;
    }
    Ok(())
}

/// Whether one of these records covers all of `record`. What several cover together is not looked for.
fn is_covered(later: &[LogRecord], record: &LogRecord) -> bool {
    let end = record.offset.0.saturating_add(record.size.0);
    later.iter().any(|l| {
        l.kind != LogRecordKind::Padding
            && l.offset <= record.offset
            && l.offset.0.saturating_add(l.size.0) >= end
    })
}

/// Whether data are all zero.
pub fn is_zero(data: &[u8]) -> bool {
    // In runs, so that the compiler compares many bytes at once, yet data are given up at the first run that is not.
    data.chunks(256)
        .all(|run| run.iter().fold(0, |any, &b| any | b) == 0)
}

/// A range's part of an IO in the indexed layout. `I` tells where the IO's image is; it means nothing without data.
#[derive(Debug, Clone, Copy)]
pub(super) struct IoPart<I> {
    pub kind: RecordKind,
    pub image: I,
    /// Logical blocks from the start of the image.
    pub io_offset: u32,
    /// Whether the maximum IO size holds for it.
    pub limited: bool,
}

impl<I: Copy> Piece for IoPart<I> {
    fn part(&self, skip: u64, _: u64) -> Self {
        // An IO has fewer than 2^32 blocks. Without data the offset means nothing, but the existing tools count on.
        Self {
            io_offset: self.io_offset.wrapping_add(skip as u32),
            ..*self
        }
    }

    fn limit(&self, max: u64) -> u64 {
        if self.limited { max } else { 0 }
    }
}

/// Converts packs into an indexed wdiff while they come.
#[derive(Debug)]
pub struct IndexedConverter<W> {
    writer: IndexedWriter<W>,
    compressor: Compressor,
    overlay: Overlay<IoPart<StoredImage>>,
    /// Of the pack at hand, as they are stored.
    images: Vec<u8>,
    stats: ConvertStats,
    cut_dataless: bool,
}

impl<W: Write> IndexedConverter<W> {
    /// Starts a wdiff of the log sequence `uuid`. `max_io` bounds its pieces; 0 for no bound.
    pub fn new(out: W, uuid: Uuid, setting: CompressionSetting, max_io: Lb) -> Result<Self, ConvertError> {
        Ok(Self {
            writer: IndexedWriter::new(out, uuid)?,
            compressor: Compressor::new(setting),
            overlay: Overlay::new(Cut::Aligned(max_io.0)),
            images: Vec::new(),
            stats: ConvertStats::default(),
            cut_dataless: false,
        })
    }

    /// Also cuts zeros and discards to the maximum IO size, as the existing tools do. Without it a discard of a whole
    /// device takes a few pieces, not one per MiB of the volume.
    #[must_use]
    pub fn cut_dataless(mut self) -> Self {
        self.cut_dataless = true;
        self
    }

    /// Adds a verified pack, the one after those added before.
    pub fn add_pack(&mut self, pack: &Logpack) -> Result<(), ConvertError> {
        let Self {
            writer,
            compressor,
            overlay,
            images,
            stats,
            cut_dataless,
        } = self;
        images.clear();
        let (start, mut stored) = (writer.position(), 0);
        each_io(pack, stats, |address, blocks, io| {
            let data_offset = start + images.len() as u64;
            let kind = match &io {
                Io::Normal(_) => RecordKind::Normal,
                Io::AllZero => RecordKind::AllZero,
                Io::Discard => RecordKind::Discard,
                Io::Overwritten => {
                    writer.add_dataless(1);
                    return Ok(());
                }
            };
            let image = if let Io::Normal(raw) = &io {
                stored += 1;
                let compression = compressor.store(raw, images);
                let bytes = &images[(data_offset - start) as usize..];
                StoredImage {
                    compression,
                    data_offset,
                    // A pack has less than 2^32 bytes.
                    data_size: bytes.len() as u32,
                    checksum: checksum(bytes, Salt::ZERO),
                    blocks: Lb(blocks),
                }
            } else {
                writer.add_dataless(1);
                StoredImage {
                    compression: Compression::None,
                    data_offset,
                    data_size: 0,
                    checksum: 0,
                    blocks: Lb(0),
                }
            };
            let limited = kind == RecordKind::Normal || *cut_dataless;
            overlay.add(
                address,
                blocks,
                IoPart {
                    kind,
                    image,
                    io_offset: 0,
                    limited,
                },
            );
            Ok::<_, ConvertError>(())
        })?;
        writer.add_images(images, stored)?;
        // One exceptionally large pack is no reason to keep as much for good.
        if images.len() > KEPT_BYTES {
            *images = Vec::new();
        }
        Ok(())
    }

    /// Bytes of the file so far, without the index.
    pub fn position(&self) -> u64 {
        self.writer.position()
    }

    /// Pieces held so far: about what the index would hold, unless zeros and discards are cut.
    pub fn pieces(&self) -> usize {
        self.overlay.held()
    }

    /// Writes the index. Gives the stream back, unflushed.
    pub fn finish(self) -> Result<(W, ConvertStats), ConvertError> {
        let records = self.overlay.into_pieces().map(|placed| IndexRecord {
            address: Lb(placed.address),
            blocks: Lb(placed.blocks),
            kind: placed.piece.kind,
            compression: placed.piece.image.compression,
            data_offset: placed.piece.image.data_offset,
            data_size: placed.piece.image.data_size,
            io_offset: Lb(placed.piece.io_offset.into()),
            orig_blocks: placed.piece.image.blocks,
            io_checksum: placed.piece.image.checksum,
        });
        let (out, wdiff) = self.writer.finish(records)?;
        Ok((out, ConvertStats { wdiff, ..self.stats }))
    }
}

impl Piece for Content {
    fn part(&self, skip: u64, blocks: u64) -> Self {
        match self {
            Content::Normal(data) => Content::Normal(data.slice(Lb(skip), Lb(blocks))),
            Content::AllZero => Content::AllZero,
            Content::Discard => Content::Discard,
        }
    }
}

/// Converts packs into a sorted wdiff. Keeps all surviving data in memory until the end: for short logs.
#[derive(Debug)]
pub struct SortedConverter {
    overlay: Overlay<Content>,
    stats: ConvertStats,
}

impl SortedConverter {
    /// Starts a conversion. `max_io` bounds new pieces; 0 for no bound.
    pub fn new(max_io: Lb) -> Self {
        Self {
            overlay: Overlay::new(Cut::Chunks(max_io.0)),
            stats: ConvertStats::default(),
        }
    }

    /// Adds a verified pack, the one after those added before.
    pub fn add_pack(&mut self, pack: &Logpack) -> Result<(), ConvertError> {
        let Self { overlay, stats } = self;
        each_io(pack, stats, |address, blocks, io| {
            let content = match io {
                Io::Normal(raw) => WdiffRecord::normal(Lb(address), raw).content,
                Io::AllZero => Content::AllZero,
                Io::Discard => Content::Discard,
                Io::Overwritten => return Ok(()),
            };
            overlay.add(address, blocks, content);
            Ok::<_, ConvertError>(())
        })
    }

    /// Writes the wdiff. Gives the stream back, unflushed.
    pub fn finish<W: Write>(
        self,
        out: W,
        uuid: Uuid,
        setting: CompressionSetting,
    ) -> Result<(W, ConvertStats), ConvertError> {
        let mut pieces = self.overlay.into_pieces();
        let next = || {
            let placed = pieces.next()?;
            Some(Ok::<_, ConvertError>(WdiffRecord {
                address: Lb(placed.address),
                blocks: Lb(placed.blocks),
                content: placed.piece,
            }))
        };
        let (out, wdiff) = write_sorted(next, out, uuid, setting)?;
        Ok((out, ConvertStats { wdiff, ..self.stats }))
    }
}
