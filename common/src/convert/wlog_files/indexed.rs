//! The indexed layout: headers alone tell what survives; then the log is read once, in its order, which is also that of the
//! images: each datum is checked and, if anything of it survives, compressed and written.

use std::cell::RefCell;
use std::io::Write;

use super::job_data::{Job, JobReader};
use super::survey::{each_io, read_error, survey, walk};
use super::{ConvertWlogError, ConvertedLog, Progress, Report, WdiffForm, WlogFile};
use crate::convert::in_order::in_order;
use crate::convert::overlay::{Cut, Overlay, Placed};
use crate::convert::wlog_to_wdiff::{ConvertStats, IoPart};
use crate::format::checksum::{Salt, checksum};
use crate::format::compress::Compressor;
use crate::format::log_device::RecordKind as LogRecordKind;
use crate::format::wdiff::{IndexRecord, IndexedWriter, RecordKind};
use crate::types::{Compression, Lb};

/// The number of an IO among those with data. Four bytes, as there is one for every piece.
type Number = u32;

/// An IO with data: what survives of it, later how it is stored.
#[derive(Debug, Clone, Copy)]
struct IoImage {
    blocks: u32,
    survives: bool,
    /// Nothing is stored of it.
    all_zero: bool,
    compression: Compression,
    checksum: u32,
    data_size: u32,
    /// In the wdiff.
    data_offset: u64,
}

impl IoImage {
    fn is_stored(&self) -> bool {
        self.survives && !self.all_zero
    }
}

/// What the headers say.
struct Plan {
    overlay: Overlay<IoPart<Number>>,
    images: Vec<IoImage>,
    log: ConvertedLog,
}

/// The images of a job's IOs, stored ones back to back.
struct Encoded {
    bytes: Vec<u8>,
    images: Vec<IoImage>,
    log_bytes: u64,
}

pub(super) fn convert<W: Write>(
    logs: &[WlogFile],
    out: W,
    form: WdiffForm,
    report: Report<'_>,
) -> Result<(W, ConvertedLog), ConvertWlogError> {
    let plan = match plan(logs, form) {
        Ok(plan) => plan,
        Err(error) => {
            // Damage of data before it comes first.
            survey(logs, form.setting.cpus.into(), report, |_| Ok(()))?;
            return Err(error);
        }
    };
    let Plan {
        mut overlay,
        mut images,
        mut log,
    } = plan;
    let mut writer = IndexedWriter::new(out, log.uuid)?;
    store(logs, form, &mut images, &mut writer, report)?;
    let stored = images.iter().filter(|image| image.is_stored()).count();
    writer.add_dataless(log.stats.ios - stored as u64);
    for piece in overlay.pieces_mut().filter(|p| p.kind == RecordKind::Normal) {
        if images[piece.image as usize].all_zero {
            piece.kind = RecordKind::AllZero;
            piece.limited = form.cut_dataless;
        }
    }
    let end = writer.position();
    let records = overlay
        .into_pieces()
        .map(|placed| index_record(placed, &images, end));
    let (out, wdiff) = writer.finish(records)?;
    log.stats.wdiff = wdiff;
    Ok((out, log))
}

/// Goes through the headers only.
fn plan(logs: &[WlogFile], form: WdiffForm) -> Result<Plan, ConvertWlogError> {
    let mut overlay = Overlay::new(Cut::Aligned(form.max_io.0));
    let mut images: Vec<IoImage> = Vec::new();
    let mut stats = ConvertStats::default();
    let log = walk(logs, &mut |job| {
        each_io(logs, &job, &mut stats, |io| {
            // The number means nothing without data.
            let number = Number::try_from(images.len()).map_err(|_| ConvertWlogError::TooMuch {
                what: "IOs of one wdiff",
                found: images.len() as u64,
                max: u32::MAX.into(),
            })?;
            if io.kind == RecordKind::Normal {
                images.push(IoImage {
                    blocks: io.blocks as u32,
                    survives: false,
                    all_zero: false,
                    compression: Compression::None,
                    checksum: 0,
                    data_size: 0,
                    data_offset: 0,
                });
            }
            let piece = IoPart {
                image: number,
                io_offset: 0,
                kind: io.kind,
                limited: io.kind == RecordKind::Normal || form.cut_dataless,
            };
            overlay.add(io.address, io.blocks, piece);
            Ok(())
        })
    })?;
    for piece in overlay.pieces().filter(|p| p.kind == RecordKind::Normal) {
        images[piece.image as usize].survives = true;
    }
    let log = ConvertedLog { stats, ..log };
    Ok(Plan { overlay, images, log })
}

/// The record of a piece; `end` is where the images end.
fn index_record(placed: Placed<IoPart<Number>>, images: &[IoImage], end: u64) -> IndexRecord {
    let piece = placed.piece;
    let image = (piece.kind == RecordKind::Normal).then(|| images[piece.image as usize]);
    IndexRecord {
        address: Lb(placed.address),
        blocks: Lb(placed.blocks),
        kind: piece.kind,
        compression: image.map_or(Compression::None, |i| i.compression),
        data_offset: image.map_or(end, |i| i.data_offset),
        data_size: image.map_or(0, |i| i.data_size),
        io_offset: Lb(piece.io_offset.into()),
        orig_blocks: Lb(image.map_or(0, |i| i.blocks).into()),
        io_checksum: image.map_or(0, |i| i.checksum),
    }
}

/// Reads and checks the log, compresses and writes what survives, and notes where it is.
fn store<W: Write>(
    logs: &[WlogFile],
    form: WdiffForm,
    images: &mut [IoImage],
    writer: &mut IndexedWriter<W>,
    report: Report<'_>,
) -> Result<(), ConvertWlogError> {
    let (mut given, mut built, mut surveyed) = (0, 0, 0);
    let images = RefCell::new(images);
    let spare = RefCell::new(Vec::new());
    let mut put = |encoded: Result<Encoded, ConvertWlogError>| {
        let encoded = encoded?;
        let mut at = writer.position();
        let stored = encoded.images.iter().filter(|image| image.is_stored()).count();
        writer.add_images(&encoded.bytes, stored as u64)?;
        for image in encoded.images {
            images.borrow_mut()[built] = IoImage {
                data_offset: at,
                ..image
            };
            at += u64::from(image.data_size);
            built += 1;
        }
        spare.borrow_mut().push(encoded.bytes);
        surveyed += encoded.log_bytes;
        report(Progress::Surveyed(surveyed))
    };
    in_order(
        usize::from(form.setting.cpus),
        || (Compressor::new(form.setting), JobReader::default()),
        |(compressor, reader), (job, planned, out): (Job, Vec<IoImage>, Vec<u8>)| {
            encode(&logs[job.file], &job, &planned, compressor, reader, out)
        },
        |line| {
            let walked = walk(logs, &mut |job| {
                let planned = planned(&logs[job.file], &job, &images.borrow()[given..])?;
                given += planned.len();
                let out = spare.borrow_mut().pop().unwrap_or_default();
                line.give((job, planned, out)).map_or(Ok(()), &mut put)
            });
            // Errors of data before a walk's error come first.
            while let Some(encoded) = line.take() {
                put(encoded)?;
            }
            walked.map(|_| ())
        },
    )?;
    match logs.first() {
        Some(log) if built < images.borrow().len() => Err(changed(log)),
        _ => Ok(()),
    }
}

/// What was planned for a job's IOs.
fn planned(log: &WlogFile, job: &Job, rest: &[IoImage]) -> Result<Vec<IoImage>, ConvertWlogError> {
    let records = job.packs.iter().flat_map(|pack| pack.header.records());
    let normal = records.filter(|record| record.kind == LogRecordKind::Normal);
    let mut rest = rest.iter();
    normal
        .map(|record| match rest.next() {
            Some(image) if u64::from(image.blocks) == record.size.0 => Ok(*image),
            _ => Err(changed(log)),
        })
        .collect()
}

fn changed(log: &WlogFile) -> ConvertWlogError {
    let name = log.name().to_owned();
    ConvertWlogError::Changed { name }
}

/// `bytes` is memory of an earlier job: fresh memory would have to be handed out and zeroed by the kernel, for every one.
fn encode(
    log: &WlogFile,
    job: &Job,
    planned: &[IoImage],
    compressor: &mut Compressor,
    reader: &mut JobReader,
    mut bytes: Vec<u8>,
) -> Result<Encoded, ConvertWlogError> {
    bytes.clear();
    let mut images = Vec::with_capacity(planned.len());
    let wanted = |number: usize| planned[number].survives;
    let read = reader.read(&log.file, job, wanted, |all_zero, sum, raw| {
        let mut image = IoImage {
            all_zero,
            ..planned[images.len()]
        };
        if image.is_stored() {
            let start = bytes.len();
            image.compression = compressor.store(raw, &mut bytes);
            image.data_size = (bytes.len() - start) as u32;
            image.checksum = match image.compression {
                Compression::None => sum,
                _ => checksum(&bytes[start..], Salt::ZERO),
            };
        }
        images.push(image);
    });
    match read {
        Ok(()) => Ok(Encoded {
            bytes,
            images,
            log_bytes: job.bytes,
        }),
        Err(source) => Err(read_error(log, source)),
    }
}
