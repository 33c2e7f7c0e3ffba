//! Having the kernel write out dirty pages of a range, sync_file_range(2).
//!
//! Of each write that was lost the kernel tells every open description of the file once. Waiting here would use that up for
//! the sync of the same description; so this has one of its own, and a sync finds out all the same.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// What is to be done with a range.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Begin to write out what is dirty.
    Begin,
    /// Wait for what is being written out.
    Await,
}

/// Does one step. Where the system cannot do that, nothing happens.
pub(super) fn call(file: Option<&File>, range: &Range<u64>, step: Step) -> io::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let flags = match step {
        Step::Begin => libc::SYNC_FILE_RANGE_WRITE,
        Step::Await => libc::SYNC_FILE_RANGE_WAIT_BEFORE,
    };
    let (offset, len) = (
        i64::try_from(range.start).map_err(io::Error::other)?,
        i64::try_from(range.end - range.start).map_err(io::Error::other)?,
    );
    loop {
        // SAFETY: takes a descriptor, which `file` keeps open, and numbers.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE | libc::EPERM | libc::ENOMEM) => return Ok(()),
            _ => return Err(error),
        }
    }
}
