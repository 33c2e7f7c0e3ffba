//! The way from any error to the one a client is told.

use walb_common::daemon::occupancy::{Archive, NotNow, Occupancy};
pub(crate) use walb_common::disk::{At, FileError};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::Static;
use walb_common::types::VolumeName;

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
