//! Commands that move a volume: start, stop, reset, clear. Each stores the new state before it shows it.

use std::sync::Arc;
use std::time::Duration;

use walb_common::daemon::jobs::JobContext;
use walb_common::daemon::occupancy::{Stopping, Storage};
use walb_common::rest::{ApiError, ErrorCode, StopMode};
use walb_common::state::storage::{Command, Dynamic, State, Static};
use walb_common::types::{Gid, ParseError};

use super::Volume;

/// How long a forced stop waits for what it has cut.
const FORCED_WITHIN: Duration = Duration::from_secs(60);
/// How often a graceful stop, which waits as long as it takes, says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The role a volume is started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAs {
    /// Its log is sent.
    Target,
    /// Its log is thrown away.
    Standby,
}

impl std::str::FromStr for StartAs {
    type Err = ParseError;
    fn from_str(role: &str) -> Result<Self, ParseError> {
        match role {
            "target" => Ok(Self::Target),
            "standby" => Ok(Self::Standby),
            _ => Err(ParseError::new("role", role, "target or standby")),
        }
    }
}

impl Volume {
    /// Command `start`.
    pub async fn start(self: &Arc<Self>, role: StartAs) -> Result<(), ApiError> {
        match role {
            StartAs::Target => {
                let work = self.occupancy.begin(Command::StartTarget)?;
                self.continuous_status().await?;
                self.store_state("start-target", Static::Target).await?;
                work.commit();
            }
            StartAs::Standby => {
                let work = self.occupancy.begin(Command::StartStandby)?;
                if self.device.status().await?.overflow {
                    // Nobody wants this log; without a reset it would stay overflowed for ever.
                    self.reset_log("reset", Gid(0), Static::SyncReady).await?;
                }
                self.store_state("start-standby", Static::Standby).await?;
                work.commit();
            }
        }
        self.set_error(None);
        tracing::info!(volume = %self.name, state = %self.occupancy.state(), "started");
        self.watch().await;
        Ok(())
    }

    /// First half of command `stop`: refuses what cannot be stopped, and marks the volume as being stopped.
    pub fn begin_stop(&self, mode: StopMode) -> Result<Stopping<Storage>, ApiError> {
        if mode == StopMode::Empty {
            let message = "stop empty is not allowed: a storage knows graceful and force";
            return Err(ApiError::new(ErrorCode::BadRequest, message));
        }
        let stopping = self.occupancy.begin_stop(mode)?;
        // A backup is stoppable too: the stop takes effect at its end.
        let state = self.occupancy.state();
        let stoppable = matches!(
            state,
            State::Static(Static::Target | Static::Standby)
                | State::Dynamic(
                    Dynamic::FullSync | Dynamic::HashSync | Dynamic::StartTarget | Dynamic::StartStandby
                )
        );
        if stoppable {
            return Ok(stopping);
        }
        let message = format!("bad state:{state}, expected Target or Standby");
        Err(ApiError::new(ErrorCode::WrongState, message).state(state))
    }

    /// Second half of command `stop`, as a job. A graceful stop waits for what runs; a backup completes and the volume
    /// ends in Stopped. A forced one cuts what runs.
    pub async fn finish_stop(
        &self,
        stopping: Stopping<Storage>,
        mode: StopMode,
        job: &JobContext,
    ) -> Result<serde_json::Value, ApiError> {
        loop {
            let within = if mode == StopMode::Force {
                FORCED_WITHIN
            } else {
                SAY_EVERY
            };
            let quiet = tokio::select! {
                quiet = stopping.until_quiet(within) => quiet,
                () = job.cancel.cancelled() => {
                    return Err(ApiError::new(ErrorCode::Cancelled, "the stop was cancelled; what ran goes on"));
                }
            };
            match quiet {
                Ok(()) => break,
                Err(error) if mode == StopMode::Force => return Err(error.into()),
                Err(error) => tracing::info!(volume = %self.name, "still stopping: {error}"),
            }
        }
        // A backup that ran has taken the stop into account itself, or has failed back to SyncReady.
        if let State::Static(Static::Target | Static::Standby) = self.occupancy.state() {
            let work = stopping.begin(Command::Stop)?;
            self.unwatch().await;
            self.store_state("stop", work.target()).await?;
            work.commit();
            self.set_error(None);
        }
        drop(stopping);
        let state = self.occupancy.state();
        tracing::info!(volume = %self.name, %state, "stopped");
        Ok(serde_json::json!({ "state": state.name() }))
    }

    /// Command `reset`.
    pub async fn reset(&self, gid: Gid) -> Result<(), ApiError> {
        if gid == Gid::MAX {
            return Err(ParseError::new("gid", &gid.to_string(), "a decimal number below 2^64-1").into());
        }
        let work = self.occupancy.begin(Command::ResetVol)?;
        self.reset_log("reset", gid, work.target()).await?;
        work.commit();
        Ok(())
    }

    /// Command `clear`, up to where the volume is forgotten: the caller drops it from its list. The device is not touched.
    pub async fn clear(&self) -> Result<(), ApiError> {
        let work = self.occupancy.begin(Command::ClearVol)?;
        self.unwatch().await;
        self.shared.store.delete(&self.name).await?;
        work.commit();
        tracing::info!(volume = %self.name, "cleared");
        Ok(())
    }
}
