//! Sending what waits: one task per volume and archive, so that an archive that does not answer delays nobody else.
//!
//! ```text
//! due -> a place among the transfers to that address -> send list -> open all -> offer (WdiffBegin)
//!   accepted: merged stream -> Done -> remove the links -> again, until nothing waits
//!   refused:  crate::reaction decides: delete, back off, or raise the error flag
//! ```
//! Tasks are woken, never polling. A task ends with its archive's registration or with the daemon.

mod files;
mod stream_out;
mod transfer;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use walb_common::daemon::chain;
use walb_common::lineage::MetaDiff;
use walb_common::rest::ApiError;
use walb_common::state::proxy::{Action, Command};
use walb_common::types::{Timestamp, Uuid};

use crate::Shared;
use crate::reaction::{Reaction, Reply, react};
use crate::volume::Volume;
use crate::volume::destination::Destination;
use crate::volume::waiting::WaitingDiff;
use files::{OpenFailed, open_all, remove_sent, set_aside_damaged};
use transfer::Ended;

/// How often a list is chosen anew because a file of it has gone.
const CHOICES_MAX: usize = 10;

/// With the error flag up, at least so long from one try to the next.
const FLAGGED_DELAY: Duration = Duration::from_secs(60);
/// Waits from this on make so few lines in the log that a repeated reason is told again.
const SELDOM: f64 = 60.0;

/// What a run leads to.
enum Next {
    /// Nothing waits.
    Idle,
    /// There may be more.
    Again,
    /// Try again then.
    After(Duration),
    /// The error flag; seldom tries until something happens.
    GiveUp,
}

/// Starts the task of an archive.
pub fn spawn(shared: &Arc<Shared>, volume: Arc<Volume>, archive: Arc<Destination>) {
    let shared = shared.clone();
    shared.context.lifecycle.clone().spawn(async move {
        let gone = archive.gone.clone();
        let stopping = shared.context.lifecycle.stopping();
        loop {
            let due = archive.due();
            let time = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = gone.cancelled() => return,
                () = stopping.cancelled() => return,
                () = archive.changed() => continue,
                () = time => {}
            }
            // Transfers to one address are limited together; other addresses are not concerned.
            let places = shared.places(&archive.info().address);
            let place = tokio::select! {
                () = gone.cancelled() => return,
                () = stopping.cancelled() => return,
                place = places.acquire_owned() => place,
            };
            run(&shared, &volume, &archive).await;
            drop(place);
        }
    });
}

async fn run(shared: &Arc<Shared>, volume: &Arc<Volume>, archive: &Arc<Destination>) {
    // First, so that whatever is queued from here on leads to another run.
    archive.begin_run();
    // Not a state to send in: whoever leads the volume into one kicks us.
    let Ok(running) = volume
        .occupancy
        .start_action(Command::WdiffSend, Action::WdiffSend)
    else {
        return;
    };
    let force = volume.occupancy.force_stop();
    let abort = shared.context.lifecycle.aborting();
    archive.set_sending(true);
    let next = tokio::select! {
        next = send_next(shared, volume, archive) => next,
        () = force.cancelled() => Next::Idle,
        () = abort.cancelled() => Next::Idle,
    };
    archive.set_sending(false);
    match next {
        Next::Idle => {}
        Next::Again => archive.run_again(Duration::ZERO),
        Next::After(wait) => archive.run_again(wait),
        Next::GiveUp => {
            tracing::error!(
                volume = %volume.name, archive = archive.name,
                "sending stopped with an error: until a new wlog, kick or start it is tried but seldom"
            );
            archive.give_up(shared.config.retry_policy().max_delay.max(FLAGGED_DELAY));
        }
    }
    drop(running);
}

async fn send_next(shared: &Arc<Shared>, volume: &Arc<Volume>, archive: &Arc<Destination>) -> Next {
    let Some((list, files)) = (match choose_and_open(shared, volume, archive).await {
        Ok(found) => found,
        Err(error) => return back_off(shared, volume, archive, Reply::OtherRefusal, &error.to_string()),
    }) else {
        return Next::Idle;
    };
    let diffs: Vec<MetaDiff> = list.iter().map(|d| d.diff).collect();
    let Some(merged) = MetaDiff::merge_all(&diffs) else {
        return Next::Idle;
    };
    let uuid = list.first().map_or(Uuid::NIL, |d| d.uuid);
    let began = Instant::now();
    match transfer::send(shared, volume, archive, files, merged, uuid).await {
        Ended::Delivered { bytes } => {
            tracing::info!(
                volume = %volume.name, archive = archive.name, diff = %merged, files = list.len(), bytes,
                seconds = began.elapsed().as_secs_f64(), "wdiff delivered"
            );
            archive.delivered(Timestamp::now());
            shared.totals.sent(bytes);
            remove(shared, volume, archive, list).await
        }
        Ended::Refused {
            reply: Reply::TooNewDiff,
            message,
        } => {
            archive.set_too_new(&message);
            let reaction = reaction(shared, volume, archive, Reply::TooNewDiff);
            refused(volume, archive, reaction, &format!("{merged}: {message}"))
        }
        Ended::Refused { reply, message } => match reaction(shared, volume, archive, reply) {
            Reaction::DeleteAndContinue => {
                tracing::warn!(
                    volume = %volume.name, archive = archive.name, diff = %merged, files = list.len(), reason = message,
                    "diffs removed unsent: the archive does not need them"
                );
                remove(shared, volume, archive, list).await
            }
            reaction => refused(volume, archive, reaction, &format!("{merged}: {message}")),
        },
        Ended::Damaged(error) => {
            archive.set_error(chain(&error));
            match set_aside_damaged(volume, archive, &list, &error).await {
                Ok(()) => Next::Again,
                Err(error) => back_off(shared, volume, archive, Reply::OtherRefusal, &error.to_string()),
            }
        }
    }
}

/// The list to send and its open files: all of them, as others may be removed once one is open.
async fn choose_and_open(
    shared: &Shared,
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
) -> Result<Option<(Vec<WaitingDiff>, Vec<(String, File)>)>, ApiError> {
    for _ in 0..CHOICES_MAX {
        let list = archive.with_waiting(|waiting| waiting.send_list(shared.config.send_limits()));
        if list.is_empty() {
            return Ok(None);
        }
        match open_all(volume, archive, &list).await? {
            Ok(files) => return Ok(Some((list, files))),
            Err(OpenFailed::Missing(diff)) => {
                // A transfer or a replacement took it; or somebody did who should not have.
                if archive.with_waiting(|waiting| waiting.has(&diff)) {
                    tracing::error!(volume = %volume.name, archive = archive.name, diff = %diff.diff, "the file of a waiting diff is gone");
                    archive.forget(&diff);
                }
            }
            Err(OpenFailed::Io(error)) => return Err(ApiError::internal(&error)),
        }
    }
    Err(ApiError::new(
        walb_common::rest::ErrorCode::Busy,
        "files go away faster than they can be opened",
    ))
}

async fn remove(
    shared: &Shared,
    volume: &Arc<Volume>,
    archive: &Arc<Destination>,
    list: Vec<WaitingDiff>,
) -> Next {
    match remove_sent(volume, archive, list).await {
        Ok(()) => Next::Again,
        // They will be offered again and found too old; but not in a hot loop.
        Err(error) => back_off(shared, volume, archive, Reply::OtherRefusal, &error.to_string()),
    }
}

fn reaction(shared: &Shared, volume: &Volume, archive: &Destination, reply: Reply) -> Reaction {
    let policy = shared.config.retry_policy();
    archive.with_backoff(|b| react(reply, b, &policy, volume.last_received(), Timestamp::now()))
}

fn back_off(shared: &Shared, volume: &Volume, archive: &Destination, reply: Reply, message: &str) -> Next {
    refused(volume, archive, reaction(shared, volume, archive, reply), message)
}

fn refused(volume: &Volume, archive: &Destination, reaction: Reaction, message: &str) -> Next {
    let (retry_seconds, next) = match reaction {
        Reaction::RetryAfter(wait) => (Some(wait.as_secs_f64()), Next::After(wait)),
        Reaction::RaiseErrorFlag => (None, Next::GiveUp),
        Reaction::Send | Reaction::DeleteAndContinue => (Some(0.0), Next::Again),
    };
    // An archive that is down for hours is tried each second, by every volume: it is told once.
    let repeated = archive.set_error(message.to_owned());
    if repeated && retry_seconds.is_some_and(|seconds| seconds < SELDOM) {
        tracing::debug!(volume = %volume.name, archive = archive.name, reason = message, retry_seconds, "wdiff not delivered");
    } else {
        tracing::warn!(volume = %volume.name, archive = archive.name, reason = message, retry_seconds, "wdiff not delivered");
    }
    next
}
