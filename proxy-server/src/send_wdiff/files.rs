//! Opening, removing and setting aside the files of a send list, under the volume lock.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use walb_common::daemon::chain;
use walb_common::disk::{fault, sync_dir};
use walb_common::format::wdiff::{ReadWdiffError, WdiffFileError};
use walb_common::rest::ApiError;

use crate::volume::Volume;
use crate::volume::destination::Destination;
use crate::volume::directory::{FileError, at, set_aside};
use crate::volume::waiting::WaitingDiff;

/// Not all files could be opened.
pub(super) enum OpenFailed {
    /// This one is not there.
    Missing(WaitingDiff),
    /// The machine does not let us.
    Io(FileError),
}

/// Runs file work of a volume off the async threads, alone.
async fn alone<T, F>(volume: &Arc<Volume>, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let lock = volume.files.clone().lock_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(lock);
        result
    });
    done.await.map_err(|e| ApiError::internal(&e))
}

/// Opens every file of the list.
pub(super) async fn open_all(
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
    list: &[WaitingDiff],
) -> Result<Result<Vec<(String, File)>, OpenFailed>, ApiError> {
    let (dir, list) = (archive.dir.clone(), list.to_vec());
    alone(volume, move || {
        let mut files = Vec::with_capacity(list.len());
        for waiting in list {
            let name = waiting.diff.file_name();
            let path = dir.join(&name);
            match File::open(&path) {
                Ok(file) => files.push((name, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(OpenFailed::Missing(waiting));
                }
                Err(error) => return Err(OpenFailed::Io(at("open", &path)(error))),
            }
        }
        Ok(files)
    })
    .await
}

/// Removes what the archive has, or does not want: the files, durably, then the registrations.
pub(super) async fn remove_sent(
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
    list: Vec<WaitingDiff>,
) -> Result<(), ApiError> {
    let archive = archive.clone();
    let removed = alone(volume, move || {
        // The archive has acknowledged them durably. A crash from here on only leads to another offer, too old by then.
        fault::point("proxy.sent.remove").map_err(at("remove from", &archive.dir))?;
        // What came again meanwhile has another registration and stays.
        for waiting in list.iter().filter(|w| archive.with_waiting(|all| all.has(w))) {
            let path = archive.dir.join(waiting.diff.file_name());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at("remove", &path)(error));
                }
                _ => archive.forget(waiting),
            }
        }
        fault::point("proxy.sent.removed").map_err(at("sync", &archive.dir))?;
        sync_dir(&archive.dir).map_err(at("sync", &archive.dir))
    });
    removed.await?.map_err(|e| ApiError::internal(&e))
}

/// Sets aside the file that `error` is about.
pub(super) async fn set_aside_damaged(
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
    list: &[WaitingDiff],
    error: &WdiffFileError,
) -> Result<(), ApiError> {
    let Some(damaged) = list.iter().find(|w| w.diff.file_name() == error.name).copied() else {
        return Err(ApiError::internal(error));
    };
    if is_passing(&error.source) {
        return Err(ApiError::internal(error));
    }
    let (archive, reason) = (archive.clone(), chain(error));
    let done = alone(volume, move || {
        if archive.with_waiting(|all| all.has(&damaged)) {
            let bad = set_aside(&archive.dir.join(damaged.diff.file_name()), &reason)?;
            archive.forget_bad(&damaged, bad);
        }
        Ok(())
    });
    done.await?.map_err(|e: FileError| ApiError::internal(&e))
}

/// Whether the machine, not the file, is the trouble, and may be over soon.
fn is_passing(error: &ReadWdiffError) -> bool {
    let ReadWdiffError::Io { source, .. } = error else {
        return false;
    };
    let passing = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::INTR,
        Errno::AGAIN,
    ];
    source
        .raw_os_error()
        .is_some_and(|errno| passing.iter().any(|e| e.raw_os_error() == errno))
}
