//! Commands on volumes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use walb_common::daemon::extract::{Body, Volume};
use walb_common::daemon::server::accepted;
use walb_common::rest::proxy::KickRequest;
use walb_common::rest::{ApiError, Empty, ErrorCode, StartRequest, StopMode, StopRequest};
use walb_common::state::proxy::{Command, find_move};
use walb_common::types::VolumeName;

use super::to_the_end;
use crate::Shared;
use crate::volume::registry;

pub(super) async fn start(
    State(shared): State<Arc<Shared>>,
    Volume(name): Volume,
    Body(_): Body<StartRequest>,
) -> Result<Json<Empty>, ApiError> {
    to_the_end(async move { registry::start(&shared, &name).await })
        .await
        .map(Json)
}

/// Accepted at once, unless the volume cannot be stopped at all; the job tells the rest.
pub(super) async fn stop(
    State(shared): State<Arc<Shared>>,
    Volume(name): Volume,
    Body(request): Body<StopRequest>,
) -> Result<Response, ApiError> {
    let volume = shared.volume_or_clear(&name);
    let stopping = volume
        .occupancy
        .begin_stop(request.mode)
        .map_err(|e| volume.not_now(e))?;
    if let Some(state) = volume.occupancy.state().at_rest() {
        let by = if request.mode == StopMode::Empty {
            Command::StopEmpty
        } else {
            Command::Stop
        };
        find_move(state, by).map_err(|e| volume.not_now(e.into()))?;
    }
    let jobs = &shared.context.jobs;
    let (metadata, target) = (shared.metadata.clone(), volume.clone());
    let job = jobs.start("stop", Some(&name), move |context| async move {
        target
            .stop(&metadata, stopping, request.mode, &context.cancel)
            .await?;
        Ok(serde_json::json!({ "state": target.occupancy.state() }))
    });
    job.await.map(accepted)
}

pub(super) async fn clear(
    State(shared): State<Arc<Shared>>,
    Volume(name): Volume,
) -> Result<Json<Empty>, ApiError> {
    to_the_end(async move { registry::clear(&shared, &name).await })
        .await
        .map(Json)
}

pub(super) async fn kick(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<KickRequest>,
) -> Result<Json<Empty>, ApiError> {
    let Some(name) = request.volume else {
        if request.archive.is_some() {
            return Err(ApiError::new(
                ErrorCode::BadRequest,
                "kick: an archive is named, but no volume",
            ));
        }
        let can_send = |v: &&Arc<crate::volume::Volume>| v.occupancy.check(Command::WdiffSend).is_ok();
        shared.volumes().iter().filter(can_send).for_each(|v| v.kick());
        return Ok(Json(Empty {}));
    };
    let name = VolumeName::new(&name)?;
    let volume = shared.volume_or_clear(&name);
    volume
        .occupancy
        .check(Command::WdiffSend)
        .map_err(|e| volume.not_now(e))?;
    let Some(archive) = request.archive else {
        volume.kick();
        return Ok(Json(Empty {}));
    };
    let Some(archive) = volume.archive(&archive) else {
        let message = format!("archive does not exist:{archive}");
        return Err(ApiError::new(ErrorCode::NotFound, message).volume(&name));
    };
    archive.kick();
    Ok(Json(Empty {}))
}
