//! Which archives a volume has: adding, changing, deleting, clearing. Each in an order that a restart can finish.

use std::sync::Arc;

use walb_common::rest::proxy::ArchiveInfo;
use walb_common::rest::{ApiError, Empty, ErrorCode};
use walb_common::state::proxy::Command;
use walb_common::types::VolumeName;

use super::Volume;
use super::destination::Destination;
use crate::start::finish_clear;
use crate::{Shared, send_wdiff};

/// What to do about an archive that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// `add`.
    Refuse,
    /// `update`.
    Replace,
}

/// Runs file work of a volume off the async threads, alone.
async fn alone<T, F>(volume: &Arc<Volume>, work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce(&Arc<Volume>) -> Result<T, super::directory::FileError> + Send + 'static,
{
    let lock = volume.files.clone().lock_owned().await;
    let volume = volume.clone();
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&volume);
        drop(lock);
        result
    });
    done.await
        .map_err(|e| ApiError::internal(&e))?
        .map_err(|e| ApiError::internal(&e))
}

fn check_address(info: &ArchiveInfo) -> Result<(), ApiError> {
    let good = info.address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    if good {
        return Ok(());
    }
    let shown: String = info.address.chars().take(100).collect();
    Err(ApiError::new(
        ErrorCode::BadRequest,
        format!("archive address: HOST:PORT expected, {shown:?} found"),
    ))
}

/// Adds or changes an archive.
pub(crate) async fn put_archive(
    shared: &Arc<Shared>,
    name: &VolumeName,
    archive: String,
    info: ArchiveInfo,
    existing: Existing,
) -> Result<Empty, ApiError> {
    check_address(&info)?;
    let volume = shared.volume_to_be(name);
    let work = volume
        .occupancy
        .begin(Command::AddArchiveInfo)
        .map_err(|e| volume.not_now(e))?;
    if volume.archive(&archive).is_some() && existing == Existing::Refuse {
        let message = format!("archive info already exists:{archive}");
        return Err(ApiError::new(ErrorCode::AlreadyExists, message)
            .volume(name)
            .hint("update replaces it"));
    }
    if volume.failed().is_some() && !volume.archives().is_empty() {
        // Not usable for having one more archive; what is wrong with it may have been mended.
        crate::start::settle(&volume).await;
        volume.usable()?;
    }
    if volume.has_unfinished_clear() {
        finish_clear(shared, &volume).await?;
    }
    // The directory, durably, then the row: a row always has its directory. What an unregistered directory holds is
    // taken up.
    let (waiting, bad) = {
        let archive = archive.clone();
        alone(&volume, move |volume| {
            volume.directory.create(&archive)?;
            volume.load_waiting(&archive)
        })
        .await?
    };
    shared
        .metadata
        .put_archive(name, &archive, &info)
        .await
        .map_err(|e| ApiError::internal(&e).volume(name))?;
    if let Some(known) = volume.archive(&archive) {
        known.set_info(info);
    } else {
        let dir = volume.directory.send_to(&archive);
        let added = Arc::new(Destination::new(archive.clone(), dir, info, waiting, bad));
        volume.put_archive(added.clone());
        send_wdiff::spawn(shared, volume.clone(), added);
    }
    volume.set_failed(None);
    work.commit();
    tracing::info!(volume = %name, archive, "archive registered");
    Ok(Empty {})
}

/// Deletes an archive and what waits for it; with the last one the volume is cleared.
pub(crate) async fn delete_archive(
    shared: &Arc<Shared>,
    name: &VolumeName,
    archive: &str,
) -> Result<Empty, ApiError> {
    let volume = shared.volume_or_clear(name);
    let last = volume.archives().len() == 1;
    let command = if last {
        Command::DeleteLastArchiveInfo
    } else {
        Command::DeleteArchiveInfo
    };
    let work = volume.occupancy.begin(command).map_err(|e| volume.not_now(e))?;
    if volume.archive(archive).is_none() {
        return Err(
            ApiError::new(ErrorCode::NotFound, format!("archive info not exists:{archive}")).volume(name),
        );
    }
    if last {
        remove_everything(shared, &volume).await?;
    } else {
        // Files set aside, row, files gone: a crash before the row goes takes the files back, one after it removes them.
        let gone = archive.to_owned();
        alone(&volume, move |volume| volume.directory.set_archive_aside(&gone)).await?;
        if let Err(error) = shared.metadata.delete_archive(name, archive).await {
            let kept = archive.to_owned();
            alone(&volume, move |volume| volume.directory.take_archive_back(&kept)).await?;
            return Err(ApiError::internal(&error).volume(name));
        }
        volume.drop_archive(archive);
        let gone = archive.to_owned();
        alone(&volume, move |volume| volume.directory.remove_archive(&gone)).await?;
    }
    work.commit();
    tracing::info!(volume = %name, archive, "archive deleted");
    Ok(Empty {})
}

/// Starts a volume; one that could not be used is tried again first.
pub(crate) async fn start(shared: &Arc<Shared>, name: &VolumeName) -> Result<Empty, ApiError> {
    let volume = shared.volume_or_clear(name);
    if volume.failed().is_some() && !volume.archives().is_empty() {
        // Whatever was wrong may have been mended.
        crate::start::settle(&volume).await;
        volume.usable()?;
        if volume.occupancy.check(Command::WdiffSend).is_ok() {
            volume.kick();
            return Ok(Empty {});
        }
    }
    let work = volume
        .occupancy
        .begin(Command::Start)
        .map_err(|e| volume.not_now(e))?;
    // Stored before it is shown.
    shared
        .metadata
        .set_state(name, work.target())
        .await
        .map_err(|e| ApiError::internal(&e).volume(name))?;
    work.commit();
    volume.kick();
    tracing::info!(volume = %name, "started");
    Ok(Empty {})
}

/// Forgets a volume with everything that waits.
pub(crate) async fn clear(shared: &Arc<Shared>, name: &VolumeName) -> Result<Empty, ApiError> {
    let volume = shared.volume_or_clear(name);
    let work = volume
        .occupancy
        .begin(Command::ClearVol)
        .map_err(|e| volume.not_now(e))?;
    remove_everything(shared, &volume).await?;
    work.commit();
    tracing::info!(volume = %name, "cleared");
    Ok(Empty {})
}

/// Rows that say "being cleared", then the files, then no row. If it fails in between the volume stays Stopped without
/// archives, so that it can be cleared again; a restart finishes it as well.
async fn remove_everything(shared: &Arc<Shared>, volume: &Arc<Volume>) -> Result<(), ApiError> {
    shared
        .metadata
        .begin_clear(&volume.name)
        .await
        .map_err(|e| ApiError::internal(&e).volume(&volume.name))?;
    volume.drop_everything();
    volume.set_unfinished_clear(true);
    finish_clear(shared, volume).await
}
