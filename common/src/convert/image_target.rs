//! Where a volume's image is kept: what applying needs from it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A volume image that can be written at any position. Positions and lengths in bytes, whole logical blocks.
pub trait ImageTarget {
    /// Bytes of the image.
    fn size(&self) -> io::Result<u64>;
    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()>;
    /// Makes the range read as zeros.
    fn write_zeroes(&self, position: u64, length: u64) -> io::Result<()>;
    /// Gives the range back; what it reads as afterwards is up to the target. May do nothing.
    fn discard(&self, position: u64, length: u64) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A regular file (kept sparse) or a block device.
impl ImageTarget for File {
    fn size(&self) -> io::Result<u64> {
        // Unlike the metadata's length this also tells a block device's size. The cursor is not used for anything.
        (&mut &*self).seek(SeekFrom::End(0))
    }

    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(data, position)
    }

    fn write_zeroes(&self, position: u64, length: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 1 << 16];
        for flags in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            match fallocate(self, flags | FallocateFlags::KEEP_SIZE, position, length) {
                Ok(()) => return Ok(()),
                Err(e) if not_possible(e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut at = position;
        while at < position + length {
            let part = (position + length - at).min(ZEROS.len() as u64);
            self.write_all_at(&ZEROS[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    fn discard(&self, position: u64, length: u64) -> io::Result<()> {
        match fallocate(
            self,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            position,
            length,
        ) {
            Err(e) if !not_possible(e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl<T: ImageTarget + ?Sized> ImageTarget for &T {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn write_at(&self, data: &[u8], position: u64) -> io::Result<()> {
        (**self).write_at(data, position)
    }
    fn write_zeroes(&self, position: u64, length: u64) -> io::Result<()> {
        (**self).write_zeroes(position, length)
    }
    fn discard(&self, position: u64, length: u64) -> io::Result<()> {
        (**self).discard(position, length)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

/// The file system or device has no such operation, or not for this range.
fn not_possible(error: Errno) -> bool {
    matches!(
        error,
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV
    )
}
