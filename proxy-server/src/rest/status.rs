//! What can be seen.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use walb_common::daemon::extract::{Parameters, Volume};
use walb_common::rest::proxy::{Diffs, Global, Status, VolumeStatus};
use walb_common::rest::{ApiError, ErrorCode, VolumeBrief};

use crate::Shared;

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let (node, proxy) = (&shared.context.node, &shared.config);
    let global = Global {
        node_id: shared.context.node_id(),
        base_dir: node.data_dir.display().to_string(),
        max_wdiff_send_mb: proxy.max_wdiff_send_mb,
        min_delay_sec_for_retry: proxy.retry_min_seconds,
        max_delay_sec_for_retry: proxy.retry_max_seconds,
        retry_timeout: proxy.retry_timeout_seconds,
        max_connections: node.max_connections as u64,
        max_foreground_tasks: node.max_foreground_tasks as u64,
        max_background_tasks: node.max_background_tasks as u64,
        socket_timeout: node.socket_timeout_seconds,
    };
    let volumes = shared.volumes();
    let tasks = volumes
        .iter()
        .flat_map(|v| v.archives().into_iter().filter_map(|a| a.task(&v.name)))
        .collect();
    Json(Status {
        global,
        tasks,
        volumes: volumes.iter().map(|v| v.status()).collect(),
    })
}

pub(super) async fn volumes(State(shared): State<Arc<Shared>>) -> Json<Vec<VolumeBrief>> {
    let brief = |v: &Arc<crate::volume::Volume>| VolumeBrief {
        name: v.name.to_string(),
        state: v.occupancy.state().to_string(),
        failed: v.failed(),
    };
    Json(shared.volumes().iter().map(brief).collect())
}

pub(super) async fn volume(State(shared): State<Arc<Shared>>, Volume(name): Volume) -> Json<VolumeStatus> {
    Json(shared.volume_or_clear(&name).status())
}

#[derive(Deserialize)]
pub(super) struct DiffsQuery {
    archive: Option<String>,
}

pub(super) async fn diffs(
    State(shared): State<Arc<Shared>>,
    Volume(name): Volume,
    Parameters(query): Parameters<DiffsQuery>,
) -> Result<Json<Diffs>, ApiError> {
    let volume = shared.volume_or_clear(&name);
    let Some(archive) = query.archive else {
        return Ok(Json(volume.undistributed()));
    };
    match volume.archive(&archive) {
        Some(archive) => Ok(Json(archive.with_waiting(|waiting| waiting.list()))),
        None => {
            Err(ApiError::new(ErrorCode::NotFound, format!("archive does not exist:{archive}")).volume(&name))
        }
    }
}
