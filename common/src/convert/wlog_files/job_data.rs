//! The data of some packs of a log, read once, in log order, and checked.

use std::fs::File;
use std::io;

use crate::convert::wlog_to_wdiff::is_zero;
use crate::format::checksum::{Salt, Summer};
use crate::format::log_device::{DataChecksumError, RecordKind as LogRecordKind};
use crate::format::read_at::ReadAt;
use crate::format::wlog::{FoundLogpack, ReadLogpackError, ReadWlogError};

/// Data read at once. Little enough that they are still in the core's own cache when they are summed and compressed.
const READ_BYTES: usize = 256 << 10;

/// Packs of one file that follow each other.
pub(super) struct Job {
    pub file: usize,
    pub salt: Salt,
    pub packs: Vec<FoundLogpack>,
    /// Bytes of log.
    pub bytes: u64,
}

/// What is reused from job to job.
#[derive(Default)]
pub(super) struct JobReader {
    window: Window,
    /// Data that did not fit the window.
    whole: Vec<u8>,
}

impl JobReader {
    /// Reads the data of a job's packs and sums them. Of every record with data `see` is told whether they are all zero and
    /// their checksum without salt, and is given them where `wanted` is true of its number among those records; else nothing.
    pub fn read(
        &mut self,
        file: &File,
        job: &Job,
        wanted: impl Fn(usize) -> bool,
        mut see: impl FnMut(bool, u32, &[u8]),
    ) -> Result<(), ReadWlogError> {
        let Self { window, whole } = self;
        // Another file may have come.
        window.held = 0;
        let mut number = 0;
        let limit = job
            .packs
            .last()
            .map_or(0, |p| p.data + p.header.data_bytes() as u64);
        for pack in &job.packs {
            let lsid = pack.header.lsid();
            let io = |source| ReadLogpackError::Io { lsid, source };
            for (index, record) in pack.header.records().iter().enumerate() {
                if record.kind != LogRecordKind::Normal {
                    continue;
                }
                let range = pack.header.data_range(record);
                let (start, length) = (pack.data + range.start as u64, range.len() as u64);
                let wanted = wanted(number);
                number += 1;
                let fits = length <= READ_BYTES as u64;
                let (mut sum, mut all_zero) = (Summer::new(job.salt), true);
                let mut done = 0;
                whole.clear();
                while done < length {
                    let bytes = window
                        .read(file, start + done, length - done, limit)
                        .map_err(io)?;
                    sum.add(bytes);
                    all_zero = all_zero && is_zero(bytes);
                    if wanted && !fits {
                        whole.extend_from_slice(bytes);
                    }
                    done += bytes.len() as u64;
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
                let data = match (wanted, fits) {
                    (false, _) => &[],
                    (true, false) => &whole[..],
                    // All of it is in the window, and nothing else was read since.
                    (true, true) => window.read(file, start, length, limit).map_err(io)?,
                };
                see(all_zero, found.wrapping_add(job.salt.0), data);
            }
        }
        // One exceptionally large record is no reason to keep as much for good.
        if whole.len() > READ_BYTES {
            *whole = Vec::new();
        }
        Ok(())
    }
}

/// A stretch of a file in memory.
#[derive(Default)]
struct Window {
    buf: Vec<u8>,
    start: u64,
    held: u64,
}

impl Window {
    /// The first of `wanted` bytes at `position`: all of them if they fit the window at all. Where they must be read, more
    /// are, but none at or behind `limit`.
    fn read(&mut self, file: &File, position: u64, wanted: u64, limit: u64) -> io::Result<&[u8]> {
        let wanted = wanted.min(READ_BYTES as u64);
        if position < self.start || position + wanted > self.start + self.held {
            self.buf.resize(READ_BYTES, 0);
            self.start = position;
            // Nothing is held should this fail.
            self.held = 0;
            let length = (limit - position).min(READ_BYTES as u64);
            file.read_exact_at(&mut self.buf[..length as usize], position)?;
            self.held = length;
        }
        let from = (position - self.start) as usize;
        Ok(&self.buf[from..from + wanted as usize])
    }
}
