//! One daemon per data directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// An exclusive lock, held until dropped; the kernel releases it when the process dies.
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks `path`, which is created if needed.
    pub fn take(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => io::Error::new(
                io::ErrorKind::WouldBlock,
                "another daemon uses this data directory",
            ),
            other => other.into(),
        })?;
        Ok(Self { _file: file })
    }
}
