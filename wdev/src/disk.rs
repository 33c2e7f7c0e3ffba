//! The two underlying disks: files or block devices. The only place of this crate that touches them.
//!
//! Writes go through the page cache or, after [`Disk::go_direct`], past it, and are made durable by [`Disk::sync`]; so what
//! was written survives the end of the process at any instant, and what was synced survives a power loss.
//!
//! ```text
//! Disk      what copes: short writes, interruptions, a failed sync stays failed
//! Medium    the calls, each of which may fail or do less: FileMedium, or what a test has
//!           one by one, or several at once: io_uring, or threads where there is none
//! ```

mod aligned;
mod file;
mod medium;
mod threads;
mod uring;
mod writeout;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FallocateFlags, FlockOperation, flock};
use walb_common::format::read_at::ReadAt;
use walb_common::types::PhysicalBlockSize;

use crate::config::IoEngine;
use file::{Engine, FileMedium};

pub(crate) use aligned::AlignedBuf;
pub(crate) use medium::{Medium, Read, Write};

/// Largest single write of zeros where neither a hole nor a zero range is possible.
const ZEROS: usize = 1 << 20;
/// Most slices in one gathered write (the kernel's limit is 1024).
const GATHER_MAX: usize = 512;

/// An open disk, locked against every other user that asks.
#[derive(Debug)]
pub struct Disk {
    medium: Box<dyn Medium>,
    path: Utf8PathBuf,
    size: AtomicU64,
    /// What the first failed sync said; see [`Disk::sync`].
    sync_failed: Mutex<Option<String>>,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// The system said no.
    #[error("open {path}")]
    Open {
        /// Which disk.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{path} is in use (a running walb-wdev, a mount, or the same path as log and data device)")]
    InUse {
        /// Which disk.
        path: Utf8PathBuf,
    },
    /// Neither a file nor a block device.
    #[error("{path} is neither a regular file nor a block device")]
    Kind {
        /// Which disk.
        path: Utf8PathBuf,
    },
    /// The configuration asks for what the system does not have.
    #[error("{path} is to be used through io-uring: {reason}")]
    NoIoUring {
        /// Which disk.
        path: Utf8PathBuf,
        /// Why there is none.
        reason: &'static str,
    },
}

impl Disk {
    /// Opens a disk for reading and writing and locks it: a file by `flock`, a block device by `O_EXCL`.
    pub fn open(path: &Utf8Path) -> Result<Self, OpenDiskError> {
        Self::open_with(path, IoEngine::Threads)
    }

    /// The same, with what is to do IO that can be done at once.
    pub fn open_with(path: &Utf8Path, io: IoEngine) -> Result<Self, OpenDiskError> {
        let engine = Engine::choose(io).map_err(|reason| OpenDiskError::NoIoUring {
            path: path.to_owned(),
            reason,
        })?;
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(16) => OpenDiskError::InUse {
                path: path.to_owned(),
            }, // EBUSY: O_EXCL on a block device in use
            _ => OpenDiskError::Open {
                path: path.to_owned(),
                source,
            },
        };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let is_block_device = kind.is_block_device();
        if !is_block_device && !kind.is_file() {
            return Err(OpenDiskError::Kind {
                path: path.to_owned(),
            });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if is_block_device {
            // Without O_CREAT this means: fail when mounted or claimed by anybody else.
            options.custom_flags(libc::O_EXCL);
        }
        let file = options.open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenDiskError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(e) => return Err(failed(e.into())),
        }
        Self::on(Box::new(FileMedium::new(file, engine)), path).map_err(failed)
    }

    /// A disk on any medium; `path` is what it is called.
    pub(crate) fn on(medium: Box<dyn Medium>, path: &Utf8Path) -> io::Result<Self> {
        let disk = Self {
            medium,
            path: path.to_owned(),
            size: AtomicU64::new(0),
            sync_failed: Mutex::default(),
        };
        disk.refresh_size()?;
        Ok(disk)
    }

    /// Opens a disk for reading only, in use or not.
    pub fn open_for_look(path: &Utf8Path) -> Result<Self, OpenDiskError> {
        let failed = |source| OpenDiskError::Open {
            path: path.to_owned(),
            source,
        };
        let file = FileMedium::new(File::open(path).map_err(failed)?, Engine::Threads);
        Self::on(Box::new(file), path).map_err(failed)
    }

    /// Lets others open the disk before this value goes away. A block device stays claimed until then.
    pub fn unlock(&self) {
        self.medium.unlock();
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Bytes, as of the opening or the last refresh.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Asks for the size again: the disk may have been grown.
    pub fn refresh_size(&self) -> io::Result<u64> {
        let size = self.medium.size()?;
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// A block device's physical block size (4096 for anything above); `None` for a file, which has none.
    pub fn physical_block_size(&self) -> io::Result<Option<PhysicalBlockSize>> {
        self.medium.physical_block_size()
    }

    /// Where the first data in `[from, to)` begin and end; `(to, to)` if it is all a hole. What cannot tell holes has data
    /// everywhere. In multiples of 512: a block with any data counts as data.
    pub fn next_data(&self, from: u64, to: u64) -> (u64, u64) {
        self.medium.next_data(from, to)
    }

    /// Fills `buffer` from `offset` on.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.read_exact_at(buffer, offset)
    }

    /// Writes all of `data` at `offset`.
    pub fn write(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match self.write_some(&[io::IoSlice::new(data)], offset)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => (data, offset) = (&data[written..], offset + written as u64),
            }
        }
        Ok(())
    }

    fn write_some(&self, pieces: &[io::IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Self::uninterrupted(|| self.medium.write_at(pieces, offset))
    }

    fn uninterrupted(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match write() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes the pieces one after another from `offset` on, in as few calls as the kernel takes.
    pub fn write_gathered(&self, pieces: &[Bytes], offset: u64) -> io::Result<()> {
        self.gather(pieces, offset, |slices, offset| {
            self.medium.write_at(slices, offset)
        })
    }

    /// The same through the page cache, also after [`Disk::go_direct`]. An error of the disk then shows at the next sync.
    pub fn write_gathered_cached(&self, pieces: &[Bytes], offset: u64) -> io::Result<()> {
        self.gather(pieces, offset, |slices, offset| {
            self.medium.write_cached_at(slices, offset)
        })
    }

    fn gather(
        &self,
        pieces: &[Bytes],
        mut offset: u64,
        write: impl Fn(&[io::IoSlice<'_>], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        for group in pieces.chunks(GATHER_MAX) {
            let slices: Vec<_> = group.iter().map(|p| io::IoSlice::new(p)).collect();
            let written = Self::uninterrupted(|| write(&slices, offset))?;
            self.write_rest(group, offset, written)?;
            offset += group.iter().map(|p| p.len() as u64).sum::<u64>();
        }
        Ok(())
    }

    /// A short write is rare (a signal, a full disk): the rest goes piece by piece, and meets its error there.
    fn write_rest(&self, pieces: &[Bytes], mut offset: u64, mut done: usize) -> io::Result<()> {
        for piece in pieces {
            let skip = done.min(piece.len());
            done -= skip;
            if skip < piece.len() {
                self.write(&piece[skip..], offset + skip as u64)?;
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// How many writes that lie apart it takes well at once; 1: no more than one.
    pub(crate) fn write_depth(&self) -> usize {
        self.medium.write_depth()
    }

    /// How many reads it takes well at once from one thread.
    pub(crate) fn read_depth(&self) -> usize {
        self.medium.read_depth()
    }

    /// What does IO that can be done at once, for the log.
    pub(crate) fn io(&self) -> &'static str {
        self.medium.io()
    }

    /// Reads and writes that `io_uring` did so far.
    pub fn rung(&self) -> u64 {
        self.medium.rung()
    }

    /// Does writes that do not overlap, in any order and perhaps at once. After an error any of them may have been done or not.
    pub(crate) fn write_many(&self, writes: Vec<Write>) -> io::Result<()> {
        let mut parts = Vec::with_capacity(writes.len());
        for Write {
            mut offset,
            mut pieces,
        } in writes
        {
            while pieces.len() > GATHER_MAX {
                let rest = pieces.split_off(GATHER_MAX);
                let part = Write { offset, pieces };
                offset += part.len() as u64;
                parts.push(part);
                pieces = rest;
            }
            parts.push(Write { offset, pieces });
        }
        for (write, result) in parts.iter().zip(self.medium.write_many(&parts)) {
            let done = match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                result => result?,
            };
            self.write_rest(&write.pieces, write.offset, done)?;
        }
        Ok(())
    }

    /// Does reads, perhaps at once, and gives each result with its index as soon as it is there.
    pub(crate) fn read_many(&self, reads: &[Read], done: &mut dyn FnMut(usize, io::Result<Bytes>)) {
        self.medium.read_many(reads, done);
    }

    /// Makes a range read as zeros; with `allocate` it keeps or gets its space, else it may become a hole.
    pub fn zero(&self, offset: u64, len: u64, allocate: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let flags = if allocate {
            FallocateFlags::ZERO_RANGE
        } else {
            FallocateFlags::PUNCH_HOLE
        };
        let flags = flags | FallocateFlags::KEEP_SIZE;
        if self.medium.fallocate(flags, offset, len).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; ZEROS];
        let mut at = offset;
        while at < offset + len {
            let here = (offset + len - at).min(ZEROS as u64);
            self.write(&zeros[..usize::try_from(here).unwrap_or(ZEROS)], at)?;
            at += here;
        }
        Ok(())
    }

    /// Gives a range back to the file system or the device, if that is possible.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.medium.fallocate(flags, offset, len)
    }

    /// Makes what is in the page cache durable and forgets it, so that what is read next is what the disk really has: after
    /// a failed sync in an earlier life the cache may hold more.
    pub fn sync_and_drop_cache(&self) -> io::Result<()> {
        self.sync()?;
        self.medium.forget_cache();
        Ok(())
    }

    /// Drops what is cached of a range and not dirty. Advice only.
    pub fn forget_cached(&self, offset: u64, len: u64) {
        self.medium.forget_cached(offset, len);
    }

    /// Makes everything durable, and from now on reads and writes past the page cache, in units of `unit` bytes. An error
    /// that is not of the sync: the disk cannot do that, and is used as before.
    pub fn go_direct(&self, unit: PhysicalBlockSize) -> io::Result<io::Result<()>> {
        self.sync()?;
        Ok(self.medium.go_direct(unit.bytes()))
    }

    /// Whether it is used past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.medium.is_direct()
    }

    /// Has the kernel begin to write out what is dirty in a range of the page cache. Advice: only [`Disk::sync`] makes it durable.
    pub(crate) fn begin_writeout(&self, range: &Range<u64>) -> io::Result<()> {
        self.medium.begin_writeout(range)
    }

    /// Waits for what was begun in a range. A write that was lost there counts as a failed sync: the system need not tell of it again.
    pub(crate) fn await_writeout(&self, range: &Range<u64>) -> io::Result<()> {
        self.medium.await_writeout(range).inspect_err(|error| {
            let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| error.to_string());
        })
    }

    /// Makes every write that returned before this call durable. After a failure every later call fails too.
    ///
    /// The system tells of a lost write once: of two syncs at the same time one fails and the other succeeds, and so does
    /// every later one. So they take turns, and none succeeds after one that failed.
    pub fn sync(&self) -> io::Result<()> {
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = &*failed {
            return Err(io::Error::other(format!("an earlier sync failed: {first}")));
        }
        self.medium
            .sync_data()
            .inspect_err(|error| *failed = Some(error.to_string()))
    }
}

/// A process that was forked meanwhile may have inherited the descriptor, and with it the lock.
impl Drop for Disk {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl ReadAt for Disk {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(buf, offset)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// A directory on the file system of the sources: a temporary one may be on one that takes no direct IO.
    pub fn direct_dir() -> tempfile::TempDir {
        let parent = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tmp");
        std::fs::create_dir_all(parent).unwrap();
        tempfile::tempdir_in(parent).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(len: u64) -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().join("disk")).unwrap();
        File::create(&path).unwrap().set_len(len).unwrap();
        let disk = Disk::open(&path).unwrap();
        (dir, disk)
    }

    #[test]
    fn a_disk_in_use_is_not_opened_again() {
        let (_dir, disk) = disk(4096);
        assert!(matches!(
            Disk::open(disk.path()),
            Err(OpenDiskError::InUse { .. })
        ));
    }

    #[test]
    fn after_a_failed_sync_none_succeeds() {
        let (_dir, mut disk) = disk(4096);
        disk.sync().unwrap();
        // A pipe cannot be synced: as good as a disk that lost a write. The system tells of it once.
        let (_reader, pipe) = std::io::pipe().unwrap();
        let pipe = FileMedium::new(File::from(std::os::fd::OwnedFd::from(pipe)), Engine::Threads);
        let good = std::mem::replace(&mut disk.medium, Box::new(pipe));
        disk.sync().unwrap_err();
        disk.medium = good;
        let error = disk.sync().unwrap_err();
        assert!(error.to_string().contains("an earlier sync failed"), "{error}");
    }

    #[test]
    fn gathered_writes_and_zeros_land_where_they_belong() {
        let (_dir, disk) = disk(1 << 16);
        let pieces: Vec<_> = (0..1100u16)
            .map(|n| Bytes::from(vec![n.to_le_bytes()[0]; 16]))
            .collect();
        disk.write_gathered(&pieces, 512).unwrap();
        disk.zero(512 + 16 * 10, 16 * 10, false).unwrap();
        let mut found = vec![0; 1100 * 16];
        disk.read(&mut found, 512).unwrap();
        for (n, piece) in found.chunks(16).enumerate() {
            let expected = if (10..20).contains(&n) {
                0
            } else {
                u16::try_from(n).unwrap().to_le_bytes()[0]
            };
            assert!(piece.iter().all(|&b| b == expected), "piece {n}");
        }
        assert_eq!(disk.refresh_size().unwrap(), 1 << 16);
    }
}
