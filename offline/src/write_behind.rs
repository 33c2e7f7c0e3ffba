//! A new file of which writing out begins while it is still being made, so that the sync at its end finds little left.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use tempfile::NamedTempFile;

/// Data worth a start of their own.
const STEP: u64 = 8 << 20;

/// The file, written from its start to its end.
#[derive(Debug)]
pub struct WriteBehind {
    file: NamedTempFile,
    position: u64,
    begun: u64,
}

impl WriteBehind {
    /// Nothing is written yet.
    pub fn new(file: NamedTempFile) -> Self {
        Self {
            file,
            position: 0,
            begun: 0,
        }
    }

    /// The file itself.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// The file under its temporary name.
    pub fn into_inner(self) -> NamedTempFile {
        self.file
    }
}

impl Write for WriteBehind {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        self.position += written as u64;
        if self.position - self.begun >= STEP {
            start_writeback(self.file.as_file(), self.begun, self.position - self.begun);
            self.begun = self.position;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Begins to write out what is in the page cache of a range, in bytes. A hint, whose failure means nothing: errors of the
/// medium are kept by the kernel for the next sync, and that alone says what is durable.
fn start_writeback(file: &File, position: u64, length: u64) {
    let (Ok(position), Ok(length)) = (i64::try_from(position), i64::try_from(length)) else {
        return;
    };
    // SAFETY: no memory is passed, and the descriptor is open as long as `file` is borrowed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), position, length, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_and_begun_up_to_less_than_a_step() {
        let mut file = WriteBehind::new(NamedTempFile::new().unwrap());
        let part: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for n in 1..=10 {
            file.write_all(&part).unwrap();
            assert_eq!(file.position, n * 3_000_000);
            assert!(file.begun <= file.position && file.position - file.begun < STEP);
        }
        assert!(file.begun > 0);
        let content = std::fs::read(file.into_inner().path()).unwrap();
        assert!(content == part.repeat(10));
    }
}
