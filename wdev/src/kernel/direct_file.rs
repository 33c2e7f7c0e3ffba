//! Reading beside the page cache. The driver writes its log device, and a file system its own blocks, past the pages that
//! other readers of the same node share: only a direct read sees what is there now.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};

use bytes::{Bytes, BytesMut};
use camino::Utf8Path;
use rustix::fs::SeekFrom;
use walb_common::format::read_at::ReadAt;

/// What positions, lengths and addresses of a direct read are multiples of: enough for every logical block size.
const ALIGNMENT: usize = 4096;
/// Largest single read.
const PIECE: usize = 1 << 20;

/// A device node (or, for images, a file), opened for reading.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    is_block_device: bool,
}

impl DirectFile {
    /// Opens for direct reads. A file of a file system that has none is read as it can be; a device never is.
    pub fn open(path: &Utf8Path) -> io::Result<Self> {
        let is_block_device = std::fs::metadata(path)?.file_type().is_block_device();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        let file = match options.open(path) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && !is_block_device => File::open(path)?,
            result => result?,
        };
        Ok(Self {
            file,
            is_block_device,
        })
    }

    /// Bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
    }

    /// A block device's physical block size, bytes; `None` for a file.
    pub fn physical_block_size(&self) -> io::Result<Option<u32>> {
        if !self.is_block_device {
            return Ok(None);
        }
        Ok(Some(rustix::fs::ioctl_blkpbszget(&self.file)?))
    }

    /// Makes everything written through the device durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads `length` bytes (bounded by the caller) from `offset` on.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed(length);
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.freeze())
    }
}

impl ReadAt for DirectFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut space = vec![0; buf.len().min(PIECE) + 3 * ALIGNMENT];
        let lead = space.as_ptr().align_offset(ALIGNMENT);
        let space = &mut space[lead..];
        let mut offset = offset;
        for piece in buf.chunks_mut(PIECE) {
            let begin = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
            let skip = usize::try_from(offset - begin).map_err(io::Error::other)?;
            let wanted = skip + piece.len();
            let window = &mut space[..wanted.next_multiple_of(ALIGNMENT)];
            let mut found = 0;
            while found < wanted {
                match self.file.read_at(&mut window[found..], begin + found as u64) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_a_file_of_any_size_is_read() {
        // In the source tree, not in a temporary directory: that may be a file system without direct reads.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(dir.path().join("image")).unwrap();
        let content: Vec<u8> = (0..(2 << 20) + 4096 + 512_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = DirectFile::open(&path).unwrap();
        assert_eq!(file.size().unwrap(), content.len() as u64);
        let end = content.len();
        for (from, to) in [
            (0, 512),
            (4608, 5120),
            (512, (2 << 20) + 1024),
            (end - 512, end),
            (7, 7),
            (3, 4099),
        ] {
            assert_eq!(
                file.read(from as u64, to - from).unwrap(),
                content[from..to],
                "{from}..{to}"
            );
        }
        let beyond = file.read(end as u64 - 512, 1024).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
