//! Going through a log: every header in log order, every datum against its checksum; tells what each IO does and where its
//! data are. Headers are walked by the caller's thread, data are read by as many as the form allows.

use std::fs::File;

use super::job_data::{Job, JobReader};
use super::{ConvertWlogError, ConvertedLog, Place, Progress, Report, WLOG_FILES_MAX, WlogFile};
use crate::convert::in_order::in_order;
use crate::convert::wlog_to_wdiff::ConvertStats;
use crate::format::log_device::RecordKind as LogRecordKind;
use crate::format::wdiff::RecordKind;
use crate::format::wlog::{ReadWlogError, WlogFileHeader, WlogWalker};
use crate::types::{Lsid, Uuid};

/// Log one job reads, unless one pack is larger.
const JOB_BYTES: u64 = 1 << 20;

/// One IO of the log.
pub(super) struct SurveyedIo {
    pub address: u64,
    pub blocks: u64,
    pub kind: RecordKind,
    /// Where its data are, if it has any.
    pub place: Place,
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
        let mut zero = zero.into_iter();
        each_io(logs, &job, &mut stats, |mut io| {
            if io.kind == RecordKind::Normal && zero.next().unwrap_or(false) {
                io.kind = RecordKind::AllZero;
            }
            take(io)
        })?;
        report(Progress::Surveyed(surveyed))
    };
    let walked = in_order(
        threads,
        JobReader::default,
        |reader, job: Job| {
            let mut zero = Vec::new();
            match reader.read(
                &logs[job.file].file,
                &job,
                |_| false,
                |all_zero, _, _| zero.push(all_zero),
            ) {
                Ok(()) => Ok((job, zero)),
                Err(source) => Err(read_error(&logs[job.file], source)),
            }
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

pub(super) fn read_error(log: &WlogFile, source: ReadWlogError) -> ConvertWlogError {
    ConvertWlogError::Read {
        name: log.name.clone(),
        source,
    }
}

/// Walks the headers of all files and gives them out in jobs.
pub(super) fn walk(
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

/// Gives out what the headers of a job's packs say, padding left out. Zeros are not told from other data.
pub(super) fn each_io(
    logs: &[WlogFile],
    job: &Job,
    stats: &mut ConvertStats,
    mut take: impl FnMut(SurveyedIo) -> Result<(), ConvertWlogError>,
) -> Result<(), ConvertWlogError> {
    for pack in &job.packs {
        stats.packs += 1;
        for record in pack.header.records() {
            let kind = match record.kind {
                LogRecordKind::Padding => continue,
                LogRecordKind::Discard => RecordKind::Discard,
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
