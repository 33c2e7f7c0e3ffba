//! The first pass: every header in log order, every datum against its checksum; tells what each IO does and where its data
//! are. Headers are walked by the caller's thread, data are read by as many as the form allows.

use std::fs::File;
use std::io;

use super::{ConvertWlogError, ConvertedLog, Place, Progress, Report, WLOG_FILES_MAX, WlogFile};
use crate::convert::in_order::in_order;
use crate::convert::wlog_to_wdiff::{ConvertStats, is_zero};
use crate::format::checksum::{Salt, Summer};
use crate::format::log_device::{DataChecksumError, RecordKind as LogRecordKind};
use crate::format::read_at::ReadAt;
use crate::format::wdiff::RecordKind;
use crate::format::wlog::{FoundLogpack, ReadLogpackError, ReadWlogError, WlogFileHeader, WlogWalker};
use crate::types::{Lsid, Uuid};

/// Log one job reads, unless one pack is larger.
const JOB_BYTES: u64 = 1 << 20;
/// Data read at once.
const READ_BYTES: usize = 1 << 20;

/// One IO of the log.
pub(super) struct SurveyedIo {
    pub address: u64,
    pub blocks: u64,
    pub kind: RecordKind,
    /// Where its data are, if it has any.
    pub place: Place,
}

/// Packs of one file that follow each other.
struct Job {
    file: usize,
    salt: Salt,
    packs: Vec<FoundLogpack>,
    bytes: u64,
}

/// Goes through `logs` and gives every IO to `take`, in log order; each pack was verified before its IOs are given.
/// Returns what the log is, and the counts of what was read.
pub(super) fn survey(
    logs: &[WlogFile],
    threads: usize,
    report: Report<'_>,
    mut take: impl FnMut(SurveyedIo) -> Result<(), ConvertWlogError>,
) -> Result<ConvertedLog, ConvertWlogError> {
    if logs.len() > WLOG_FILES_MAX {
        let (what, found, max) = ("wlog files", logs.len() as u64, WLOG_FILES_MAX as u64);
        return Err(ConvertWlogError::TooMuch { what, found, max });
    }
    let mut surveyed = 0;
    let mut stats = ConvertStats::default();
    let mut done = |result: Result<(Job, Vec<bool>), ConvertWlogError>| {
        let (job, zero) = result?;
        surveyed += job.bytes;
        give(logs, &job, &zero, &mut stats, &mut take)?;
        report(Progress::Surveyed(surveyed))
    };
    let walked = in_order(
        threads,
        Window::default,
        |window, job: Job| match verify(&logs[job.file], &job, window) {
            Ok(zero) => Ok((job, zero)),
            Err(source) => Err(read_error(&logs[job.file], source)),
        },
        |line| {
            let walked = walk(logs, &mut |job| line.give(job).map_or(Ok(()), &mut done));
            // What was read before a walk's error comes before it in the log, and so do its errors.
            while let Some(result) = line.take() {
                done(result)?;
            }
            walked
        },
    )?;
    Ok(ConvertedLog { stats, ..walked })
}

fn read_error(log: &WlogFile, source: ReadWlogError) -> ConvertWlogError {
    ConvertWlogError::Read {
        name: log.name.clone(),
        source,
    }
}

/// Walks the headers of all files and gives them out in jobs.
fn walk(
    logs: &[WlogFile],
    give: &mut dyn FnMut(Job) -> Result<(), ConvertWlogError>,
) -> Result<ConvertedLog, ConvertWlogError> {
    let mut before: Option<(WlogFileHeader, Lsid)> = None;
    let mut begin = None;
    for (file, log) in logs.iter().enumerate() {
        let failed = |source| read_error(log, source);
        let max = 1 << Place::POSITION_BITS;
        if log.size > max {
            let (what, found) = ("bytes of a wlog", log.size);
            return Err(ConvertWlogError::TooMuch { what, found, max });
        }
        let mut walker = WlogWalker::open(&log.file, log.size).map_err(failed)?;
        if let Some((header, end)) = before {
            header.followed_by(walker.header(), end).map_err(failed)?;
        }
        begin.get_or_insert(walker.header().begin);
        loop {
            walk_one(file, &mut walker, &failed, give)?;
            before = Some((*walker.header(), walker.next_lsid()));
            match walker.next_wlog().map_err(failed)? {
                Some(next) => walker = next,
                None => break,
            }
        }
    }
    Ok(ConvertedLog {
        uuid: before.map_or(Uuid::NIL, |(header, _)| header.uuid),
        begin: begin.unwrap_or(Lsid(0)),
        end: before.map_or(Lsid(0), |(_, end)| end),
        stats: ConvertStats::default(),
    })
}

fn walk_one(
    file: usize,
    walker: &mut WlogWalker<&File>,
    failed: &dyn Fn(ReadWlogError) -> ConvertWlogError,
    give: &mut dyn FnMut(Job) -> Result<(), ConvertWlogError>,
) -> Result<(), ConvertWlogError> {
    let salt = walker.header().salt;
    let empty = || Job {
        file,
        salt,
        packs: Vec::new(),
        bytes: 0,
    };
    let mut job = empty();
    let mut from = walker.position();
    loop {
        let next = walker.next_pack();
        let last = !matches!(next, Ok(Some(_)));
        if let Ok(Some(pack)) = &next {
            job.packs.push(pack.clone());
            job.bytes += walker.position() - from;
            from = walker.position();
        }
        if (last && !job.packs.is_empty()) || job.bytes >= JOB_BYTES {
            give(std::mem::replace(&mut job, empty()))?;
        }
        if last {
            return next.map(|_| ()).map_err(failed);
        }
    }
}

/// Reads the data of a job's packs and sums them; tells of every record whether it is all zero.
fn verify(log: &WlogFile, job: &Job, window: &mut Window) -> Result<Vec<bool>, ReadWlogError> {
    let mut zero = Vec::new();
    window.forget();
    let job_end = job
        .packs
        .last()
        .map_or(0, |p| p.data + p.header.data_bytes() as u64);
    for pack in &job.packs {
        let lsid = pack.header.lsid();
        for (index, record) in pack.header.records().iter().enumerate() {
            if record.kind != LogRecordKind::Normal {
                zero.push(false);
                continue;
            }
            let range = pack.header.data_range(record);
            let (mut at, end) = (range.start as u64, range.end as u64);
            let (mut sum, mut all_zero) = (Summer::new(job.salt), true);
            while at < end {
                let bytes = window
                    .read(&log.file, pack.data + at, end - at, job_end)
                    .map_err(|source| ReadLogpackError::Io { lsid, source })?;
                sum.add(bytes);
                all_zero = all_zero && is_zero(bytes);
                at += bytes.len() as u64;
            }
            let found = sum.finish();
            if found != record.checksum {
                let source = DataChecksumError {
                    pack: lsid,
                    index,
                    lsid: record.lsid,
                    expected: record.checksum,
                    found,
                };
                return Err(ReadLogpackError::Data { lsid, source }.into());
            }
            zero.push(all_zero);
        }
    }
    Ok(zero)
}

/// A stretch of a file in memory.
#[derive(Default)]
struct Window {
    buf: Vec<u8>,
    start: u64,
    held: u64,
}

impl Window {
    /// Another file comes.
    fn forget(&mut self) {
        self.held = 0;
    }

    /// Up to `wanted` bytes at `position`, and at least one; where they must be read, more are, but none at or behind
    /// `limit`.
    fn read(&mut self, file: &File, position: u64, wanted: u64, limit: u64) -> io::Result<&[u8]> {
        if !(self.start..self.start + self.held).contains(&position) {
            self.buf.resize(READ_BYTES, 0);
            self.start = position;
            // Nothing is held should this fail.
            self.held = 0;
            let length = (limit - position).min(READ_BYTES as u64);
            file.read_exact_at(&mut self.buf[..length as usize], position)?;
            self.held = length;
        }
        let from = position - self.start;
        let to = self.held.min(from + wanted);
        Ok(&self.buf[from as usize..to as usize])
    }
}

fn give(
    logs: &[WlogFile],
    job: &Job,
    zero: &[bool],
    stats: &mut ConvertStats,
    take: &mut dyn FnMut(SurveyedIo) -> Result<(), ConvertWlogError>,
) -> Result<(), ConvertWlogError> {
    let mut zero = zero.iter();
    for pack in &job.packs {
        stats.packs += 1;
        for record in pack.header.records() {
            let all_zero = zero.next().copied().unwrap_or(false);
            let kind = match record.kind {
                LogRecordKind::Padding => continue,
                LogRecordKind::Discard => RecordKind::Discard,
                LogRecordKind::Normal if all_zero => RecordKind::AllZero,
                LogRecordKind::Normal => RecordKind::Normal,
            };
            let (address, blocks) = (record.offset, record.size);
            if address.0.checked_add(blocks.0).is_none() {
                let name = logs[job.file].name.clone();
                return Err(ConvertWlogError::Range {
                    name,
                    address,
                    blocks,
                });
            }
            stats.ios += 1;
            if kind != RecordKind::Discard {
                stats.written.0 += blocks.0;
            }
            let position = pack.data + pack.header.data_range(record).start as u64;
            take(SurveyedIo {
                address: address.0,
                blocks: blocks.0,
                kind,
                place: Place::new(job.file, position),
            })?;
        }
    }
    Ok(())
}
