//! What is shown of a volume.

use std::time::Duration;

use walb_common::daemon::chain;
use walb_common::rest::StopMode;
use walb_common::rest::storage::{DeviceLog, LogPoint, VolumeStatus};
use walb_common::state::Named;
use walb_common::state::storage::{Action, Static};
use walb_common::types::Uuid;
use walb_wdev::client::DeviceStatus;

use super::Volume;

/// How long a look at a device may take before the others are shown without it.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

impl Volume {
    /// Everything that can be told; a device that does not answer leaves its part out.
    pub async fn status(&self) -> VolumeStatus {
        let look = tokio::time::timeout(LOOK_WITHIN, self.device.status()).await;
        let (log, trouble) = match look {
            Ok(Ok(status)) => (Some(device_log(&status)), None),
            Ok(Err(error)) => (None, Some(chain(&error))),
            Err(_) => (
                None,
                Some(format!(
                    "device {} did not answer within {} s",
                    self.device.spec(),
                    LOOK_WITHIN.as_secs()
                )),
            ),
        };
        let records = self.records().await;
        let view = self.occupancy.view();
        let stop_state = match view.stopping {
            None => "NotStopping",
            Some(StopMode::Force) => "ForceStopping",
            Some(_) => "Stopping",
        };
        let actions = Action::ALL
            .iter()
            .map(|&a| (a.name().to_owned(), self.occupancy.running(a)))
            .collect();
        VolumeStatus {
            name: self.name.to_string(),
            state: view.state.name().to_owned(),
            failed: records.failed.clone(),
            actions,
            stop_state: stop_state.to_owned(),
            monitored: self.is_watched().await,
            device: Some(records.device.clone()),
            log,
            done: Some(LogPoint::from(&records.done)),
            queue: records.queue.iter().rev().map(LogPoint::from).collect(),
            uuid: records.uuid,
            last_error: self.last_error().or(trouble),
            healing: self.healing.told(),
            last_hash_backup: records.last_backup,
        }
    }
}

fn device_log(status: &DeviceStatus) -> DeviceLog {
    DeviceLog {
        size: status.size,
        pbs: status.pbs.into(),
        salt: status.salt,
        overflow: status.overflow,
        usage_pb: status.log_usage_pb,
        capacity_pb: status.log_capacity_pb,
        oldest: status.lsids.oldest,
        permanent: status.lsids.permanent,
        latest: status.lsids.latest,
    }
}

/// Of a volume that nothing is known of.
pub fn clear_status(name: &str) -> VolumeStatus {
    VolumeStatus {
        name: name.to_owned(),
        state: Static::Clear.name().to_owned(),
        failed: None,
        actions: Vec::new(),
        stop_state: "NotStopping".to_owned(),
        monitored: false,
        device: None,
        log: None,
        done: None,
        queue: Vec::new(),
        uuid: Uuid::NIL,
        last_error: None,
        healing: None,
        last_hash_backup: None,
    }
}

/// Of a volume whose stored records cannot be used.
pub fn failed_status(name: &str, reason: &str) -> VolumeStatus {
    VolumeStatus {
        state: "Failed".to_owned(),
        failed: Some(reason.to_owned()),
        ..clear_status(name)
    }
}
