//! Copies an image: by sharing its extents where the file system can (XFS, Btrfs), else data range by data range, so
//! that holes stay holes.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, copy_file_range, fstatvfs, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Copied between two looks at whether to stop.
const CHUNK: u64 = 16 << 20;
/// Buffer where the kernel cannot copy by itself.
const BUFFER: usize = 1 << 20;

/// The copy is not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("copy the base image at byte {position}: {act}")]
    Io {
        act: &'static str,
        position: u64,
        #[source]
        source: io::Error,
    },
    #[error("copy the base image: {needed} bytes needed, {free} free")]
    NoSpace { needed: u64, free: u64 },
    #[error("copying was stopped")]
    Stopped,
}

/// Bytes that take room in a file.
pub(super) fn allocated(file: &File) -> io::Result<u64> {
    let found = file.metadata()?;
    Ok((found.blocks() * 512).min(found.len()))
}

/// Makes `to`, an empty file, read as `from`. `progress` is told the bytes copied so far, and can stop it.
pub(super) fn copy(
    from: &File,
    to: &File,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), CopyError> {
    // Any refusal means "not here"; a real failure will show itself in the plain copy.
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    // One that cannot fit would fill the disk for hours, and every volume's diffs would be refused until it fails.
    if let (Ok(needed), Ok(found)) = (allocated(from), fstatvfs(to)) {
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < needed {
            return Err(CopyError::NoSpace { needed, free });
        }
    }
    copy_ranges(from, to, progress)
}

fn copy_ranges(
    from: &File,
    to: &File,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(), CopyError> {
    let io = |act, position| {
        move |source: io::Error| CopyError::Io {
            act,
            position,
            source,
        }
    };
    let length = from.metadata().map_err(io("look", 0))?.len();
    to.set_len(length).map_err(io("set the size", length))?;
    let (mut at, mut copied) = (0, 0);
    while at < length {
        // A range begins where data are, and ends at the next hole.
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(io("find data", at)(error.into())),
        };
        let end = seek(from, SeekFrom::Hole(start))
            .map_err(|e| io("find a hole", start)(e.into()))?
            .min(length);
        at = start;
        while at < end {
            let chunk = (end - at).min(CHUNK);
            copy_chunk(from, to, at, chunk).map_err(io("copy", at))?;
            at += chunk;
            copied += chunk;
            if progress(copied).is_break() {
                return Err(CopyError::Stopped);
            }
        }
    }
    Ok(())
}

fn copy_chunk(from: &File, to: &File, start: u64, length: u64) -> io::Result<()> {
    let mut at = start;
    let end = start + length;
    while at < end {
        let (mut source, mut target) = (at, at);
        let want = usize::try_from(end - at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            // Not between these files, or not here at all.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while at < end {
        let part = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        from.read_exact_at(&mut buffer[..part], at)?;
        to.write_all_at(&buffer[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse() -> (tempfile::TempDir, File, File) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(dir.path().join(name))
                .unwrap()
        };
        let from = open("from");
        from.set_len(64 << 20).unwrap();
        from.write_all_at(&[1; 5000], 8 << 20).unwrap();
        from.write_all_at(&vec![2; 40 << 20], 20 << 20).unwrap();
        let to = open("to");
        (dir, from, to)
    }

    #[test]
    fn a_copy_reads_the_same_and_keeps_the_holes() {
        let (dir, from, to) = sparse();
        let mut last = 0;
        copy_ranges(&from, &to, &mut |done| {
            assert!(done > last);
            last = done;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(
            std::fs::read(dir.path().join("from")).unwrap() == std::fs::read(dir.path().join("to")).unwrap()
        );
        assert!(allocated(&to).unwrap() < 48 << 20);
        copy_by_hand(&from, &to, 20 << 20, 30 << 20).unwrap();
    }

    #[test]
    fn a_copy_stops_between_chunks() {
        let (_dir, from, to) = sparse();
        assert!(matches!(
            copy_ranges(&from, &to, &mut |_| ControlFlow::Break(())),
            Err(CopyError::Stopped)
        ));
    }
}
