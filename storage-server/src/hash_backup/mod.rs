//! Hash backup: a new beginning for a log that was lost, by sending only what differs from the archive's latest snapshot.
//!
//! ```text
//!  SyncReady, Stopped --archive is ready--> HashSync
//!     intent stored | log reset, records | wlogs begin to flow to the proxies, all the while
//!                   | HashStart: the archive records it
//!                   | bitmap covers the gap: changed chunks | else hashes of all chunks come, those that differ go
//!                   | explicit snapshot gE, diff is latest-->(g0, gE)
//!     -> StartTarget -> Target      (a stop meanwhile: Stopped)
//! ```
//! Order of durability: our intent; the device's log reset; our records of it; the archive's record; what it receives; our
//! snapshot gE; the archive's commit; our state Target, with the intent gone. Whatever breaks after the reset, on either
//! side, is asked about and goes on with the same reset ([`open`]): here as long as the job lives, after a restart by the
//! healer. Only a cancel, or a log that is lost again, gives the intent up. Why this is right: docs/adr/0012.

mod bitmap;
mod compare;
mod error;
mod open;
mod report;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use walb_common::daemon::chain;
use walb_common::daemon::jobs::JobContext;
use walb_common::daemon::occupancy::{Storage, Work};
use walb_common::disk::fault;
use walb_common::lineage::Snapshot;
use walb_common::rest::storage::HashBackupReport;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::{Command, State, Static};
use walb_common::types::{Gid, Lb, Uuid};
use walb_common::wire::message::{Done, HashCommit, HashMethod, HashStart};
use walb_common::wire::stream::Stream;
use walb_wdev::client::DeviceStatus;

use crate::full_backup::settle;
use crate::metadata::MetadataError;
use crate::volume::{Intent, ResetError, Volume};
use error::HashError;
use open::{Going, Opened, Step};
use report::Counters;

/// How long somebody who asked waits for the archive to get what the proxies still have.
pub const ASKED_CATCH_UP: Duration = Duration::from_secs(3);
/// Pauses between two attempts to go on after a cut.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Size of the chunks.
    pub bulk: Lb,
    /// Compare everything, whatever the device's bitmap says.
    pub full_compare: bool,
    /// Why.
    pub why: String,
    /// How long to wait for the archive to get what the proxies still have.
    pub catch_up: Duration,
}

/// A backup that the archive has accepted and that now runs as a job.
struct Accepted {
    volume: Arc<Volume>,
    work: Work<Storage>,
    opened: Opened,
    wanted: Wanted,
    counters: Counters,
    /// The snapshot last marked for it.
    marked: Option<Gid>,
    _place: OwnedSemaphorePermit,
}

/// Asks the archive, and on its word starts the job; answers with the job's number. Nothing has changed when this fails.
pub async fn start(volume: &Arc<Volume>, wanted: Wanted) -> Result<u64, ApiError> {
    let accepted = accept(volume, wanted).await.map_err(|e| e.volume(&volume.name))?;
    let jobs = &volume.shared.context.jobs;
    jobs.start("hash-backup", Some(&volume.name), |job| accepted.run(job))
        .await
}

async fn accept(volume: &Arc<Volume>, wanted: Wanted) -> Result<Accepted, ApiError> {
    // Before the volume is occupied: whoever wants something else of it meanwhile is not kept waiting.
    open::wait_for_archive(volume, wanted.catch_up).await;
    let place = volume.shared.context.foreground()?;
    // A volume that stopped by itself need not be reset first: the backup resets its log anyway, once it may.
    let stopped = volume.occupancy.state() == State::Static(Static::Stopped);
    let command = if stopped {
        Command::ResetVol
    } else {
        Command::HashBackup
    };
    let mut work = volume.occupancy.begin(command)?;
    let wanted = match volume.records().await.backup.filter(|intent| intent.reset) {
        // One that goes on goes on as it began.
        Some(intent) => Wanted {
            bulk: intent.bulk,
            full_compare: intent.full_compare || wanted.full_compare,
            why: intent.why,
            ..wanted
        },
        None => wanted,
    };
    let opened = open::open(volume, &wanted).await?;
    if stopped {
        work = work.commit_into(Command::HashBackup)?;
    }
    Ok(Accepted {
        volume: volume.clone(),
        work,
        opened,
        wanted,
        counters: Counters::default(),
        marked: None,
        _place: place,
    })
}

impl Accepted {
    /// The work of the job.
    async fn run(self, job: JobContext) -> Result<serde_json::Value, ApiError> {
        let Self {
            volume,
            work,
            opened,
            wanted,
            counters,
            marked,
            _place,
        } = self;
        let mut running = Running {
            volume: volume.clone(),
            wanted,
            counters,
            marked,
        };
        let force = volume.occupancy.force_stop();
        let result = tokio::select! {
            result = running.until_done(opened, &job) => result,
            () = force.cancelled() => Err(HashError::Cut("cut by a forced stop")),
            () = job.cancel.cancelled() => Err(HashError::Cut("cancelled")),
        };
        volume.keeps_log.store(false, Ordering::Relaxed);
        let report = match result {
            Ok(report) => report,
            Err(error) => return Err(give_up(&volume, work, error).await),
        };
        if !volume.is_watched().await {
            volume.watch().await;
        }
        match settle(&volume, work, Some(report.clone())).await {
            Ok(state) => {
                let report = HashBackupReport {
                    state: state.to_owned(),
                    ..report
                };
                volume.set_error(None);
                volume.healing.done();
                report::log(&volume, &report);
                serde_json::to_value(report).map_err(|e| ApiError::internal(&e))
            }
            Err(error) => {
                volume.unwatch().await;
                let error = ApiError::from(error).volume(&volume.name);
                volume.healing.failed(&error, &volume.shared.settings);
                Err(error)
            }
        }
    }
}

/// The volume is in SyncReady again. The intent stays, so that somebody goes on with it, unless somebody ended it.
async fn give_up(volume: &Volume, work: Work<Storage>, error: HashError) -> ApiError {
    volume.unwatch().await;
    let dying = volume.shared.context.lifecycle.aborting().is_cancelled();
    let ended = match &error {
        HashError::Cut(_) => !dying,
        HashError::Continuity(_) => !volume.shared.settings.heal_overflow,
        _ => false,
    };
    if ended {
        let cleared = volume.change("backup-given-up", |records| {
            records.backup = None;
            Ok::<_, MetadataError>(())
        });
        if let Err(error) = cleared.await {
            tracing::error!(volume = %volume.name, error = %chain(&error), "the backup's intent stays");
        }
    }
    volume.set_error(Some(chain(&error)));
    let error = ApiError::from(error).volume(&volume.name);
    if !ended {
        volume.healing.failed(&error, &volume.shared.settings);
    }
    // Dropping the work rolls back to SyncReady, which is what is stored.
    drop(work);
    error
}

struct Running {
    volume: Arc<Volume>,
    wanted: Wanted,
    counters: Counters,
    marked: Option<Gid>,
}

impl Running {
    /// Goes on over cuts until it is done, or fails for a reason that does not pass.
    async fn until_done(&mut self, opened: Opened, job: &JobContext) -> Result<HashBackupReport, HashError> {
        let mut next = Some(opened);
        let mut pause = AGAIN_FIRST;
        loop {
            let result = match next.take() {
                Some(opened) => self.attempt(opened, job).await,
                None => match open::open(&self.volume, &self.wanted).await {
                    Ok(opened) => self.attempt(opened, job).await,
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok((from, gid)) => return Ok(self.report(from, gid).await),
                Err(error) if error.is_passing() => {
                    self.counters.cuts += 1;
                    let text = chain(&error);
                    tracing::warn!(volume = %self.volume.name, error = text, "hash backup is cut; it goes on");
                    self.volume.healing.say(format!("cut, goes on: {text}"));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn report(&self, from: Snapshot, gid: Option<Gid>) -> HashBackupReport {
        let records = self.volume.records().await;
        // After a cut in the commit only the records know what was marked.
        let explicit = records.queue.iter().rev().find(|record| !record.mergeable);
        let gid = gid.unwrap_or_else(|| explicit.map_or(records.done.gid, |record| record.gid));
        self.counters.report(from, gid, self.wanted.why.clone())
    }

    async fn attempt(
        &mut self,
        opened: Opened,
        job: &JobContext,
    ) -> Result<(Snapshot, Option<Gid>), HashError> {
        let Opened {
            mut stream,
            step,
            status,
        } = opened;
        self.counters.volume_bytes = status.size.bytes();
        let going = match step {
            Step::Committed => {
                stream.close().await;
                let from = self.counters.from.unwrap_or(Snapshot::clean(Gid(0)));
                return Ok((from, self.marked));
            }
            Step::Go(going) => going,
        };
        self.counters.from = Some(going.from);
        let result = self.transfer(&mut stream, &going, &status, job).await;
        self.counters.moved += stream.bytes_sent() + stream.bytes_received();
        match result {
            Ok(gid) => {
                stream.close().await;
                Ok((going.from, Some(gid)))
            }
            Err(error) => {
                if !matches!(error, HashError::Stream { .. }) {
                    let told = ApiError::new(ErrorCode::Cancelled, chain(&error)).volume(&self.volume.name);
                    stream.fail(&told).await;
                }
                Err(error)
            }
        }
    }

    async fn transfer(
        &mut self,
        stream: &mut Stream,
        going: &Going,
        status: &DeviceStatus,
        job: &JobContext,
    ) -> Result<Gid, HashError> {
        let volume = self.volume.clone();
        let archive = stream.peer().to_owned();
        let failed = |source| HashError::Stream {
            archive: archive.clone(),
            source,
        };
        // Until it is known whether the bitmap is of use.
        volume.keeps_log.store(true, Ordering::Relaxed);
        let uuid = if going.reset {
            status.uuid
        } else {
            let reset = reset(&volume, going, status.uuid, &self.wanted);
            let reset = stream.working(reset).await.map_err(failed)??;
            if reset.size != status.size {
                return Err(HashError::SizeChanged {
                    expected: status.size,
                    found: reset.size,
                });
            }
            reset.uuid
        };
        if !volume.is_watched().await {
            volume.watch().await;
        }
        let lost = volume.lost().await;
        let changed = stream
            .working(bitmap::choose(
                &volume,
                going,
                status.size,
                self.wanted.full_compare,
            ))
            .await
            .map_err(failed)?;
        let method = match &changed {
            Ok(_) => HashMethod::Bitmap,
            Err(reason) => {
                volume.keeps_log.store(false, Ordering::Relaxed);
                tracing::info!(volume = %volume.name, reason, "the device's bitmap is not used");
                HashMethod::Hashes
            }
        };
        self.counters.method(&changed);
        tracing::info!(
            volume = %volume.name, archive, from = %going.from, gid = %going.gid, %uuid, address = %going.address,
            ?method, why = self.wanted.why, "hash backup goes on"
        );
        self.volume.healing.say(format!(
            "hash backup from {} to gid {} runs",
            going.from, going.gid
        ));
        let start = HashStart {
            uuid,
            gid: going.gid,
            method,
        };
        stream.send(&start).await.map_err(failed)?;
        let Done {} = stream.recv().await.map_err(failed)?;

        job.set_total(status.size.bytes());
        let sent = async {
            let mut sender = compare::Sender {
                volume: &volume,
                stream: &mut *stream,
                size: status.size,
                counters: &mut self.counters,
                job,
            };
            match &changed {
                Ok(ranges) => sender.changed(ranges, going).await,
                Err(_) => sender.differing(going).await,
            }
        };
        tokio::select! {
            sent = sent => sent?,
            () = lost.cancelled() => return Err(continuity_lost(&volume)),
        }
        // The archive has everything durable, and says so.
        let Done {} = stream.recv().await.map_err(failed)?;
        // A block that the data device lost during the scan would be wrong in the image for good, because the log after it
        // does not bring it again: a checkpoint fails if anything was lost.
        let checked = stream.working(volume.device.checkpoint()).await.map_err(failed)?;
        checked.map_err(HashError::Device)?;
        let now = stream.working(volume.device.status()).await.map_err(failed)?;
        let found = now.map_err(HashError::Device)?.size;
        if found != status.size {
            // The new part was not compared, and the archive's image has no room for the log that is about it.
            return Err(HashError::SizeChanged {
                expected: status.size,
                found,
            });
        }
        let mark = stream.working(volume.mark_explicit()).await.map_err(failed)??;
        if lost.is_cancelled() {
            return Err(continuity_lost(&volume));
        }
        self.marked = Some(mark.gid);
        let snapshot = Snapshot::new(going.gid, mark.gid).map_err(|e| HashError::Protocol(e.to_string()))?;
        fault::point("storage.hash.commit").map_err(HashError::Fault)?;
        stream.send(&HashCommit { snapshot }).await.map_err(failed)?;
        let Done {} = stream.recv().await.map_err(failed)?;
        Ok(mark.gid)
    }
}

fn continuity_lost(volume: &Volume) -> HashError {
    HashError::Continuity(
        volume
            .last_error()
            .unwrap_or_else(|| "log continuity lost".to_owned()),
    )
}

/// The point of no return for the old log: the intent, the device's log, the records.
async fn reset(
    volume: &Arc<Volume>,
    going: &Going,
    old: Uuid,
    wanted: &Wanted,
) -> Result<DeviceStatus, HashError> {
    volume.unwatch().await;
    let intent = Intent {
        gid: going.gid,
        old,
        reset: false,
        bulk: going.bulk,
        full_compare: wanted.full_compare,
        why: wanted.why.clone(),
    };
    let stored = intent.clone();
    volume
        .change("hash-intent", move |records| {
            // In SyncReady from now on, also after a crash: the records of the old log must not be started from.
            let shipped = records.shipped();
            records.shipped = shipped;
            records.state = Static::SyncReady;
            records.backup = Some(stored);
            Ok::<_, MetadataError>(())
        })
        .await?;
    let status = volume.device.reset_log().await.map_err(ResetError::Device)?;
    fault::point("storage.reset.device").map_err(ResetError::Fault)?;
    open::store_reset(volume, status.uuid, intent).await?;
    Ok(status)
}
