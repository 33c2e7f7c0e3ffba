//! init, clear, reset, start, stop.

use std::sync::Arc;
use std::time::Duration;

use walb_common::daemon::jobs::JobContext;
use walb_common::disk::fault;
use walb_common::rest::{ApiError, ErrorCode, StopMode};
use walb_common::state::archive::{Command, Static, find_move};

use super::{Held, Volume, VolumeDir};
use crate::ArchiveServer;
use crate::error::{At, FileError, blocking, not_now};

/// Makes a volume known. Directory first, row second.
pub(crate) async fn init(server: &ArchiveServer, volume: &Arc<Volume>) -> Result<(), ApiError> {
    let work = volume
        .occupancy
        .begin(Command::InitVol)
        .map_err(|e| not_now(&volume.name, &volume.occupancy, e))?;
    let (of, images) = (volume.clone(), server.clone());
    let made = blocking(move || {
        // A clear whose removals failed: what it left must not become the new volume's.
        if let Some(gone) = of.dir.cleared() {
            images.images().remove_all(&of.name)?;
            VolumeDir::end_clear(&gone)?;
        }
        of.dir.create()
    });
    made.await?.map_err(|error| {
        let taken = error.source.kind() == std::io::ErrorKind::AlreadyExists;
        let api = ApiError::from(error).volume(&volume.name);
        if taken {
            ApiError {
                code: ErrorCode::AlreadyExists,
                ..api
            }
        } else {
            api
        }
    })?;
    server
        .metadata()
        .set_state_logged(&volume.name, work.target())
        .await;
    *volume.held() = Held::default();
    work.commit();
    tracing::info!(volume = %volume.name, "initialised");
    Ok(())
}

/// Forgets a volume with all its data. Rows first; then the directory's name, after which a restart finishes the rest.
pub(crate) async fn clear(server: &ArchiveServer, volume: &Arc<Volume>) -> Result<(), ApiError> {
    let work = volume
        .occupancy
        .begin(Command::ClearVol)
        .map_err(|e| not_now(&volume.name, &volume.occupancy, e))?;
    server
        .metadata()
        .remove_volume(&volume.name)
        .await
        .map_err(|e| ApiError::internal(&e))?;
    let (server, of) = (server.clone(), volume.clone());
    let removed = blocking(move || {
        let gone = of.dir.begin_clear()?;
        let rest = server
            .images()
            .remove_all(&of.name)
            .and_then(|()| VolumeDir::end_clear(&gone));
        if let Err(error) = rest {
            // It is cleared; the space comes back at the next start at the latest.
            let error = walb_common::daemon::chain(&error);
            tracing::error!(volume = %of.name, %error, "cleared, but not everything could be removed");
        }
        Ok::<_, FileError>(())
    });
    removed.await??;
    *volume.held() = Held::default();
    work.commit();
    tracing::info!(volume = %volume.name, "cleared");
    Ok(())
}

/// Gives up a volume's data, keeps it known. The state is stored first: from then on nothing left over is believed.
pub(crate) async fn reset(server: &ArchiveServer, volume: &Arc<Volume>) -> Result<(), ApiError> {
    let work = volume
        .occupancy
        .begin(Command::ResetVol)
        .map_err(|e| not_now(&volume.name, &volume.occupancy, e))?;
    let dir = volume.dir.clone();
    blocking(move || dir.store_state(Static::SyncReady)).await??;
    let (of, images) = (volume.clone(), server.clone());
    let emptied = blocking(move || {
        fault::point("archive.reset.state_stored").at("reset", of.dir.path())?;
        of.dir.remove_data()?;
        images.images().remove_all(&of.name)
    });
    if let Err(error) = emptied.await? {
        let error = ApiError::from(error).volume(&volume.name);
        volume.held().failed = Some(format!("a reset did not end: {}", error.message));
        return Err(error);
    }
    server.metadata().reset_logged(&volume.name).await;
    *volume.held() = Held::default();
    work.commit();
    tracing::info!(volume = %volume.name, "reset");
    Ok(())
}

/// Takes diffs again.
pub(crate) async fn start(server: &ArchiveServer, volume: &Arc<Volume>) -> Result<(), ApiError> {
    volume.usable()?;
    let work = volume
        .occupancy
        .begin(Command::Start)
        .map_err(|e| not_now(&volume.name, &volume.occupancy, e))?;
    store(server, volume, work.target()).await?;
    work.commit();
    tracing::info!(volume = %volume.name, "started");
    Ok(())
}

/// A graceful stop waits for what runs, however long a backup takes; a cancelled job, or a second signal, ends the wait.
const STOP_PATIENCE: Duration = Duration::from_secs(7 * 86400);

/// Accepts a stop and answers with its job, which waits until nothing runs and then takes nothing more.
pub(crate) async fn stop(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    mode: StopMode,
) -> Result<u64, ApiError> {
    if mode == StopMode::Empty {
        let error = ApiError::new(ErrorCode::BadRequest, "stop empty is not allowed.");
        return Err(error
            .volume(&volume.name)
            .hint("use graceful or force; empty is for proxies"));
    }
    if !volume.is_known() {
        let refused = volume.occupancy.begin(Command::Stop).err();
        return Err(refused.map_or_else(
            || ApiError::new(ErrorCode::WrongState, "bad state:Clear, expected Archived"),
            |e| not_now(&volume.name, &volume.occupancy, e),
        ));
    }
    let refused = |e| not_now(&volume.name, &volume.occupancy, e);
    let stopping = volume.occupancy.begin_stop(mode).map_err(refused)?;
    // At rest in a state that cannot be stopped it never will be; one that something runs in shows at its end.
    if let Some(state) = volume.occupancy.state().at_rest() {
        find_move(state, Command::Stop).map_err(|e| refused(e.into()))?;
    }
    let (inner, of) = (server.clone(), volume.clone());
    let work = |job: JobContext| async move {
        tokio::select! {
            quiet = stopping.until_quiet(STOP_PATIENCE) => {
                quiet.map_err(|e| not_now(&of.name, &of.occupancy, e))?;
            }
            () = job.cancel.cancelled() => {
                return Err(ApiError::new(ErrorCode::Cancelled, "the stop was cancelled while it waited").volume(&of.name));
            }
        }
        let work = stopping
            .begin(Command::Stop)
            .map_err(|e| not_now(&of.name, &of.occupancy, e))?;
        store(&inner, &of, work.target()).await?;
        work.commit();
        tracing::info!(volume = %of.name, "stopped");
        Ok(serde_json::json!({ "state": Static::Stopped }))
    };
    server
        .context()
        .jobs
        .start("stop", Some(&volume.name), work)
        .await
}

/// File first, row second. The file decides: once it is stored, a row that is not is only late.
async fn store(server: &ArchiveServer, volume: &Arc<Volume>, state: Static) -> Result<(), ApiError> {
    let dir = volume.dir.clone();
    blocking(move || {
        dir.store_state(state)?;
        fault::point("archive.state.stored").at("store the state in", dir.path())
    })
    .await??;
    server.metadata().set_state_logged(&volume.name, state).await;
    Ok(())
}
