//! Stopping: waits for what runs, then stores the state, then shows it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walb_common::daemon::occupancy::{Proxy, Stopping};
use walb_common::rest::{ApiError, ErrorCode, StopMode};
use walb_common::state::proxy::{Command, Static};

use super::Volume;
use crate::metadata::Metadata;

/// A forced stop has cut every stream; what is left is the end of a disk operation.
const FORCE_PATIENCE: Duration = Duration::from_secs(60);
/// Waits of the other kinds end when what runs has ended, or with the job's cancellation.
const PATIENCE: Duration = Duration::from_secs(365 * 86400);

impl Volume {
    /// The work of a stop job. When it fails the volume is Started again and goes on.
    pub async fn stop(
        &self,
        metadata: &Metadata,
        stopping: Stopping<Proxy>,
        mode: StopMode,
        cancel: &CancellationToken,
    ) -> Result<(), ApiError> {
        let result = self.stop_inner(metadata, &stopping, mode, cancel).await;
        drop(stopping);
        if result.is_err() {
            // Tasks that were turned away while the stop was under way take up their work again.
            self.kick();
        }
        result
    }

    async fn stop_inner(
        &self,
        metadata: &Metadata,
        stopping: &Stopping<Proxy>,
        mode: StopMode,
        cancel: &CancellationToken,
    ) -> Result<(), ApiError> {
        let work = if mode == StopMode::Empty {
            // A log that is being received comes first: it becomes something to send.
            let at_rest = self
                .occupancy
                .wait_for(PATIENCE, |view| view.state.at_rest().is_some());
            until(cancel, at_rest).await?;
            let work = stopping.begin(Command::StopEmpty).map_err(|e| self.not_now(e))?;
            self.kick();
            let empty = self.occupancy.wait_for(PATIENCE, |view| {
                self.is_empty() && view.actions.values().all(|(running, _)| *running == 0)
            });
            until(cancel, empty).await?;
            work
        } else {
            let patience = if mode == StopMode::Force {
                FORCE_PATIENCE
            } else {
                PATIENCE
            };
            until(cancel, stopping.until_quiet(patience))
                .await?
                .map_err(|e| self.not_now(e))?;
            stopping.begin(Command::Stop).map_err(|e| self.not_now(e))?
        };
        // Stored before it is shown: a restart never starts what was seen to be stopped.
        metadata
            .set_state(&self.name, Static::Stopped)
            .await
            .map_err(|e| ApiError::internal(&e))?;
        work.commit();
        tracing::info!(volume = %self.name, ?mode, "stopped");
        Ok(())
    }
}

async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, ApiError> {
    cancel
        .run_until_cancelled(work)
        .await
        .ok_or_else(|| ApiError::new(ErrorCode::Cancelled, "the stop was cancelled"))
}
