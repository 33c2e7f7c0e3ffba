//! The second pass for the indexed layout: the images that anything survives of, in log order, then the index.

use std::io::Write;

use super::survey::survey;
use super::{ConvertWlogError, ConvertedLog, Place, Progress, Report, WdiffForm, WlogFile};
use crate::convert::in_order::in_order;
use crate::convert::overlay::{Cut, Overlay};
use crate::convert::wlog_to_wdiff::IoPart;
use crate::format::checksum::{Salt, checksum};
use crate::format::compress::Compressor;
use crate::format::wdiff::{IndexRecord, IndexedWriter, RecordKind};
use crate::types::{Compression, Lb};

/// Data one job compresses, unless one image is larger.
const JOB_BYTES: u64 = 512 << 10;

/// The number of an IO among those with data. Four bytes, as there is one for every piece.
type Number = u32;

/// An IO with data: first where they are in the log, later how they are stored.
#[derive(Debug, Clone, Copy)]
struct IoImage {
    /// In the log; then, as a plain position, in the wdiff.
    place: u64,
    blocks: u32,
    data_size: u32,
    checksum: u32,
    compression: Compression,
    survives: bool,
}

impl IoImage {
    fn bytes(&self) -> u64 {
        Lb(self.blocks.into()).bytes()
    }
}

/// Images to compress: their numbers, with what is known of them.
type Job = Vec<(Number, IoImage)>;

/// Images compressed, back to back.
struct Encoded {
    bytes: Vec<u8>,
    images: Job,
}

pub(super) fn convert<W: Write>(
    logs: &[WlogFile],
    out: W,
    form: WdiffForm,
    report: Report<'_>,
) -> Result<(W, ConvertedLog), ConvertWlogError> {
    let mut overlay = Overlay::new(Cut::Aligned(form.max_io.0));
    let mut images: Vec<IoImage> = Vec::new();
    let threads = usize::from(form.setting.cpus);
    let mut log = survey(logs, threads, report, |io| {
        // The number means nothing without data.
        let number = Number::try_from(images.len()).map_err(|_| ConvertWlogError::TooMuch {
            what: "IOs of one wdiff",
            found: images.len() as u64,
            max: u32::MAX.into(),
        })?;
        let normal = io.kind == RecordKind::Normal;
        if normal {
            images.push(IoImage {
                place: io.place.0,
                blocks: io.blocks as u32,
                data_size: 0,
                checksum: 0,
                compression: Compression::None,
                survives: false,
            });
        }
        let piece = IoPart {
            image: number,
            io_offset: 0,
            kind: io.kind,
            limited: normal || form.cut_dataless,
        };
        overlay.add(io.address, io.blocks, piece);
        Ok(())
    })?;
    for piece in overlay.pieces().filter(|p| p.kind == RecordKind::Normal) {
        images[piece.image as usize].survives = true;
    }
    let mut writer = IndexedWriter::new(out, log.uuid)?;
    store(logs, form, &mut images, &mut writer, report)?;
    writer.add_dataless(log.stats.ios - images.iter().filter(|image| image.survives).count() as u64);
    let end = writer.position();
    let records = overlay.into_pieces().map(|placed| {
        let (address, blocks, piece) = (Lb(placed.address), Lb(placed.blocks), placed.piece);
        let (kind, io_offset) = (piece.kind, Lb(piece.io_offset.into()));
        match kind {
            RecordKind::Normal => {
                let image = images[piece.image as usize];
                IndexRecord {
                    address,
                    blocks,
                    kind,
                    compression: image.compression,
                    data_offset: image.place,
                    data_size: image.data_size,
                    io_offset,
                    orig_blocks: Lb(image.blocks.into()),
                    io_checksum: image.checksum,
                }
            }
            RecordKind::AllZero | RecordKind::Discard => IndexRecord {
                address,
                blocks,
                kind,
                compression: Compression::None,
                data_offset: end,
                data_size: 0,
                io_offset,
                orig_blocks: Lb(0),
                io_checksum: 0,
            },
        }
    });
    let (out, wdiff) = writer.finish(records)?;
    log.stats.wdiff = wdiff;
    Ok((out, log))
}

/// Compresses and writes what survives, and notes where it is.
fn store<W: Write>(
    logs: &[WlogFile],
    form: WdiffForm,
    images: &mut [IoImage],
    writer: &mut IndexedWriter<W>,
    report: Report<'_>,
) -> Result<(), ConvertWlogError> {
    let surviving = images.iter().filter(|image| image.survives).count() as u64;
    let mut done = 0;
    let mut next = 0;
    in_order(
        usize::from(form.setting.cpus),
        || (Compressor::new(form.setting), Vec::new()),
        |(compressor, buf), job: Job| encode(logs, job, compressor, buf),
        |line| {
            loop {
                let mut job = Vec::new();
                let mut bytes = 0;
                while bytes < JOB_BYTES
                    && let Some(image) = images.get(next)
                {
                    if image.survives {
                        bytes += image.bytes();
                        job.push((next as Number, *image));
                    }
                    next += 1;
                }
                let more = !job.is_empty();
                let encoded = if more { line.give(job) } else { line.take() };
                let Some(encoded) = encoded else {
                    if more {
                        continue;
                    }
                    break;
                };
                let Encoded { bytes, images: built } = encoded?;
                let mut at = writer.position();
                writer.add_images(&bytes, built.len() as u64)?;
                for (number, image) in built {
                    images[number as usize] = IoImage { place: at, ..image };
                    at += u64::from(image.data_size);
                    done += 1;
                }
                report(Progress::Built { done, of: surviving })?;
            }
            Ok::<_, ConvertWlogError>(())
        },
    )
}

fn encode(
    logs: &[WlogFile],
    mut job: Job,
    compressor: &mut Compressor,
    buf: &mut Vec<u8>,
) -> Result<Encoded, ConvertWlogError> {
    let mut bytes = Vec::new();
    for (_, image) in &mut job {
        let length = image.bytes() as usize;
        if buf.len() < length {
            buf.resize(length, 0);
        }
        let raw = &mut buf[..length];
        Place(image.place).read(logs, raw)?;
        let start = bytes.len();
        image.compression = if compressor.append(raw, &mut bytes) {
            compressor.setting().kind
        } else {
            bytes.extend_from_slice(raw);
            Compression::None
        };
        image.data_size = (bytes.len() - start) as u32;
        image.checksum = checksum(&bytes[start..], Salt::ZERO);
    }
    Ok(Encoded { bytes, images: job })
}
