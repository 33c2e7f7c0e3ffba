//! One task per volume whose log is followed: it waits for the device's word, then takes steps until nothing is left.
//!
//! ```text
//!  device event --100 ms, and 1 s after the last step--.
//!  snapshot, kick, proxy back --at once----------------+--> step --> again | wait for an event, or a while | back off
//!  failed step --1, 2, 4 ... 300 s---------------------'
//! ```
//! Each volume has its own task and its own back-off, so one that fails delays no other; only transfers share the places
//! in the background.

mod step;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use walb_common::daemon::chain;
use walb_common::types::Lsid;

use crate::volume::Volume;
use step::{Step, StepError};

/// The device is asked to wait this long for news before it is asked again.
const LISTEN: Duration = Duration::from_secs(60);
/// A device that is away costs next to nothing to look for, so it is found again soon.
const AWAY_RETRY_MAX: Duration = Duration::from_secs(5);

/// A running task.
pub struct Watcher {
    stop: CancellationToken,
    ended: CancellationToken,
    lost: CancellationToken,
}

impl Watcher {
    /// Starts it; the first step is taken at once.
    pub fn start(volume: Arc<Volume>) -> Self {
        let (stop, ended, lost) = (
            CancellationToken::new(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        let watcher = Self {
            stop: stop.clone(),
            ended: ended.clone(),
            lost: lost.clone(),
        };
        let lifecycle = volume.shared.context.lifecycle.clone();
        let aborting = lifecycle.aborting();
        lifecycle.spawn(async move {
            // However this task ends: nobody may wait for it for ever.
            let _ended = ended.drop_guard();
            tokio::select! {
                () = watch_always(volume, stop, lost) => {}
                () = aborting.cancelled() => {}
            }
        });
        watcher
    }

    /// Ends it after the step it is at.
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// Cancelled when continuity was found lost.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

/// A panic is a bug of ours; it must not leave the volume unwatched until somebody notices.
async fn watch_always(volume: Arc<Volume>, stop: CancellationToken, lost: CancellationToken) {
    loop {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch(volume.clone(), stop.clone(), lost.clone()));
        let Some(Err(error)) = tasks.join_next().await else {
            return;
        };
        let text = format!("the task that follows the log died: {error}");
        tracing::error!(volume = %volume.name, "{text}");
        volume.set_error(Some(text));
        tokio::select! {
            () = tokio::time::sleep(AWAY_RETRY_MAX) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn watch(volume: Arc<Volume>, stop: CancellationToken, lost: CancellationToken) {
    let settings = volume.shared.settings.clone();
    let stopping = volume.shared.context.lifecycle.stopping();
    let mut calls = volume.shared.proxies.calls();
    let mut due = Some(Instant::now());
    // The permanent lsid that the last step saw; none while a step is due anyway.
    let mut listen_from: Option<Lsid> = None;
    let mut failures = 0;
    let mut last_step = Instant::now();
    loop {
        volume.set_due(due);
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = stopping.cancelled() => return,
            () = volume.wake.notified() => Event::Now,
            _ = calls.changed() => Event::Now,
            () = until(due) => Event::Due,
            event = listen(&volume, listen_from) => event,
        };
        let result = match event {
            Event::Now => {
                due = Some(Instant::now());
                continue;
            }
            Event::News => {
                let soon = Instant::now() + Duration::from_millis(settings.send_delay_milliseconds);
                let paced = last_step + Duration::from_millis(settings.transfer_interval_milliseconds);
                let soon = soon.max(paced);
                due = Some(due.map_or(soon, |at| at.min(soon)));
                listen_from = None;
                continue;
            }
            Event::Quiet => continue,
            Event::Failed(error) => Err(error),
            Event::Due => {
                last_step = Instant::now();
                tokio::select! {
                    result = step::take(&volume) => result,
                    () = volume.occupancy.force_stop().cancelled_owned() => {
                        tracing::warn!(volume = %volume.name, "step cut by a forced stop");
                        Ok(Step::Wait { seen: Lsid(0), again_after: Some(Duration::from_millis(100)) })
                    }
                }
            }
        };
        match result {
            Ok(step) => {
                failures = 0;
                if volume.set_error(None) {
                    tracing::info!(volume = %volume.name, "log is followed again");
                }
                match step {
                    Step::Again => (due, listen_from) = (Some(Instant::now()), None),
                    Step::Wait { seen, again_after } => {
                        due = again_after.map(|after| Instant::now() + after);
                        listen_from = Some(seen);
                    }
                }
            }
            Err(StepError::Lost(reason)) => {
                lost.cancel();
                if volume.set_error(Some(reason.to_string())) {
                    tracing::error!(volume = %volume.name, "{reason}");
                }
                // A backup that runs takes notice and fails; a target is stopped here.
                if step::stop_for(&volume, &reason).await {
                    return;
                }
                (due, listen_from) = (Some(Instant::now() + AWAY_RETRY_MAX), None);
            }
            Err(error) => {
                failures += 1;
                let mut delay = settings.retry_delay(failures);
                if error.is_away() {
                    delay = delay.min(AWAY_RETRY_MAX);
                }
                let text = chain(&error);
                let retry_in = delay.as_secs();
                if volume.set_error(Some(text.clone())) {
                    tracing::error!(volume = %volume.name, error = text, retry_in, "log is not sent");
                } else {
                    tracing::debug!(volume = %volume.name, error = text, retry_in, failures, "log is still not sent");
                }
                (due, listen_from) = (Some(Instant::now() + delay), None);
            }
        }
    }
}

enum Event {
    Now,
    Due,
    News,
    Quiet,
    Failed(StepError),
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn listen(volume: &Volume, from: Option<Lsid>) -> Event {
    let Some(from) = from else {
        return std::future::pending().await;
    };
    match volume.device.wait_for_log(from, LISTEN).await {
        // Less than before: somebody reset the log; the step finds out.
        Ok(permanent) if permanent != from => Event::News,
        Ok(_) => Event::Quiet,
        Err(error) => Event::Failed(error.into()),
    }
}
