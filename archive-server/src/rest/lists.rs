//! Diffs, restorable snapshots, restored images.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use walb_common::daemon::extract::{GidParameter, Parameters, Volume as VolumeParameter};
use walb_common::rest::archive::{Diffs, Restorable, Restored};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::Command;
use walb_common::types::{Gid, VolumeName};

use super::{Answered, Server};
use crate::ArchiveServer;
use crate::error::not_now;
use crate::volume::Volume;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    gid0: Option<Gid>,
    gid1: Option<Gid>,
}

/// Diffs by begin gid, `gid0` inclusive, `gid1` exclusive.
pub(super) async fn diffs(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Parameters(range): Parameters<Range>,
) -> Answered<Diffs> {
    let (from, to) = (range.gid0.unwrap_or(Gid(0)), range.gid1.unwrap_or(Gid::MAX));
    if from >= to {
        let message = format!("bad gid range {from} to {to}: expected the first below the second");
        return Err(ApiError::new(ErrorCode::BadRequest, message).volume(&name));
    }
    let volume = server.volume(&name);
    let held = volume.held();
    let inside = held
        .diffs
        .iter()
        .filter(|d| (from..to).contains(&d.begin().begin()));
    Ok(Json(inside.copied().collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    max: Option<Gid>,
}

/// The chain from the base, up to `max`.
pub(super) async fn applicable_diffs(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Parameters(limit): Parameters<Limit>,
) -> Answered<Diffs> {
    let volume = server.volume(&name);
    let held = volume.held();
    let limit = limit.max.unwrap_or(Gid::MAX);
    Ok(Json(held.lineage.map_or_else(Vec::new, |l| {
        held.diffs.chain_by_gid(l.base.snapshot(), limit)
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct All {
    #[serde(default)]
    all: bool,
}

/// Restorable snapshots; none unless the volume is active.
pub(super) async fn restorable(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Parameters(All { all }): Parameters<All>,
) -> Answered<Vec<Restorable>> {
    let volume = server.volume(&name);
    Ok(Json(restorable_of(&volume, all)))
}

pub(super) fn restorable_of(volume: &Volume, all: bool) -> Vec<Restorable> {
    if !volume.is_active() {
        return Vec::new();
    }
    let held = volume.held();
    // An interrupted apply that lost a diff leaves nothing to restore.
    let found = held
        .lineage
        .and_then(|l| held.diffs.restorable(&l.base, all).ok())
        .unwrap_or_default();
    found
        .into_iter()
        .map(|r| Restorable {
            gid: r.gid,
            timestamp: r.timestamp,
            explicit: r.explicit,
        })
        .collect()
}

fn restored_images(server: &ArchiveServer, name: &VolumeName) -> Result<Vec<Restored>, ApiError> {
    let volume = server.volume(name);
    volume
        .occupancy
        .check(Command::GetImages)
        .map_err(|e| not_now(name, &volume.occupancy, e))?;
    let gids: Vec<Gid> = volume.held().restored.iter().copied().collect();
    let path = |gid| server.images().restored(name, gid).display().to_string();
    Ok(gids
        .into_iter()
        .map(|gid| Restored { gid, path: path(gid) })
        .collect())
}

/// Restored images, ascending.
pub(super) async fn restored(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
) -> Answered<Vec<Restored>> {
    restored_images(&server, &name).map(Json)
}

/// One restored image.
pub(super) async fn restored_one(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    GidParameter(gid): GidParameter,
) -> Answered<Restored> {
    let found = restored_images(&server, &name)?
        .into_iter()
        .find(|r| r.gid == gid);
    found.map(Json).ok_or_else(|| {
        ApiError::new(
            ErrorCode::NotFound,
            format!("volume not found:{name}:{gid}:restored"),
        )
        .volume(&name)
    })
}
