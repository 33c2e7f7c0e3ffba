//! What is to be seen of the archive and of its volumes.

use axum::Json;
use axum::extract::State;
use walb_common::daemon::extract::Volume as VolumeParameter;
use walb_common::lineage::{BaseState, Snapshot};
use walb_common::rest::archive::{ActionStatus, Global, Status, VolumeStatus};
use walb_common::rest::{StopMode, VolumeBrief};
use walb_common::state::Named;
use walb_common::state::archive::Action;
use walb_common::types::{Gid, Timestamp, Uuid};

use super::lists::restorable_of;
use super::{Answered, Server};
use crate::ArchiveServer;
use crate::volume::Volume;

/// Settings and all volumes.
pub(super) async fn status(State(server): Server) -> Answered<Status> {
    let volumes = server.volumes().iter().map(|v| volume_status(v)).collect();
    Ok(Json(Status {
        global: global(&server),
        volumes,
    }))
}

fn global(server: &ArchiveServer) -> Global {
    let (config, node) = (server.config(), &server.config().node);
    Global {
        node_id: server.context().node_id(),
        base_dir: node.data_dir.display().to_string(),
        image_dir: server.images().dir().display().to_string(),
        max_connections: node.max_connections as u64,
        max_foreground_tasks: node.max_foreground_tasks as u64,
        socket_timeout: node.socket_timeout_seconds,
        discard: config.discard.name().to_owned(),
    }
}

/// Names and states.
pub(super) async fn volumes(State(server): Server) -> Answered<Vec<VolumeBrief>> {
    let brief = |volume: &Volume| VolumeBrief {
        name: volume.name().to_string(),
        state: volume.occupancy.state().to_string(),
        failed: volume.held().failed.clone(),
    };
    Ok(Json(server.volumes().iter().map(|v| brief(v)).collect()))
}

/// One volume; an unknown one is in state Clear.
pub(super) async fn volume(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
) -> Answered<VolumeStatus> {
    Ok(Json(volume_status(&server.volume(&name))))
}

pub(super) fn volume_status(volume: &Volume) -> VolumeStatus {
    let view = volume.occupancy.view();
    let (all, explicit) = (
        restorable_of(volume, true).len(),
        restorable_of(volume, false).len(),
    );
    let held = volume.held();
    // Without data: what the existing archive shows then.
    let nothing = BaseState::idle(Snapshot::clean(Gid::MAX), Timestamp::NONE);
    let action = |action: &Action| {
        let (running, last_began) = view.actions.get(action).copied().unwrap_or((0, Timestamp::NONE));
        ActionStatus {
            name: action.to_string(),
            running,
            last_began,
        }
    };
    let stop_state = match view.stopping {
        None => "NotStopping",
        Some(StopMode::Force) => "ForceStopping",
        Some(StopMode::Graceful | StopMode::Empty) => "Stopping",
    };
    VolumeStatus {
        name: volume.name().to_string(),
        state: view.state.to_string(),
        failed: held.failed.clone(),
        actions: Action::ALL.iter().map(action).collect(),
        stop_state: stop_state.to_owned(),
        last_sync: held.last_sync,
        last_wdiff_received: held.last_wdiff_received,
        progress: volume.progress(),
        size: held.size,
        uuid: held.lineage.map_or(Uuid::NIL, |l| l.uuid),
        archive_uuid: held.lineage.map_or(Uuid::NIL, |l| l.archive_uuid),
        base: held.lineage.map_or(nothing, |l| l.base).with_time(),
        latest: held.latest.map(|l| l.snapshot()),
        latest_timestamp: held.latest.map_or(Timestamp::NONE, |l| l.timestamp()),
        num_restored: held.restored.len() as u64,
        num_restorable: explicit as u64,
        num_restorable_all: all as u64,
        num_diff: held.diffs.len() as u64,
        wdiff_total_size: held.diffs.iter().map(walb_common::lineage::MetaDiff::size).sum(),
        warnings: held.warnings(),
    }
}
