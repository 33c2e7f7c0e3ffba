//! Marking a point of the log as a snapshot.
//!
//! A record is stored only once the log is permanent up to its lsid. Otherwise a crash of the device could end the log
//! before the mark; log written later would reuse those lsids, and the mark would lie inside a pack for ever.

use std::time::Duration;

use walb_common::daemon::occupancy::NotNow;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::Command;
use walb_common::types::{Gid, Lsid, Timestamp};
use walb_wdev::client::DeviceStatus;

use super::Volume;
use crate::continuity::{self, Lost};
use crate::device::CallError;
use crate::metadata::MetadataError;
use crate::plan::{LsidGid, SnapshotRefused, take_snapshot};

/// How long log may take to become permanent by itself.
const PERMANENT_WITHIN: Duration = Duration::from_secs(2);

/// A snapshot could not be marked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MarkError {
    #[error(transparent)]
    Device(#[from] CallError),
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Refused(#[from] SnapshotRefused),
    #[error("the log did not become permanent up to lsid {wanted}, only to {permanent}")]
    NotPermanent { wanted: Lsid, permanent: Lsid },
    #[error(transparent)]
    Store(#[from] MetadataError),
}

impl From<MarkError> for ApiError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Device(error) => error.into(),
            MarkError::Store(error) => error.into(),
            MarkError::NotPermanent { .. } => Self::new(ErrorCode::Unavailable, error.to_string()),
            MarkError::Lost(_) | MarkError::Refused(_) => Self::new(ErrorCode::Overflow, error.to_string()),
        }
    }
}

impl Volume {
    /// Command `snapshot`: marks what is written now, and has it sent at once.
    pub async fn snapshot(&self) -> Result<Gid, ApiError> {
        if self.occupancy.view().stopping.is_some() {
            return Err(NotNow::Stopping.into());
        }
        self.occupancy.check(Command::Snapshot)?;
        let record = self.mark_explicit().await.map_err(|error| match error {
            MarkError::Lost(lost) => self.refused_by("wlog overflow", &lost),
            other => other.into(),
        })?;
        tracing::info!(volume = %self.name, gid = %record.gid, lsid = %record.lsid, "snapshot");
        Ok(record.gid)
    }

    /// An explicit snapshot of everything written so far.
    pub(crate) async fn mark_explicit(&self) -> Result<LsidGid, MarkError> {
        // In this order: a record stored in between would seem to lie beyond the log's end.
        let records = self.records().await;
        let status = self.device.status().await?;
        continuity::check(records.uuid, &records.done, &records.queue, &status)?;
        let latest = status.lsids.latest;
        if status.lsids.permanent < latest {
            self.device.flush().await?;
        }
        let record = self.mark(&status, latest, false).await?;
        self.wake.notify_one();
        Ok(record)
    }

    /// An implicit snapshot at the log's end, just to have something to send.
    pub(crate) async fn mark_implicit(&self, status: &DeviceStatus) -> Result<LsidGid, MarkError> {
        self.mark(status, status.lsids.latest, true).await
    }

    async fn mark(&self, status: &DeviceStatus, latest: Lsid, mergeable: bool) -> Result<LsidGid, MarkError> {
        self.until_permanent(status, latest).await?;
        let max_pb = self.shared.settings.limits(status.pbs).max_pb;
        let (status, now) = (status.clone(), Timestamp::now());
        let step = if mergeable {
            "implicit-snapshot"
        } else {
            "snapshot"
        };
        self.change(step, move |records| {
            // Another snapshot may have been marked further on since we looked: then this one is there as well.
            let latest = latest.max(records.newest().lsid);
            let mut status = status;
            status.lsids.latest = latest;
            continuity::check(records.uuid, &records.done, &records.queue, &status)?;
            let record = take_snapshot(
                &records.done,
                &records.queue,
                latest,
                status.overflow,
                max_pb,
                mergeable,
                now,
            )?;
            records.queue.push(record);
            Ok(record)
        })
        .await
    }

    async fn until_permanent(&self, status: &DeviceStatus, wanted: Lsid) -> Result<(), MarkError> {
        let mut permanent = status.lsids.permanent;
        let until = tokio::time::Instant::now() + PERMANENT_WITHIN;
        while permanent < wanted {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Err(MarkError::NotPermanent { wanted, permanent });
            }
            permanent = self.device.wait_for_log(permanent, left).await?;
        }
        Ok(())
    }
}
