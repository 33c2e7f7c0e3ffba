//! A storage sends a whole image, read from the live device: the start of a lineage.
//!
//! ```text
//!  FullBegin -> checks, empty image made -> Answer -> FullReset -> Done
//!            -> blocks: image file, synced now and then -> end -> fsync -> Done
//!            -> FullCommit (0, gE) -> base, archive_uuid, uuid, state files -> rows -> memory -> Done
//! ```
//! The state file comes last: until it says Archived nothing of this is believed, and a failure or a crash leaves the
//! volume in SyncReady without an image. The image is made before the storage is told to go on, because going on
//! costs it its log.

mod image_writer;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use walb_common::daemon::chain;
use walb_common::daemon::occupancy::{Archive, Work};
use walb_common::disk::fault;
use walb_common::lineage::{BaseState, DiffSet, Snapshot};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::{Command, Static};
use walb_common::types::{Gid, Lb, Timestamp, Uuid, VolumeName};
use walb_common::wire::message::{Answer, Done, FullBegin, FullCommit, FullReset, Refusal, RefusalReason};
use walb_common::wire::stream::{Received, Stream, StreamError};

use crate::ArchiveServer;
use crate::error::{At, FileError, not_now};
use crate::metadata::VolumeRow;
use crate::volume::{Held, Lineage, Volume};
use image_writer::{Piece, WriteError};

/// Bulk frames between the stream and the disk; each is at most 4 MiB.
const QUEUE: usize = 4;
/// Largest chunk a storage may announce.
const BULK_MAX: Lb = Lb((4 << 20) / 512);

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("receive the image")]
    Stream(#[from] StreamError),
    #[error("receive the image")]
    Write(#[from] WriteError),
    #[error("store")]
    File(#[from] FileError),
    #[error("store the rows")]
    Rows(#[from] sqlx::Error),
    #[error("snapshot of a full image: expected |0| or |0,GID|, found {0}")]
    Snapshot(Snapshot),
    #[error("the volume was stopped by force")]
    Stopped,
    #[error("the receiving task ended")]
    Task(#[from] tokio::task::JoinError),
}

impl From<&BackupError> for ApiError {
    fn from(error: &BackupError) -> Self {
        let api = ApiError::internal(error);
        let code = match error {
            BackupError::Write(WriteError::Place { .. } | WriteError::Short { .. })
            | BackupError::Snapshot(_) => ErrorCode::BadRequest,
            BackupError::Write(WriteError::Decompress { .. }) => ErrorCode::Corrupt,
            BackupError::Stopped => ErrorCode::Cancelled,
            _ => api.code,
        };
        Self { code, ..api }
    }
}

/// Serves one stream. Errors are logged here, once; the peer is told.
pub(crate) async fn serve(server: ArchiveServer, name: VolumeName, mut stream: Stream) {
    let began = Instant::now();
    let volume = server.volume(&name);
    match receive(&server, &volume, &mut stream).await {
        Ok(Ok((base, size))) => {
            tracing::info!(
                volume = %name, %base, bytes = size.bytes(), seconds = began.elapsed().as_secs_f32(),
                peer = stream.peer(), "full backup received"
            );
            stream.close().await;
        }
        Ok(Err(refusal)) => {
            tracing::warn!(volume = %name, peer = stream.peer(), reason = refusal.message, "full backup refused");
            stream.close().await;
        }
        Err(error) => {
            tracing::error!(volume = %name, peer = stream.peer(), error = %chain(&error), "full backup failed");
            stream.fail(&ApiError::from(&error).volume(&name)).await;
        }
    }
}

/// A backup's hold on the volume. Dropped before the end it removes the image, then rolls the volume back: in this
/// order, or the next backup's image might be the one removed.
struct Hold {
    server: ArchiveServer,
    volume: Arc<Volume>,
    work: Option<Work<Archive>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.volume.set_progress(Lb(0));
        if self.work.is_some()
            && let Err(error) = self.server.images().remove_base(self.volume.name())
        {
            let error = chain(&error);
            tracing::error!(volume = %self.volume.name(), %error, "an unfinished image stays until the next start");
        }
    }
}

/// Drops a hold off the async threads: removing a large image takes a while.
async fn roll_back(hold: Hold) {
    let _ = tokio::task::spawn_blocking(move || drop(hold)).await;
}

async fn receive(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    stream: &mut Stream,
) -> Result<Result<(BaseState, Lb), Refusal>, BackupError> {
    let begin: FullBegin = stream.recv().await?;
    let accepted = match server.context().foreground() {
        Ok(place) => accept(server, volume, &begin).map(|hold| (hold, place)),
        Err(limit) => Err(Refusal {
            reason: RefusalReason::Limit,
            message: limit.message,
        }),
    };
    let (hold, _place) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            stream.send(&Answer::Refuse(refusal.clone())).await?;
            return Ok(Err(refusal));
        }
    };
    let force = volume.occupancy.force_stop();
    let (of, size) = (volume.clone(), begin.size);
    let preparing = tokio::task::spawn_blocking(move || {
        // Nothing of an earlier life may join the new lineage.
        let made = of
            .dir()
            .remove_data()
            .and_then(|()| hold.server.images().create_base(of.name(), size));
        (made, hold)
    });
    let (made, hold) = stream.working(preparing).await??;
    let image = match made {
        Ok(image) => image,
        Err(error) => {
            let api = ApiError::internal(&error);
            let no_space = api.code == ErrorCode::NoSpace;
            let reason = if no_space {
                RefusalReason::NoSpace
            } else {
                RefusalReason::Other
            };
            let refusal = Refusal {
                reason,
                message: api.message,
            };
            roll_back(hold).await;
            stream.send(&Answer::Refuse(refusal.clone())).await?;
            return Ok(Err(refusal));
        }
    };
    // From here on the work goes along with the thread that writes, as with a diff.
    let (pieces, queue) = mpsc::channel(QUEUE);
    let (of, sync_bytes) = (volume.clone(), server.config().image_sync_bytes);
    let writing = tokio::task::spawn_blocking(move || {
        let written = image_writer::run(&image, size, sync_bytes, queue, |at| of.set_progress(at));
        (written, hold)
    });
    let fed = async {
        stream.send(&Answer::Accept).await?;
        let reset: FullReset = stream.recv().await?;
        stream.send(&Done {}).await?;
        tokio::select! {
            fed = feed(stream, pieces) => fed,
            () = force.cancelled() => Err(BackupError::Stopped),
        }
        .map(|()| reset.uuid)
    }
    .await;
    let (written, hold) = match &fed {
        Ok(_) => stream.working(writing).await??,
        Err(_) => writing.await?,
    };
    let result = match (fed, written) {
        // What the disk said is the reason; the stream's complaint only follows from it.
        (_, Err(error)) if !error.is_aborted() => Err(error.into()),
        (Err(error), _) => Err(error),
        (Ok(uuid), Ok(())) => {
            tokio::select! {
                snapshot = settle(stream) => snapshot.map(|snapshot| (uuid, snapshot)),
                () = force.cancelled() => Err(BackupError::Stopped),
            }
        }
        (Ok(_), Err(error)) => Err(error.into()),
    };
    let (uuid, snapshot) = match result {
        Ok(settled) => settled,
        Err(error) => {
            roll_back(hold).await;
            return Err(error);
        }
    };
    let base = commit(server, volume, &begin, uuid, snapshot, hold).await?;
    stream.send(&Done {}).await?;
    Ok(Ok((base, size)))
}

/// The checks; at the end the volume is in FullSync.
fn accept(server: &ArchiveServer, volume: &Arc<Volume>, begin: &FullBegin) -> Result<Hold, Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    if begin.bulk == Lb(0) || begin.bulk > BULK_MAX {
        return refuse(
            RefusalReason::Other,
            format!("bulk of {} blocks: expected 1 to {BULK_MAX}", begin.bulk),
        );
    }
    // The size of a file is a signed number of bytes.
    if begin.size == Lb(0) || begin.size.bytes() > i64::MAX as u64 {
        return refuse(
            RefusalReason::Other,
            format!("volume of {} blocks: expected 1 to 2^54", begin.size),
        );
    }
    if let Err(failed) = volume.usable() {
        return refuse(RefusalReason::Other, failed.message);
    }
    match volume.occupancy.begin(Command::FullSync) {
        Ok(work) => Ok(Hold {
            server: server.clone(),
            volume: volume.clone(),
            work: Some(work),
        }),
        Err(error) => {
            let error = not_now(volume.name(), &volume.occupancy, error);
            refuse(RefusalReason::BadState, error.message)
        }
    }
}

async fn feed(stream: &mut Stream, pieces: mpsc::Sender<Piece>) -> Result<(), BackupError> {
    loop {
        let received = tokio::select! {
            received = stream.recv_bulk() => received?,
            // The thread has ended, with an error that is found when it is joined; the peer need not send more.
            () = pieces.closed() => return Ok(()),
        };
        match received {
            Received::End => {
                let _ = pieces.send(Piece::End).await;
                return Ok(());
            }
            Received::Bulk(bulk) => {
                let sent = stream.working(pieces.send(Piece::Bulk(bulk.clone()))).await?;
                if sent.is_err() {
                    return Ok(());
                }
                stream.consumed(&bulk).await?;
            }
        }
    }
}

/// The image is durable; the storage says which snapshot it is.
async fn settle(stream: &mut Stream) -> Result<Snapshot, BackupError> {
    stream.send(&Done {}).await?;
    let FullCommit { snapshot } = stream.recv().await?;
    if snapshot.begin() == Gid(0) {
        Ok(snapshot)
    } else {
        Err(BackupError::Snapshot(snapshot))
    }
}

/// Files (the image before them, the state last), rows, memory. Once the state file is stored the backup stands,
/// whatever happens to the rows.
async fn commit(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    begin: &FullBegin,
    uuid: Uuid,
    snapshot: Snapshot,
    hold: Hold,
) -> Result<BaseState, BackupError> {
    let base = BaseState::idle(snapshot, begin.timestamp);
    let lineage = Lineage {
        base,
        archive_uuid: Uuid::random(),
        uuid,
    };
    let (of, size) = (volume.clone(), begin.size);
    let storing = tokio::task::spawn_blocking(move || match of.dir().store_lineage(&lineage, size) {
        Ok(()) => Ok(hold),
        Err(error) => {
            // Perhaps the state file was replaced and only its directory entry could not be synced: the state of
            // before is put back, or, if that fails too, the next start finds an archived volume without an image.
            let _ = of.dir().store_state(Static::SyncReady);
            drop(hold);
            Err(error)
        }
    });
    let mut hold = storing.await??;
    let now = Timestamp::now();
    let held = Held {
        lineage: Some(lineage),
        latest: Some(base),
        size: Some(begin.size),
        last_sync: now,
        diffs: DiffSet::new(),
        ..Held::default()
    };
    let Some(work) = hold.work.take() else {
        return Err(BackupError::Stopped);
    };
    let row = VolumeRow::of(work.target(), &held);
    if let Err(error) = server
        .metadata()
        .replace(volume.name(), &row, std::iter::empty())
        .await
    {
        let error = chain(&error);
        tracing::error!(volume = %volume.name(), %error, "the index is behind the files; it will be rebuilt at the next start");
    }
    *volume.held() = held;
    work.commit();
    fault::point("archive.full.taken_up").at("take up", volume.dir().path())?;
    Ok(base)
}
