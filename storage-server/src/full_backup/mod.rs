//! Full backup: the whole device, read while it is being written, to the primary archive.
//!
//! ```text
//!  SyncReady --accepted--> FullSync: reset log | wlogs begin to flow to the proxies, all the while
//!                                    | scan: bulks to the archive
//!                                    | explicit snapshot gE, image is (0, gE)
//!            -> StartTarget -> Target      (a stop meanwhile: Stopped)
//! ```
//! Order of durability: our log reset and its records; at the archive the image, synced; our snapshot gE; at the archive
//! base (0, gE) and its state; our state Target. A failure or crash anywhere before the last leaves us in SyncReady.

pub(crate) mod pace;
pub mod resolve;
pub(crate) mod scan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use walb_common::daemon::chain;
use walb_common::daemon::jobs::JobContext;
use walb_common::daemon::occupancy::{Storage, Work};
use walb_common::disk::fault;
use walb_common::lineage::Snapshot;
use walb_common::rest::storage::HashBackupReport;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::{Command, Static};
use walb_common::types::{Gid, LB_SIZE, Lb, Timestamp, Uuid};
use walb_common::wire::client::ClientError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{Answer, Done, FullBegin, FullCommit, FullReset, StreamKind};
use walb_common::wire::stream::{Stream, StreamError};
use walb_wdev::client::DeviceStatus;

use crate::device::CallError;
use crate::metadata::MetadataError;
use crate::volume::Volume;
use pace::Pace;
use scan::Scan;

/// Chunk size unless asked otherwise.
const BULK_DEFAULT: u64 = 256 << 10;
/// Largest chunk.
const BULK_MAX: u64 = 4 << 20;

/// How often an archive that may have committed is asked before the job gives up; asking goes on in the background.
const COMMIT_ASKED: u32 = 20;
const COMMIT_ASKED_EVERY: Duration = Duration::from_millis(500);

/// A backup that the archive has accepted and that now runs as a job.
pub struct Accepted {
    volume: Arc<Volume>,
    work: Work<Storage>,
    stream: Stream,
    bulk: Lb,
    size: Lb,
    /// Set once the archive may have committed: its log's uuid and the snapshot.
    committing: Option<(Uuid, Gid)>,
    _place: OwnedSemaphorePermit,
}

/// Checks the size of the chunks.
pub fn bulk_size(bytes: Option<u64>) -> Result<Lb, ApiError> {
    let bytes = bytes.unwrap_or(BULK_DEFAULT);
    if (LB_SIZE..=BULK_MAX).contains(&bytes) && bytes.is_multiple_of(LB_SIZE) {
        return Ok(Lb(bytes / LB_SIZE));
    }
    let message = format!("bulk size {bytes}: expected a multiple of 512 from 512 to {BULK_MAX} bytes");
    Err(ApiError::new(ErrorCode::BadRequest, message))
}

/// Asks the archive. Nothing has changed when this fails.
pub async fn accept(volume: &Arc<Volume>, bulk: Lb) -> Result<Accepted, ApiError> {
    let shared = &volume.shared;
    let place = shared.context.foreground()?;
    let work = volume.occupancy.begin(Command::FullBackup)?;
    let status = volume.device.status().await?;
    let archive = &shared.settings.archive;
    let opened = shared
        .context
        .client
        .open_stream(archive, Role::Archive, StreamKind::FullBackup, &volume.name)
        .await;
    let mut stream = opened.map_err(|error| match error {
        ClientError::Api(error) => not_accepted(archive, &error.message),
        other => ApiError::new(
            ErrorCode::Unavailable,
            format!("archive {archive}: {}", chain(&other)),
        ),
    })?;
    let begin = FullBegin {
        size: status.size,
        timestamp: Timestamp::now(),
        bulk,
    };
    match ask(&mut stream, &begin).await {
        Ok(Answer::Accept) => {}
        Ok(Answer::Refuse(refusal)) => return Err(not_accepted(stream.peer(), &refusal.message)),
        Err(StreamError::Peer(error)) => return Err(not_accepted(stream.peer(), &error.message)),
        Err(error) => {
            let message = format!("archive {archive}: {}", chain(&error));
            return Err(ApiError::new(ErrorCode::Unavailable, message));
        }
    }
    Ok(Accepted {
        volume: volume.clone(),
        work,
        stream,
        bulk,
        size: status.size,
        committing: None,
        _place: place,
    })
}

fn not_accepted(archive: &str, reason: &str) -> ApiError {
    ApiError::new(
        ErrorCode::PeerRefused,
        format!("not accepted by archive:{archive}:{reason}"),
    )
}

async fn ask(stream: &mut Stream, begin: &FullBegin) -> Result<Answer, StreamError> {
    stream.send(begin).await?;
    stream.recv().await
}

/// A backup failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("full backup: archive {archive}")]
    Stream {
        archive: String,
        #[source]
        source: StreamError,
    },
    #[error("full backup")]
    Reset(#[from] crate::volume::ResetError),
    #[error("full backup: read the device")]
    Read(#[from] scan::ScanError),
    #[error("full backup: check that the device kept what was read")]
    Checkpoint(#[source] CallError),
    #[error("full backup: snapshot")]
    Mark(#[from] crate::volume::MarkError),
    #[error(
        "full backup: the size of the device is {found} logical blocks, was {expected} when the archive accepted"
    )]
    SizeChanged { expected: Lb, found: Lb },
    #[error("full backup: {0}")]
    Continuity(String),
    #[error("full backup: {0}")]
    Cut(&'static str),
    #[error("full backup")]
    Store(#[from] MetadataError),
    #[error("full backup: {0}")]
    Internal(String),
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            BackupError::Stream { source, .. } if source.peer().is_some() => ErrorCode::PeerRefused,
            BackupError::Stream { .. }
            | BackupError::Read(_)
            | BackupError::Mark(_)
            | BackupError::Checkpoint(_) => ErrorCode::Unavailable,
            BackupError::Continuity(_) => ErrorCode::Overflow,
            BackupError::Cut(_) => ErrorCode::Cancelled,
            BackupError::SizeChanged { .. } => ErrorCode::WrongState,
            BackupError::Reset(_) | BackupError::Store(_) | BackupError::Internal(_) => {
                return ApiError::internal(&error);
            }
        };
        ApiError::new(code, chain(&error))
    }
}

impl Accepted {
    /// The work of the job. On failure the archive is told, and the volume is back in SyncReady.
    pub async fn run(mut self, job: JobContext) -> Result<serde_json::Value, ApiError> {
        let began = Instant::now();
        let volume = self.volume.clone();
        let force = volume.occupancy.force_stop();
        let result = tokio::select! {
            result = self.transfer(&job) => result,
            () = force.cancelled() => Err(BackupError::Cut("cut by a forced stop")),
            () = job.cancel.cancelled() => Err(BackupError::Cut("cancelled")),
        };
        let result = match result {
            Err(error) => really_failed(&volume, self.committing, error).await,
            done => done,
        };
        let result = match result {
            Ok(gid) => match settle(&volume, self.work, None).await {
                Ok(state) => Ok((gid, state)),
                Err(error) => {
                    volume.unwatch().await;
                    Err(error)
                }
            },
            Err(error) => {
                self.stream
                    .fail(&ApiError::new(ErrorCode::Cancelled, chain(&error)).volume(&volume.name))
                    .await;
                volume.unwatch().await;
                // Dropping the work rolls back to SyncReady, which is what is stored.
                drop(self.work);
                resolve::begin(&volume).await;
                Err(error)
            }
        };
        match result {
            Ok((gid, state)) => {
                let seconds = began.elapsed().as_secs_f32();
                tracing::info!(volume = %volume.name, %gid, %state, bytes = job.done(), seconds, "full backup done");
                Ok(serde_json::json!({ "gid": gid, "state": state, "bytes": job.done(), "seconds": seconds }))
            }
            Err(error) => {
                volume.set_error(Some(chain(&error)));
                Err(ApiError::from(error).volume(&volume.name))
            }
        }
    }

    async fn transfer(&mut self, job: &JobContext) -> Result<Gid, BackupError> {
        let volume = self.volume.clone();
        let archive = self.stream.peer().to_owned();
        let failed = |source| BackupError::Stream {
            archive: archive.clone(),
            source,
        };
        tracing::info!(volume = %volume.name, archive, size = self.size.bytes(), "full backup accepted");

        // From here on earlier continuity is gone, whatever becomes of the backup.
        let reset = self
            .stream
            .working(volume.reset_log("backup-reset", Gid(0), Static::SyncReady));
        let status: DeviceStatus = reset.await.map_err(failed)??;
        if status.size != self.size {
            return Err(BackupError::SizeChanged {
                expected: self.size,
                found: status.size,
            });
        }
        self.stream
            .send(&FullReset { uuid: status.uuid })
            .await
            .map_err(failed)?;
        let Done {} = self.stream.recv().await.map_err(failed)?;
        volume.watch().await;
        let lost = volume.lost().await;

        let scanned = tokio::select! {
            scanned = self.scan(job) => scanned,
            () = lost.cancelled() => {
                let reason = volume.last_error().unwrap_or_else(|| "log continuity lost".to_owned());
                Err(BackupError::Continuity(reason))
            }
        };
        scanned?;
        self.stream.send_end().await.map_err(failed)?;
        // The archive syncs its image and says so.
        let Done {} = self.stream.recv().await.map_err(failed)?;
        // A block that the data device lost during the scan would be wrong in the image for good, because the log after it
        // does not bring it again: a checkpoint fails if anything was lost.
        let checked = self
            .stream
            .working(volume.device.checkpoint())
            .await
            .map_err(failed)?;
        checked.map_err(BackupError::Checkpoint)?;

        let mark = self
            .stream
            .working(volume.mark_explicit())
            .await
            .map_err(failed)??;
        if lost.is_cancelled() {
            return Err(BackupError::Continuity(
                "log continuity was lost during the scan".to_owned(),
            ));
        }
        let snapshot = Snapshot::new(Gid(0), mark.gid).map_err(|e| BackupError::Internal(e.to_string()))?;
        fault::point("storage.backup.commit").map_err(|e| BackupError::Internal(e.to_string()))?;
        self.committing = Some((status.uuid, mark.gid));
        self.stream.send(&FullCommit { snapshot }).await.map_err(failed)?;
        let Done {} = self.stream.recv().await.map_err(failed)?;
        Ok(mark.gid)
    }

    async fn scan(&mut self, job: &JobContext) -> Result<(), BackupError> {
        let archive = self.stream.peer().to_owned();
        let failed = |source| BackupError::Stream {
            archive: archive.clone(),
            source,
        };
        job.set_total(self.size.bytes());
        let pace = Pace::new(self.volume.shared.scan_limit.subscribe());
        let mut scan = Scan::new(&self.volume.device, self.size, self.bulk, pace);
        while let Some(bulk) = self.stream.working(scan.next()).await.map_err(failed)? {
            self.stream.send_bulk(bulk?).await.map_err(failed)?;
            job.set_done(scan.done());
        }
        Ok(())
    }
}

/// A connection that broke after the commit was sent says nothing: the archive is asked whether it has committed.
async fn really_failed(
    volume: &Volume,
    committing: Option<(Uuid, Gid)>,
    error: BackupError,
) -> Result<Gid, BackupError> {
    let (Some((uuid, gid)), BackupError::Stream { .. }) = (committing, &error) else {
        return Err(error);
    };
    for _ in 0..COMMIT_ASKED {
        match resolve::ask(volume, uuid).await {
            resolve::Verdict::Committed => return Ok(gid),
            resolve::Verdict::NotCommitted => break,
            resolve::Verdict::Unknown => tokio::time::sleep(COMMIT_ASKED_EVERY).await,
        }
    }
    Err(error)
}

/// The archive has everything: goes on to Target without ever being seen idle, or to Stopped if somebody asked for a stop.
pub(crate) async fn settle(
    volume: &Volume,
    work: Work<Storage>,
    report: Option<HashBackupReport>,
) -> Result<&'static str, BackupError> {
    if volume.occupancy.view().stopping.is_some() {
        volume.unwatch().await;
        let report = report.map(|report| HashBackupReport {
            state: "Stopped".to_owned(),
            ..report
        });
        volume
            .store_backup_done("backup-stopped", Static::Stopped, report)
            .await?;
        work.commit();
        forget_gap(volume).await;
        return Ok("Stopped");
    }
    let work = match work.commit_into(Command::StartTarget) {
        Ok(work) => work,
        Err(error) => return Err(BackupError::Internal(error.to_string())),
    };
    let report = report.map(|report| HashBackupReport {
        state: "Target".to_owned(),
        ..report
    });
    volume
        .store_backup_done("backup-target", work.target(), report)
        .await?;
    work.commit();
    volume.wake.notify_one();
    forget_gap(volume).await;
    Ok("Target")
}

/// The archive has everything up to the new log: what changed before it is of no use any more, and from now on the device's
/// bitmap counts from the log that is delivered. A device that cannot do that does it with the first release of log.
async fn forget_gap(volume: &Volume) {
    if let Err(error) = volume.device.forget_changed().await {
        tracing::debug!(volume = %volume.name, error = %chain(&error), "the device does not forget old changes yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_logical_blocks_up_to_four_mebibytes() {
        assert_eq!(bulk_size(None).unwrap(), Lb(512));
        assert_eq!(bulk_size(Some(512)).unwrap(), Lb(1));
        assert_eq!(bulk_size(Some(4 << 20)).unwrap(), Lb(8192));
        for bad in [0, 511, 513, (4 << 20) + 512] {
            assert_eq!(
                bulk_size(Some(bad)).unwrap_err().code,
                ErrorCode::BadRequest,
                "{bad}"
            );
        }
    }
}
