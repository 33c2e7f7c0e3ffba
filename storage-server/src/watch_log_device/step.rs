//! One step of a volume: look, decide ([`crate::plan`]), do one thing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use walb_common::daemon::occupancy::{NotNow, Running, Storage};
use walb_common::disk::fault;
use walb_common::state::storage::{Action, Command, Dynamic, State, Static, may_send_wlog};
use walb_common::types::{Gid, Lsid, Timestamp};
use walb_wdev::client::DeviceStatus;

use crate::continuity::{self, Lost};
use crate::device::CallError;
use crate::metadata::MetadataError;
use crate::plan::{Keep, Next, choose_transfer, erase_to};
use crate::send_wlog::{SendError, send};
use crate::volume::{MarkError, Records, ResetError, Volume};

/// A state on its way is looked at again after this.
const SOON: Duration = Duration::from_millis(100);
/// A standby's log that cannot be erased yet is looked at again after this.
const STANDBY_AGAIN: Duration = Duration::from_secs(1);

/// What a step leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// Take another at once.
    Again,
    /// Nothing to do until log beyond `seen` is permanent, or so much time is over.
    Wait {
        seen: Lsid,
        again_after: Option<Duration>,
    },
}

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Lost(Lost),
    #[error(transparent)]
    Device(#[from] CallError),
    #[error(transparent)]
    Mark(MarkError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Store(#[from] MetadataError),
    #[error(transparent)]
    Reset(ResetError),
    #[error("erase the log")]
    Erase(#[source] std::io::Error),
}

impl From<MarkError> for StepError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Lost(lost) => Self::Lost(lost),
            other => Self::Mark(other),
        }
    }
}

impl StepError {
    /// Whether the device is just away for a moment.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Device(error) | Self::Mark(MarkError::Device(error)) => error.is_away(),
            Self::Send(SendError::Read(crate::send_wlog::ReadError::Device { source, .. })) => {
                source.is_away()
            }
            _ => false,
        }
    }
}

pub(super) async fn take(volume: &Volume) -> Result<Step, StepError> {
    let state = volume.occupancy.state();
    match state {
        State::Static(Static::Standby) => discard(volume).await,
        State::Dynamic(Dynamic::StartTarget | Dynamic::StartStandby) => Ok(later(SOON)),
        _ if may_send_wlog(state) => deliver(volume).await,
        // On its way out: whoever moves it ends this task.
        _ => Ok(later(SOON)),
    }
}

fn later(after: Duration) -> Step {
    Step::Wait {
        seen: Lsid(0),
        again_after: Some(after),
    }
}

/// Stands for a step at work; registered as an action, mostly.
struct AtWork(#[expect(dead_code, reason = "held for its drop")] Option<Running<Storage>>);

/// Registers the action, unless the volume is being stopped. During a backup a stop waits for the backup's end, and the
/// log goes on being sent until then: the backup itself ends this task before it lets the stop go on.
fn begin_action(volume: &Volume, action: Action) -> Option<AtWork> {
    match volume.occupancy.start_action(Command::GetDeviceInfo, action) {
        Ok(running) => Some(AtWork(Some(running))),
        Err(NotNow::Stopping) if matches!(volume.occupancy.state(), State::Dynamic(_)) => Some(AtWork(None)),
        Err(_) => None,
    }
}

async fn deliver(volume: &Volume) -> Result<Step, StepError> {
    let Some(_running) = begin_action(volume, Action::WlogSend) else {
        return Ok(later(SOON));
    };
    // A stop may have come and gone between the look at the state and the start of the action.
    if !may_send_wlog(volume.occupancy.state()) {
        return Ok(later(SOON));
    }
    // In this order: a record stored in between would seem to lie beyond the log's end.
    let mut records = volume.records().await;
    let status = volume.device.status().await?;
    continuity::check(records.uuid, &records.done, &records.queue, &status).map_err(StepError::Lost)?;
    let mut status = erase_delivered(volume, &records, status).await?;
    let limits = volume.shared.settings.limits(status.pbs);
    let mut next = choose_transfer(
        &records.done,
        &records.queue,
        &status.lsids,
        limits,
        Timestamp::now(),
    );
    if next == Next::TakeSnapshot {
        volume.mark_implicit(&status).await?;
        // The mark waited for its log to become permanent: what we know of the device is older.
        records = volume.records().await;
        status = volume.device.status().await?;
        next = choose_transfer(
            &records.done,
            &records.queue,
            &status.lsids,
            limits,
            Timestamp::now(),
        );
    }
    let transfer = match next {
        Next::TakeSnapshot => return Ok(Step::Again),
        Next::Wait(again_after) => {
            return Ok(Step::Wait {
                seen: status.lsids.permanent,
                again_after,
            });
        }
        Next::Send(transfer) => transfer,
        Next::LogWentBack { latest, recorded } => {
            return Err(StepError::Lost(Lost::WentBack {
                latest,
                marked: recorded,
            }));
        }
    };
    // Places are only taken for what really moves, so a volume that cannot do anything keeps none.
    let place = volume.shared.background.acquire().await;
    let sent = send(volume, &status, &transfer).await?;
    drop(place);
    // The proxy has it durable. Order from here: done record and queue in one transaction, then the log is erased. A
    // crash before the transaction sends the same range again, which the receivers tolerate; one after it only leaves
    // log that the next step erases.
    let done = sent.outcome.done;
    volume
        .change("done", move |records| {
            records.delivered(done);
            Ok::<_, MetadataError>(())
        })
        .await?;
    let status = volume.device.status().await?;
    erase_delivered(volume, &volume.records().await, status).await?;
    tracing::debug!(volume = %volume.name, proxy = sent.proxy, bytes = sent.bytes, "delivered and stored");
    Ok(Step::Again)
}

/// Erases what is delivered and written back; answers the device's state after that.
async fn erase_delivered(
    volume: &Volume,
    records: &Records,
    status: DeviceStatus,
) -> Result<DeviceStatus, StepError> {
    erase(
        volume,
        Keep::Undelivered {
            done: records.done.lsid,
        },
        records.done.lsid,
        status,
    )
    .await
}

/// `wanted`: up to where nobody but the device itself needs the log.
async fn erase(
    volume: &Volume,
    keep: Keep,
    wanted: Lsid,
    mut status: DeviceStatus,
) -> Result<DeviceStatus, StepError> {
    // Releasing the new log would make the device forget what changed before it.
    if volume.keeps_log.load(Ordering::Relaxed) && status.log_usage_pb < status.log_capacity_pb / 2 {
        return Ok(status);
    }
    let held_back = wanted > status.lsids.prev_written && status.lsids.permanent > status.lsids.prev_written;
    if held_back && status.log_usage_pb > status.log_capacity_pb / 4 && !status.overflow {
        // What is written back is known only as of the last checkpoint; with a ring this full we do not wait for the next.
        volume.device.checkpoint().await?;
        status = volume.device.status().await?;
    }
    if let Some(to) = erase_to(keep, &status.lsids, status.overflow) {
        fault::point("storage.erase").map_err(StepError::Erase)?;
        volume.device.set_oldest(to).await?;
        tracing::debug!(volume = %volume.name, %to, "log erased");
        status.lsids.oldest = to;
        status.log_usage_pb = status.lsids.latest.0.saturating_sub(to.0);
    }
    Ok(status)
}

/// A standby throws its log away, again and again: what cannot go now goes after the next checkpoint.
async fn discard(volume: &Volume) -> Result<Step, StepError> {
    let Some(_running) = begin_action(volume, Action::WlogRemove) else {
        return Ok(later(SOON));
    };
    if volume.occupancy.state() != State::Static(Static::Standby) {
        return Ok(later(SOON));
    }
    let mut status = volume.device.status().await?;
    if status.overflow {
        tracing::warn!(volume = %volume.name, "a standby's log has overflowed: reset");
        status = volume
            .reset_log("reset", Gid(0), Static::Standby)
            .await
            .map_err(StepError::Reset)?;
    }
    let latest = status.lsids.latest;
    let status = erase(volume, Keep::Nothing, latest, status).await?;
    let again_after = (status.lsids.oldest < latest).then_some(STANDBY_AGAIN);
    Ok(Step::Wait {
        seen: status.lsids.permanent,
        again_after,
    })
}

/// Stops a target whose continuity is lost: state and reason durable, then shown. False if the volume is in no state for
/// that (a backup fails by itself; a stop that is under way does the same).
pub(super) async fn stop_for(volume: &Volume, reason: &Lost) -> bool {
    let Ok(work) = volume.occupancy.begin(Command::LogOverflow) else {
        return false;
    };
    let (state, text) = (work.target(), reason.to_string());
    let stored = volume.change("overflow", move |records| {
        records.state = state;
        records.failed = Some(text);
        Ok::<_, MetadataError>(())
    });
    match stored.await {
        Ok(()) => {
            work.commit();
            tracing::error!(volume = %volume.name, "stopped: {reason}");
            true
        }
        Err(error) => {
            tracing::error!(volume = %volume.name, error = walb_common::daemon::chain(&error), "cannot store the stop");
            false
        }
    }
}
