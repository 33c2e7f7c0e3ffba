//! A storage sends a wlog: it becomes a wdiff on our disk, linked for every archive, before it is acknowledged.
//!
//! ```text
//! WlogBegin -> admit -> Answer     bulk --channel--> convert (its own thread) --> received/*.tmp, synced
//! WlogCommit -> rename, link for every archive (all durable) -> Started -> Done
//! ```
//! Whatever fails before the rename leaves nothing behind; whatever fails after it leaves a whole diff that the next
//! receive or start distributes. The storage was not acknowledged in either case and sends the range again.

mod convert;
mod store;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walb_common::daemon::chain;
use walb_common::daemon::occupancy::{NotNow, Proxy, Work};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::proxy::Command;
use walb_common::types::{Timestamp, VolumeName};
use walb_common::wire::message::{Answer, Done, Refusal, RefusalReason, WlogBegin, WlogCommit};
use walb_common::wire::stream::{Received, Stream, StreamError};

use crate::Shared;
use crate::volume::Volume;
use convert::{Converted, Input, convert};

/// Bulk frames between the network and the converter; with the stream's own window this bounds what is in memory.
const QUEUED_FRAMES: usize = 4;

/// Everything a receive holds while it runs.
struct Admitted {
    volume: Arc<Volume>,
    work: Work<Proxy>,
    force: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Serves one stream.
pub async fn handle(shared: Arc<Shared>, name: VolumeName, mut stream: Stream) {
    if let Err(error) = serve(&shared, &name, &mut stream).await {
        tracing::error!(volume = %name, storage = stream.peer(), error = %chain(&error), "wlog receive failed");
        stream.fail(&error).await;
    }
}

async fn serve(shared: &Arc<Shared>, name: &VolumeName, stream: &mut Stream) -> Result<(), ApiError> {
    let begin: WlogBegin = stream.recv().await?;
    let admitted = match admit(shared, name, &begin) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tracing::warn!(volume = %name, storage = stream.peer(), reason = refusal.message, "wlog refused");
            return Ok(stream.send(&Answer::Refuse(refusal)).await?);
        }
    };
    let Admitted {
        volume,
        work,
        force,
        _place,
    } = admitted;
    let started = Instant::now();
    // Until something is stored a forced stop just drops the work; the converter notices and leaves nothing behind.
    let receiving = async {
        stream.send(&Answer::Accept).await?;
        receive(shared, &volume, &begin, stream).await
    };
    let Some(received) = force.run_until_cancelled(receiving).await else {
        return Err(ApiError::new(
            ErrorCode::Cancelled,
            format!("volume {name} was stopped by force"),
        ));
    };
    let (converted, commit) = received?;
    let stats = converted.stats;
    let alive = store::store(shared, &volume, &begin, converted, commit.diff, stream).await?;
    volume.set_last_received(Timestamp::now());
    for archive in volume.archives() {
        archive.queue();
    }
    let wlog_bytes = (commit.end.0 - begin.begin.0) * begin.pbs.bytes() as u64;
    shared.totals.received(wlog_bytes);
    // Shown as Started before the acknowledgement: the next transfer may come at once.
    work.commit();
    tracing::info!(
        volume = %name, storage = stream.peer(), diff = %commit.diff,
        wlog_bytes, wdiff_bytes = stats.wdiff.bytes,
        seconds = started.elapsed().as_secs_f64(), "wlog received"
    );
    alive?;
    Ok(stream.send(&Done {}).await?)
}

/// The checks before anything changes.
fn admit(shared: &Shared, name: &VolumeName, begin: &WlogBegin) -> Result<Admitted, Refusal> {
    let refuse = |reason, error: &ApiError| Refusal {
        reason,
        message: error.to_string(),
    };
    let place = shared
        .context
        .foreground()
        .map_err(|e| refuse(RefusalReason::Limit, &e))?;
    let volume = shared.volume_or_clear(name);
    volume.usable().map_err(|e| refuse(RefusalReason::Other, &e))?;
    let force = volume.occupancy.force_stop();
    let work = volume.occupancy.begin(Command::WlogRecv).map_err(|error| {
        let reason = match &error {
            NotNow::Stopping => RefusalReason::Stopped,
            _ => RefusalReason::BadState,
        };
        refuse(reason, &volume.not_now(error))
    })?;
    let announced = begin.max_pb.saturating_mul(begin.pbs.bytes() as u64);
    shared
        .check_free_space(announced)
        .map_err(|e| refuse(RefusalReason::NoSpace, &e.volume(name)))?;
    Ok(Admitted {
        volume,
        work,
        force,
        _place: place,
    })
}

/// Receives all packs and the commit; the result is a synced temporary file.
async fn receive(
    shared: &Shared,
    volume: &Arc<Volume>,
    begin: &WlogBegin,
    stream: &mut Stream,
) -> Result<(Converted, WlogCommit), ApiError> {
    let (input, frames) = mpsc::channel(QUEUED_FRAMES);
    let mut converter = {
        let (dir, begin) = (volume.directory.received(), begin.clone());
        let (setting, name) = (shared.config.compression, volume.name.clone());
        tokio::task::spawn_blocking(move || convert(&dir, &name, &begin, setting, frames))
    };
    let fed = feed(volume, stream, &input).await;
    // Without an end the converter takes this as giving up. Either way it has ended before the peer is told anything.
    drop(input);
    let converted = match &fed {
        Ok(_) => stream.working(join(&mut converter)).await?,
        Err(_) => join(&mut converter).await,
    };
    match (fed, converted) {
        (Ok(commit), converted) => Ok((converted?, commit)),
        // The converter gave up first: it knows why.
        (Err(NotFed::ConverterEnded), Err(error)) | (Err(NotFed::Other(error)), _) => Err(error),
        (Err(NotFed::ConverterEnded), Ok(_)) => Err(ApiError::new(
            ErrorCode::Internal,
            "the converter ended before the log",
        )),
    }
}

enum NotFed {
    ConverterEnded,
    Other(ApiError),
}

impl From<StreamError> for NotFed {
    fn from(error: StreamError) -> Self {
        Self::Other(error.into())
    }
}

/// Hands everything that comes to the converter, up to the commit.
async fn feed(
    volume: &Volume,
    stream: &mut Stream,
    input: &mpsc::Sender<Input>,
) -> Result<WlogCommit, NotFed> {
    while let Received::Bulk(bulk) = stream.recv_bulk().await? {
        let handed = stream.working(input.send(Input::Bulk(bulk.clone()))).await?;
        handed.map_err(|_| NotFed::ConverterEnded)?;
        stream.consumed(&bulk).await?;
    }
    let commit: WlogCommit = stream.recv().await?;
    if !commit.diff.is_clean() {
        let message = format!(
            "volume {}: expected a clean diff, found {}",
            volume.name, commit.diff
        );
        return Err(NotFed::Other(ApiError::new(ErrorCode::BadRequest, message)));
    }
    input
        .send(Input::End(commit.end))
        .await
        .map_err(|_| NotFed::ConverterEnded)?;
    Ok(commit)
}

async fn join<T>(thread: &mut JoinHandle<Result<T, ApiError>>) -> Result<T, ApiError> {
    thread.await.map_err(|e| ApiError::internal(&e))?
}

/// Runs work that must be seen to its end, peer or no peer: its result, and whether the peer is still there.
async fn to_the_end<T>(
    stream: &mut Stream,
    mut work: JoinHandle<Result<T, ApiError>>,
) -> (Result<T, ApiError>, Result<(), StreamError>) {
    match stream.working(join(&mut work)).await {
        Ok(result) => (result, Ok(())),
        Err(error) => (join(&mut work).await, Err(error)),
    }
}
