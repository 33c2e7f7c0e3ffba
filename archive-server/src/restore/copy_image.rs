//! What a restored image takes of its base before any diff: shared extents where the file system can, else room.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{fstatvfs, ioctl_ficlone};
use walb_common::rest::{ApiError, ErrorCode};

/// Bytes that take room in a file.
pub(super) fn allocated(file: &File) -> io::Result<u64> {
    let found = file.metadata()?;
    Ok((found.blocks() * 512).min(found.len()))
}

/// Makes `to`, an empty file, read as `from` by sharing its extents. Any refusal means "not here".
pub(super) fn share(from: &File, to: &File) -> bool {
    ioctl_ficlone(to, from).is_ok()
}

/// Refuses what cannot fit: it would fill the disk for hours, and every volume's diffs would be refused until it fails.
pub(super) fn check_room(needed: u64, to: &File) -> Result<(), ApiError> {
    let Ok(found) = fstatvfs(to) else {
        return Ok(());
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < needed {
        let message = format!("copy the base image: {needed} bytes needed, {free} free");
        return Err(ApiError::new(ErrorCode::NoSpace, message).hint("del-restored removes restored images"));
    }
    Ok(())
}
