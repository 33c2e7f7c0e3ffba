//! A proxy sends a diff: check, receive and verify it into a temporary file, make it durable, take it up, acknowledge.
//!
//! ```text
//!  WdiffBegin -> checks -> Answer -> bytes: file.tmp, each record verified -> fsync -> rename -> dirsync
//!             -> row -> memory (listed, latest moves on) -> Done
//! ```
//! A crash before the rename leaves a temporary, removed at the next start; after it the diff is taken up at the next
//! start, and the proxy's resend is answered "too old", which is right.

mod checks;
mod spool;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use walb_common::daemon::chain;
use walb_common::daemon::occupancy::{Archive, Work};
use walb_common::disk::fault;
use walb_common::lineage::MetaDiff;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::Command;
use walb_common::types::{Compression, Timestamp, VolumeName};
use walb_common::wire::message::{Answer, Done, Refusal, RefusalReason, WdiffBegin};
use walb_common::wire::stream::{Bulk, Received, Stream, StreamError};

use crate::ArchiveServer;
use crate::error::{At, FileError};
use crate::volume::Volume;
use spool::{Piece, SpoolError, Spooled};

/// Bulk frames between the stream and the disk; each is at most 4 MiB.
const QUEUE: usize = 4;

/// A transfer ended without being acknowledged.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("receive")]
    Stream(#[from] StreamError),
    #[error("receive")]
    Spool(#[from] SpoolError),
    #[error("store")]
    File(#[from] FileError),
    #[error("store the row")]
    Row(#[from] sqlx::Error),
    #[error("bulk frame at byte {found}: expected byte {expected}, uncompressed and not empty")]
    Frame { found: u64, expected: u64 },
    #[error("the volume was stopped by force")]
    Stopped,
    #[error("the receiving task ended")]
    Task(#[from] tokio::task::JoinError),
}

impl From<&ReceiveError> for ApiError {
    fn from(error: &ReceiveError) -> Self {
        let api = ApiError::internal(error);
        let code = match error {
            ReceiveError::Spool(
                SpoolError::Damaged(_) | SpoolError::Uuid { .. } | SpoolError::BeyondEnd { .. },
            ) => ErrorCode::Corrupt,
            ReceiveError::Frame { .. } => ErrorCode::BadRequest,
            ReceiveError::Stopped => ErrorCode::Cancelled,
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
        Ok(Outcome::Stored(diff)) => {
            tracing::info!(
                volume = %name, %diff, bytes = diff.size(), seconds = began.elapsed().as_secs_f32(), peer = stream.peer(),
                "diff received"
            );
            stream.close().await;
        }
        Ok(Outcome::Refused(diff, refusal)) => {
            tracing::info!(volume = %name, %diff, peer = stream.peer(), reason = refusal.message, "diff refused");
            stream.close().await;
        }
        Err(error) => {
            tracing::error!(volume = %name, peer = stream.peer(), error = %chain(&error), "diff not received");
            stream.fail(&ApiError::from(&error).volume(&name)).await;
        }
    }
}

enum Outcome {
    Stored(MetaDiff),
    Refused(MetaDiff, Refusal),
}

async fn receive(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    stream: &mut Stream,
) -> Result<Outcome, ReceiveError> {
    let begin: WdiffBegin = stream.recv().await?;
    let accepted = match server.context().foreground() {
        Ok(place) => accept(volume, &begin).map(|work| (work, place)),
        Err(limit) => Err(Refusal {
            reason: RefusalReason::Limit,
            message: limit.message,
        }),
    };
    let (work, _place) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            stream.send(&Answer::Refuse(refusal.clone())).await?;
            return Ok(Outcome::Refused(begin.diff, refusal));
        }
    };
    // Taken after the move to WdiffRecv: a forced stop that comes from now on is seen.
    let force = volume.occupancy.force_stop();
    let (pieces, queue) = mpsc::channel(QUEUE);
    let target = spool::Target {
        path: volume.dir().diff(&begin.diff),
        uuid: begin.uuid,
        size: begin.size,
    };
    // The work goes along: should this task be dropped, the volume stays WdiffRecv until the temporary is gone.
    let spooling = tokio::task::spawn_blocking(move || (spool::run(&target, queue), work));
    let fed = async {
        stream.send(&Answer::Accept).await?;
        tokio::select! {
            fed = feed(stream, pieces) => fed,
            () = force.cancelled() => Err(ReceiveError::Stopped),
        }
    }
    .await;
    // Past this point nothing is cut short any more: the diff is either durable and taken up, or gone.
    let waited = match fed {
        Ok(()) => {
            let mut spooling = spooling;
            match stream.working(&mut spooling).await {
                Ok(joined) => (joined?, Ok(())),
                Err(lost) => (spooling.await?, Err(lost)),
            }
        }
        Err(error) => {
            let (spooled, _rolls_back) = spooling.await?;
            // What the disk said is the reason; the stream's complaint only follows from it.
            return Err(match spooled {
                Err(spool) if !spool.is_aborted() => spool.into(),
                _ => error,
            });
        }
    };
    let ((spooled, work), peer) = waited;
    let diff = take_up(server, volume, &begin, spooled?, work).await?;
    peer?;
    stream.send(&Done {}).await?;
    Ok(Outcome::Stored(diff))
}

/// The checks, in their order; at the end the volume is in WdiffRecv.
fn accept(volume: &Volume, begin: &WdiffBegin) -> Result<Work<Archive>, Refusal> {
    if let Err(failed) = volume.usable() {
        return Err(Refusal {
            reason: RefusalReason::Other,
            message: failed.message,
        });
    }
    if let Some(refusal) = checks::state(&volume.occupancy.view()) {
        return Err(refusal);
    }
    let work = volume.occupancy.begin(Command::WdiffRecv).map_err(|error| {
        // It moved between the look and the attempt; look again for the reason the peer knows how to take.
        checks::state(&volume.occupancy.view()).unwrap_or(Refusal {
            reason: RefusalReason::BadState,
            message: error.to_string(),
        })
    })?;
    let mut held = volume.held();
    if let Some(pending) = &held.pending {
        // It would move the latest snapshot on, which the backup is compared with.
        return Err(Refusal {
            reason: RefusalReason::Syncing,
            message: format!("syncing: a hash backup from {} waits to go on", pending.from),
        });
    }
    match (&held.lineage, &held.latest, held.size) {
        (Some(lineage), Some(latest), Some(size)) if volume.dir().path().is_dir() => {
            let free = rustix::fs::statvfs(volume.dir().path())
                .ok()
                .map(|s| s.f_bavail.saturating_mul(s.f_frsize));
            match checks::content(begin, lineage.uuid, size, latest.snapshot(), free) {
                None => Ok(work),
                Some(refusal) => {
                    if refusal.reason == RefusalReason::TooNewDiff {
                        held.refuse_too_new(begin.diff, Timestamp::now());
                    }
                    Err(refusal)
                }
            }
        }
        _ => Err(Refusal {
            reason: RefusalReason::ArchiveNotFound,
            message: format!("archive not found: no data for volume {} here", volume.name()),
        }),
    }
}

/// Passes the bulk on to the spooling thread.
async fn feed(stream: &mut Stream, pieces: mpsc::Sender<Piece>) -> Result<(), ReceiveError> {
    let mut expected = 0;
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
                check_frame(&bulk, expected)?;
                expected += bulk.payload.len() as u64;
                let sent = stream
                    .working(pieces.send(Piece::Data(bulk.payload.clone())))
                    .await?;
                if sent.is_err() {
                    return Ok(());
                }
                stream.consumed(&bulk).await?;
            }
        }
    }
}

fn check_frame(bulk: &Bulk, expected: u64) -> Result<(), ReceiveError> {
    let good = bulk.tag == expected
        && bulk.codec == Compression::None
        && !bulk.payload.is_empty()
        && bulk.payload.len() == bulk.raw_len as usize;
    if good {
        Ok(())
    } else {
        Err(ReceiveError::Frame {
            found: bulk.tag,
            expected,
        })
    }
}

/// The file is durable under its name. Row, then memory, then the state; only then may the peer be told.
async fn take_up(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    begin: &WdiffBegin,
    spooled: Spooled,
    work: Work<Archive>,
) -> Result<MetaDiff, ReceiveError> {
    let diff = begin.diff.with_size(spooled.bytes);
    let name = volume.name();
    fault::point("archive.wdiff.renamed").at("take up", &spooled.path)?;
    let now = Timestamp::now();
    // One with the same ends but another name (time or flags) is superseded, file and row.
    let replaced = volume.held().diffs.get(diff.begin(), diff.end()).copied();
    let replaced = replaced.filter(|old| old.file_name() != diff.file_name());
    if let Err(error) = server
        .metadata()
        .add_diff(name, &diff, replaced.as_ref(), now)
        .await
    {
        // The file would be taken up at the next start although the peer was told that it failed: harmless, but it
        // also takes the room that a full disk lacks.
        let dir = volume.dir().clone();
        let _ = tokio::task::spawn_blocking(move || dir.remove_diffs(&[diff])).await?;
        return Err(error.into());
    }
    fault::point("archive.wdiff.row_stored").at("take up", &spooled.path)?;
    volume.held().register(diff, now);
    if let Some(old) = replaced {
        let dir = volume.dir().clone();
        if let Err(error) = tokio::task::spawn_blocking(move || dir.remove_diffs(&[old])).await? {
            tracing::warn!(volume = %name, diff = %old, error = %chain(&error), "a superseded diff stays for now");
        }
    }
    work.commit();
    fault::point("archive.wdiff.taken_up").at("take up", &spooled.path)?;
    Ok(diff)
}
