//! What a disk is made of: the calls to the system, each of which may fail or do less than it was asked. Everything that
//! copes with that is above it, so that tests can put a medium there that loses power or fails.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock};
use walb_common::types::{LB_SIZE, PhysicalBlockSize};

/// A file, a block device, or what a test has in their place.
pub(crate) trait Medium: fmt::Debug + Send + Sync {
    /// Fills `buffer` from `offset` on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the pieces one after another from `offset` on, or a part of them. Answers how many bytes.
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes every write that returned before durable. Tells of a lost write once.
    fn sync_data(&self) -> io::Result<()>;

    /// Zeros or gives back a range, if it can.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()>;

    /// Present size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Drops what is cached and not dirty. Advice only.
    fn forget_cache(&self);

    /// A block device's physical block size (4096 for anything above); `None` if it has none.
    fn physical_block_size(&self) -> io::Result<Option<PhysicalBlockSize>> {
        Ok(None)
    }

    /// Where the first data in `[from, to)` begin and end; `(to, to)` if it is all a hole.
    fn next_data(&self, from: u64, to: u64) -> (u64, u64) {
        (from, to)
    }

    /// Lets others open it.
    fn unlock(&self) {}
}

impl Medium for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, pieces, offset)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(self, flags, offset, len)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(self, SeekFrom::End(0))?)
    }

    fn forget_cache(&self) {
        // Where the advice is not taken, nothing worse than before happens.
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn physical_block_size(&self) -> io::Result<Option<PhysicalBlockSize>> {
        if !self.metadata()?.file_type().is_block_device() {
            return Ok(None);
        }
        let pbs = rustix::fs::ioctl_blkpbszget(self)?;
        Ok(Some(if u64::from(pbs) <= LB_SIZE {
            PhysicalBlockSize::B512
        } else {
            PhysicalBlockSize::B4096
        }))
    }

    fn next_data(&self, from: u64, to: u64) -> (u64, u64) {
        let data = match rustix::fs::seek(self, SeekFrom::Data(from)) {
            Ok(data) => (data / LB_SIZE * LB_SIZE).clamp(from, to),
            Err(rustix::io::Errno::NXIO) => to, // nothing but a hole up to the end
            Err(_) => from,
        };
        let end = match rustix::fs::seek(self, SeekFrom::Hole(data)) {
            Ok(end) if end > data => end.next_multiple_of(LB_SIZE).min(to),
            _ => to,
        };
        (data, end)
    }

    fn unlock(&self) {
        // Fails only for a descriptor that is no file.
        let _ = flock(self, FlockOperation::Unlock);
    }
}
