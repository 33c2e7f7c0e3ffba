//! A file or block device as a medium: through the page cache, or past it.
//!
//! Past it means every read and write: no copy is kept that could be stale. The exceptions are what direct IO cannot do
//! (a write of half a block of the device), and what is asked to go through the page cache; the kernel keeps both in step: a
//! direct write first writes out what is dirty in its range and drops it afterwards, a direct read writes it out. Syncs are always
//! asked of the same descriptor, since the kernel tells each descriptor once of a write that was lost.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, SeekFrom, StatxFlags, fallocate, flock, statx};
use walb_common::types::{LB_SIZE, PhysicalBlockSize};

use super::aligned::{ALIGNMENT, AlignedBuf};
use super::medium::{Medium, Read, Write};
use super::threads;
use super::uring::{self, Job, Payload};
use super::writeout;
use crate::config::IoEngine;

/// Largest single direct read: others get in between, and a device that also serves guests hardly notices.
const READ_PIECE: usize = 256 << 10;
/// Alignment of the copies of what is not aligned itself: enough for every device.
const COPY_ALIGNMENT: usize = 4096;
/// Writes or reads that are under way at once.
const DEPTH: usize = 32;

/// Which calls do IO that is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// `io_uring`.
    IoUring,
    /// Plain calls on several threads.
    Threads,
}

impl Engine {
    /// What was asked for, or what this system has; an error if it lacks what was asked for.
    pub fn choose(asked: IoEngine) -> Result<Self, &'static str> {
        match asked {
            IoEngine::Threads => Ok(Self::Threads),
            IoEngine::IoUring => uring::availability().map(|()| Self::IoUring),
            IoEngine::Auto => Ok(match uring::availability() {
                Ok(()) => Self::IoUring,
                Err(reason) => {
                    tracing::info!("threads do IO that can be done at once: {reason}");
                    Self::Threads
                }
            }),
        }
    }

    /// As the configuration names it.
    fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Threads => "threads",
        }
    }
}

/// An open file or block device.
#[derive(Debug)]
pub(super) struct FileMedium {
    /// Through the page cache. Holds the lock, and is the one that is synced.
    file: File,
    direct: OnceLock<Direct>,
    engine: Engine,
    refused: AtomicBool,
    /// Reads and writes that `io_uring` did.
    rung: AtomicU64,
    /// See [`writeout`]; none where it cannot be opened again.
    writeout: OnceLock<Option<File>>,
}

#[derive(Debug)]
struct Direct {
    file: File,
    /// Positions and lengths are multiples of this; a power of two of at most 4096.
    unit: usize,
    /// Addresses are multiples of this; the same.
    memory: usize,
}

impl Direct {
    fn takes_range(&self, offset: u64, len: usize) -> bool {
        offset.is_multiple_of(self.unit as u64) && len.is_multiple_of(self.unit)
    }

    fn takes_memory(&self, piece: &[u8]) -> bool {
        piece.as_ptr().addr().is_multiple_of(self.memory) && piece.len().is_multiple_of(self.unit)
    }
}

/// Whether a job has to be done by a plain call: it did not reach the kernel, was given up before it began, or is of a kind
/// that only a plain call knows how to help.
fn not_begun(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        None | Some(libc::EAGAIN | libc::EINTR | libc::EINVAL | libc::ECANCELED)
    )
}

/// Opens the same file past the page cache, if it takes blocks of `unit` bytes there.
fn open_direct(file: &File, unit: usize) -> io::Result<Direct> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let unsupported = |found: u32| {
        let what = format!("direct IO in units of {found} bytes, expected at most {unit}");
        io::Error::new(io::ErrorKind::Unsupported, what)
    };
    let known = statx(&direct, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    if StatxFlags::from_bits_retain(known.stx_mask).contains(StatxFlags::DIOALIGN) {
        let (block, memory) = (known.stx_dio_offset_align, known.stx_dio_mem_align);
        let fits = |n: u32| n.is_power_of_two() && n <= 4096;
        if !fits(block) || !fits(memory) || block as usize > unit {
            return Err(unsupported(block));
        }
        let (unit, memory) = (block as usize, memory as usize);
        return Ok(Direct {
            file: direct,
            unit,
            memory,
        });
    }
    // An older kernel, or a file system that does not say: a trial. What it accepts for a read it accepts for a write.
    let memory = ALIGNMENT;
    let mut block = AlignedBuf::zeroed(unit);
    direct.read_at(&mut block, unit as u64)?;
    Ok(Direct {
        file: direct,
        unit,
        memory,
    })
}

/// A copy at an address that every device takes.
struct Aligned4096 {
    space: Vec<u8>,
    lead: usize,
    len: usize,
}

impl Aligned4096 {
    fn zeroed(len: usize) -> Self {
        let space = vec![0; len + COPY_ALIGNMENT];
        let lead = space.as_ptr().align_offset(COPY_ALIGNMENT);
        Self { space, lead, len }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.lead..][..self.len]
    }
}

impl FileMedium {
    pub fn new(file: File, engine: Engine) -> Self {
        Self {
            file,
            direct: OnceLock::new(),
            engine,
            refused: AtomicBool::new(false),
            rung: AtomicU64::new(0),
            writeout: OnceLock::new(),
        }
    }

    /// The way past the page cache for a range, if there is one.
    fn direct_for(&self, offset: u64, len: usize) -> Option<&Direct> {
        self.direct.get().filter(|d| d.takes_range(offset, len))
    }

    /// The descriptor for writing out, opened at its first use.
    fn writeout(&self) -> Option<&File> {
        let open = || File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok();
        self.writeout.get_or_init(open).as_ref()
    }

    fn count(&self, rung: usize) {
        self.rung.fetch_add(rung as u64, Ordering::Relaxed);
    }

    fn write_direct(&self, direct: &Direct, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let written = if pieces.iter().all(|p| direct.takes_memory(p)) {
            rustix::io::pwritev(&direct.file, pieces, offset)
        } else {
            let mut copy = Aligned4096::zeroed(pieces.iter().map(|p| p.len()).sum());
            let mut rest = copy.bytes_mut();
            for piece in pieces {
                let (here, behind) = rest.split_at_mut(piece.len());
                here.copy_from_slice(piece);
                rest = behind;
            }
            rustix::io::pwrite(&direct.file, copy.bytes_mut(), offset)
        };
        match written {
            // Some file systems find out only now, or only for some ranges.
            Err(rustix::io::Errno::INVAL) => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        offset,
                        "a direct write was refused: such writes go through the page cache"
                    );
                }
                Ok(rustix::io::pwritev(&self.file, pieces, offset)?)
            }
            result => Ok(result?),
        }
    }

    /// Reads with a window around what is asked, in units that the device takes.
    fn read_direct(direct: &Direct, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        if direct.takes_range(offset, buffer.len()) && direct.takes_memory(buffer) {
            for piece in buffer.chunks_mut(READ_PIECE) {
                direct.file.read_exact_at(piece, offset)?;
                offset += piece.len() as u64;
            }
            return Ok(());
        }
        let mut copy = Aligned4096::zeroed(buffer.len().min(READ_PIECE) + 2 * direct.unit);
        for piece in buffer.chunks_mut(READ_PIECE) {
            let begin = offset / direct.unit as u64 * direct.unit as u64;
            let skip = usize::try_from(offset - begin).map_err(io::Error::other)?;
            let wanted = skip + piece.len();
            let window = &mut copy.bytes_mut()[..wanted.next_multiple_of(direct.unit)];
            let mut found = 0;
            while found < wanted {
                match direct.file.read_at(&mut window[found..], begin + found as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => found += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            piece.copy_from_slice(&window[skip..wanted]);
            offset += piece.len() as u64;
        }
        Ok(())
    }
}

impl Medium for FileMedium {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.direct.get() {
            Some(direct) => Self::read_direct(direct, buffer, offset),
            None => self.file.read_exact_at(buffer, offset),
        }
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        match self.direct_for(offset, pieces.iter().map(|p| p.len()).sum()) {
            Some(direct) => self.write_direct(direct, pieces, offset),
            None => Ok(rustix::io::pwritev(&self.file, pieces, offset)?),
        }
    }

    fn write_cached_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.file, pieces, offset)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
    }

    fn forget_cache(&self) {
        // Where the advice is not taken, nothing worse than before happens.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        // No length would mean: up to the end.
        if let Some(len) = std::num::NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(len), rustix::fs::Advice::DontNeed);
        }
    }

    fn go_direct(&self, unit: usize) -> io::Result<()> {
        let direct = open_direct(&self.file, unit)?;
        // What is clean in the cache is of no use any more.
        self.forget_cache();
        // Set before by somebody else: the same.
        let _ = self.direct.set(direct);
        Ok(())
    }

    fn is_direct(&self) -> bool {
        self.direct.get().is_some()
    }

    fn begin_writeout(&self, range: &Range<u64>) -> io::Result<()> {
        writeout::call(self.writeout(), range, writeout::Step::Begin)
    }

    fn await_writeout(&self, range: &Range<u64>) -> io::Result<()> {
        writeout::call(self.writeout(), range, writeout::Step::Await)
    }

    fn write_depth(&self) -> usize {
        // The page cache takes one write after the other as quickly as many at once.
        if self.direct.get().is_some() { DEPTH } else { 1 }
    }

    fn read_depth(&self) -> usize {
        match self.engine {
            Engine::IoUring => DEPTH,
            // Each reading thread does one.
            Engine::Threads => 1,
        }
    }

    fn write_many(&self, writes: &[Write]) -> Vec<io::Result<usize>> {
        let one = |write: &Write| self.write_at(&write.slices(), write.offset);
        if writes.len() < 2 || self.direct.get().is_none() {
            return writes.iter().map(one).collect();
        }
        if self.engine == Engine::Threads {
            return threads::map(writes, one);
        }
        // What cannot go as it is, and what did not get as far as the kernel, goes by a plain call.
        let mut results: Vec<Option<io::Result<usize>>> = writes.iter().map(|_| None).collect();
        let jobs = writes.iter().enumerate().filter_map(|(index, write)| {
            let direct = self.direct_for(write.offset, write.len())?;
            let pieces = write.slices();
            let fits = pieces.iter().all(|p| direct.takes_memory(p));
            fits.then(|| Job {
                index,
                fd: direct.file.as_raw_fd(),
                offset: write.offset,
                payload: Payload::Write(pieces),
            })
        });
        uring::run(jobs, |job, result| {
            results[job.index] = Some(result).filter(|r| !r.as_ref().is_err_and(not_begun));
        });
        self.count(results.iter().flatten().count());
        let plain = |(write, result): (&Write, Option<_>)| result.unwrap_or_else(|| one(write));
        writes.iter().zip(results).map(plain).collect()
    }

    fn read_many(&self, reads: &[Read], done: &mut dyn FnMut(usize, io::Result<Bytes>)) {
        // The rest of a short read, or all of one that could not be done at once.
        let finish = |index: usize, mut buffer: AlignedBuf, have: usize| {
            let rest = reads[index].offset + have as u64;
            self.read_exact_at(&mut buffer[have..], rest)
                .map(|()| buffer.freeze())
        };
        let buffers = reads.iter().map(|r| AlignedBuf::zeroed(r.len));
        if reads.len() < 2 || self.engine == Engine::Threads {
            for (index, buffer) in buffers.enumerate() {
                done(index, finish(index, buffer, 0));
            }
            return;
        }
        let (mut jobs, mut others) = (Vec::with_capacity(reads.len()), Vec::new());
        for ((index, read), buffer) in reads.iter().enumerate().zip(buffers) {
            let file = match self.direct.get() {
                Some(d) if d.takes_range(read.offset, read.len) && d.takes_memory(&buffer) => &d.file,
                Some(_) => {
                    others.push((index, buffer));
                    continue;
                }
                None => &self.file,
            };
            jobs.push(Job {
                index,
                fd: file.as_raw_fd(),
                offset: read.offset,
                payload: Payload::Read(buffer),
            });
        }
        uring::run(jobs, |job, result| {
            let Payload::Read(buffer) = job.payload else {
                return;
            };
            match result {
                Ok(have) if have == buffer.len() => {
                    self.count(1);
                    done(job.index, Ok(buffer.freeze()));
                }
                Err(error) if !not_begun(&error) => done(job.index, Err(error)),
                short => done(job.index, finish(job.index, buffer, short.unwrap_or(0))),
            }
        });
        for (index, buffer) in others {
            done(index, finish(index, buffer, 0));
        }
    }

    fn io(&self) -> &'static str {
        self.engine.name()
    }

    fn rung(&self) -> u64 {
        self.rung.load(Ordering::Relaxed)
    }

    fn physical_block_size(&self) -> io::Result<Option<PhysicalBlockSize>> {
        if !self.file.metadata()?.file_type().is_block_device() {
            return Ok(None);
        }
        let pbs = rustix::fs::ioctl_blkpbszget(&self.file)?;
        Ok(Some(if u64::from(pbs) <= LB_SIZE {
            PhysicalBlockSize::B512
        } else {
            PhysicalBlockSize::B4096
        }))
    }

    fn next_data(&self, from: u64, to: u64) -> (u64, u64) {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(data) => (data / LB_SIZE * LB_SIZE).clamp(from, to),
            Err(rustix::io::Errno::NXIO) => to, // nothing but a hole up to the end
            Err(_) => from,
        };
        let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(data)) {
            Ok(end) if end > data => end.next_multiple_of(LB_SIZE).min(to),
            _ => to,
        };
        (data, end)
    }

    fn unlock(&self) {
        // Fails only for a descriptor that is no file.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests;
