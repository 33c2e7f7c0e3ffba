//! Where a volume's image is read from, and which parts of it hold data.

use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::format::read_at::ReadAt;

/// A volume image that can be read at any position. Positions and lengths in bytes.
pub trait ImageSource: ReadAt {
    /// Bytes of the image.
    fn size(&self) -> io::Result<u64>;

    /// The first range at or behind `position` that may hold anything but zeros; None if there is no more.
    fn data_from(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size()?;
        Ok((position < size).then_some(position..size))
    }
}

/// A regular file, whose holes are known, or a block device.
impl ImageSource for File {
    fn size(&self) -> io::Result<u64> {
        // Unlike the metadata's length this also tells a block device's size. The cursor is not used for anything.
        (&mut &*self).seek(io::SeekFrom::End(0))
    }

    fn data_from(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        let start = match seek(self, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Not told here: everything may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                let size = ImageSource::size(self)?;
                return Ok((position < size).then_some(position..size));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(start..seek(self, SeekFrom::Hole(start))?))
    }
}

impl<T: ImageSource + ?Sized> ImageSource for &T {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn data_from(&self, position: u64) -> io::Result<Option<Range<u64>>> {
        (**self).data_from(position)
    }
}

impl ImageSource for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ImageSource for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}
