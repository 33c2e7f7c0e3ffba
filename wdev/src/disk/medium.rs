//! What a disk is made of: the calls to the system, each of which may fail or do less than it was asked. Everything that
//! copes with that is above it, so that tests can put a medium there that loses power or fails.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use walb_common::types::PhysicalBlockSize;

/// One write among several.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    /// First byte.
    pub offset: u64,
    /// Written one after another.
    pub pieces: Vec<Bytes>,
}

impl Write {
    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Its bytes on the disk.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len() as u64
    }

    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces.iter().map(|p| IoSlice::new(p)).collect()
    }
}

/// One read among several.
#[derive(Debug)]
pub(crate) struct Read {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// A file, a block device, or what a test has in their place.
pub(crate) trait Medium: fmt::Debug + Send + Sync {
    /// Fills `buffer` from `offset` on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the pieces one after another from `offset` on, or a part of them. Answers how many bytes.
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// The same through the page cache, also after [`Medium::go_direct`].
    fn write_cached_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.write_at(pieces, offset)
    }

    /// Makes every write that returned before durable. Tells of a lost write once.
    fn sync_data(&self) -> io::Result<()>;

    /// Zeros or gives back a range, if it can.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()>;

    /// Present size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Drops what is cached and not dirty. Advice only.
    fn forget_cache(&self);

    /// The same for a range.
    fn forget_cached(&self, _offset: u64, _len: u64) {}

    /// From now on past the page cache, in units of `unit` bytes; an error if that cannot be. Everything written before must
    /// have been synced.
    fn go_direct(&self, _unit: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether it is used past the page cache.
    fn is_direct(&self) -> bool {
        false
    }

    /// Begins to write out what is dirty in a range, where there is a page cache.
    fn begin_writeout(&self, _range: &Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// Waits for what was begun; an error if any of it was lost.
    fn await_writeout(&self, _range: &Range<u64>) -> io::Result<()> {
        Ok(())
    }

    /// How many writes that lie apart it takes well at once.
    fn write_depth(&self) -> usize {
        1
    }

    /// How many reads it takes well at once from one thread.
    fn read_depth(&self) -> usize {
        1
    }

    /// Does writes that do not overlap, in any order; each may fail or do less than it was asked, as with `write_at`.
    fn write_many(&self, writes: &[Write]) -> Vec<io::Result<usize>> {
        let one = |write: &Write| self.write_at(&write.slices(), write.offset);
        writes.iter().map(one).collect()
    }

    /// Does reads, and gives each result with its index as soon as it is there.
    fn read_many(&self, reads: &[Read], done: &mut dyn FnMut(usize, io::Result<Bytes>)) {
        for (index, read) in reads.iter().enumerate() {
            let mut buffer = super::AlignedBuf::zeroed(read.len);
            let result = self.read_exact_at(&mut buffer, read.offset);
            done(index, result.map(|()| buffer.freeze()));
        }
    }

    /// What does IO that can be done at once.
    fn io(&self) -> &'static str {
        "one by one"
    }

    /// Reads and writes that `io_uring` did so far.
    fn rung(&self) -> u64 {
        0
    }

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
