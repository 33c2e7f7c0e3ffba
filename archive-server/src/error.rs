//! Errors on files, and the way from any error to the one a client is told.

use std::io;
use std::path::{Path, PathBuf};

use walb_common::daemon::occupancy::{Archive, NotNow, Occupancy};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::Static;
use walb_common::types::VolumeName;

/// A file or directory could not be dealt with.
#[derive(Debug, thiserror::Error)]
#[error("{act} {path}")]
pub(crate) struct FileError {
    /// What was tried.
    pub act: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Names act and path of an IO error.
pub(crate) trait At<T> {
    fn at(self, act: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, act: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            act,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        Self::internal(&error)
    }
}

/// A refusal of the state tables, with the volume named; for an unknown one the hint that there is none.
pub(crate) fn not_now(volume: &VolumeName, occupancy: &Occupancy<Archive>, error: NotNow) -> ApiError {
    let error = match error {
        NotNow::AlreadyStopping => ApiError::new(ErrorCode::Busy, format!("already under stopping:{volume}")),
        other => ApiError::from(other),
    };
    let error = error.volume(volume);
    if occupancy.state() == Static::Clear.into() {
        error.hint(format!("no volume {volume} here"))
    } else {
        error
    }
}

/// Runs blocking file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        ApiError::new(
            ErrorCode::Internal,
            format!("a task that works on files ended: {e}"),
        )
    })
}
