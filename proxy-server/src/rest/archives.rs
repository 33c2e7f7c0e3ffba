//! Where the diffs of a volume go.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use walb_common::daemon::extract::{Body, Name, Volume};
use walb_common::rest::proxy::{ArchiveInfo, Archives};
use walb_common::rest::{ApiError, Empty, ErrorCode};

use super::to_the_end;
use crate::Shared;
use crate::volume::registry::{Existing, delete_archive, put_archive};

pub(super) async fn list(State(shared): State<Arc<Shared>>, Volume(name): Volume) -> Json<Archives> {
    let archives = shared.volume_or_clear(&name).archives();
    Json(archives.into_iter().map(|a| (a.name.clone(), a.info())).collect())
}

pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Volume(volume): Volume,
    Name(name): Name,
) -> Result<Json<ArchiveInfo>, ApiError> {
    match shared.volume_or_clear(&volume).archive(&name) {
        Some(archive) => Ok(Json(archive.info())),
        None => {
            Err(ApiError::new(ErrorCode::NotFound, format!("archive info not exists:{name}")).volume(&volume))
        }
    }
}

pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Volume(volume): Volume,
    Name(name): Name,
    Body(info): Body<ArchiveInfo>,
) -> Result<Json<Empty>, ApiError> {
    to_the_end(async move { put_archive(&shared, &volume, name, info, Existing::Refuse).await })
        .await
        .map(Json)
}

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Volume(volume): Volume,
    Name(name): Name,
    Body(info): Body<ArchiveInfo>,
) -> Result<Json<Empty>, ApiError> {
    to_the_end(async move { put_archive(&shared, &volume, name, info, Existing::Replace).await })
        .await
        .map(Json)
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Volume(volume): Volume,
    Name(name): Name,
) -> Result<Json<Empty>, ApiError> {
    to_the_end(async move { delete_archive(&shared, &volume, &name).await })
        .await
        .map(Json)
}
