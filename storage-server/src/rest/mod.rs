//! The routes. Handlers translate and delegate.

mod metrics;

use axum::extract::State;
use axum::response::Response;
use axum::{Json, Router};
use futures_util::future::join_all;
use walb_common::daemon::extract::{Body, Volume as VolumeParameter};
use walb_common::daemon::server::{ANYBODY, Api, OPERATOR, READER, accepted};
use walb_common::rest::storage::{
    BackupRequest, FullScanLimitRequest, Global, HashBackupRequest, InitRequest, KickRequest, ResetRequest,
    SnapshotAnswer, Status, TaskStatus, VolumeStatus,
};
use walb_common::rest::{ApiError, Empty, StartRequest, StopRequest, VolumeBrief};
use walb_common::state::storage::Command;
use walb_common::types::ParseError;

use crate::server::StorageServer;
use crate::volume::{StartAs, clear_status, failed_status};
use crate::{full_backup, hash_backup};

type Server = State<StorageServer>;
type Answer<T> = Result<Json<T>, ApiError>;

/// All routes of a storage.
pub fn router(server: StorageServer) -> Router {
    Api::new(&server.context())
        .get("/readyz", ANYBODY, || async { "ok\n" })
        .get("/metrics", ANYBODY, metrics::metrics)
        .get("/v1/status", READER, status)
        .get("/v1/volumes", READER, list)
        .get("/v1/volumes/{vol}", READER, one)
        .post("/v1/volumes/{vol}/init", OPERATOR, init)
        .post("/v1/volumes/{vol}/clear", OPERATOR, clear)
        .post("/v1/volumes/{vol}/reset", OPERATOR, reset)
        .post("/v1/volumes/{vol}/start", OPERATOR, start)
        .post("/v1/volumes/{vol}/stop", OPERATOR, stop)
        .post("/v1/volumes/{vol}/full-backup", OPERATOR, full_backup)
        .post("/v1/volumes/{vol}/hash-backup", OPERATOR, hash_backup)
        .post("/v1/volumes/{vol}/snapshot", OPERATOR, snapshot)
        .post("/v1/kick", OPERATOR, kick)
        .post("/v1/full-scan-limit", OPERATOR, full_scan_limit)
        .finish(server)
}

async fn status(State(server): Server) -> Json<Status> {
    let shared = server.shared();
    let (node, settings) = (&shared.context.node, &shared.settings);
    let wide = |n: usize| n as u64;
    let global = Global {
        node_id: shared.context.node_id(),
        base_dir: node.data_dir.display().to_string(),
        max_wlog_send_mb: settings.max_wlog_send_mb,
        min_delay_sec_for_retry: settings.retry_min_seconds,
        max_delay_sec_for_retry: settings.retry_max_seconds,
        max_connections: wide(node.max_connections),
        max_foreground_tasks: wide(node.max_foreground_tasks),
        max_background_tasks: wide(node.max_background_tasks),
        socket_timeout: node.socket_timeout_seconds,
        full_scan_lb_per_sec: *shared.scan_limit.borrow() / 512,
        heal_overflow: settings.heal_overflow,
    };
    let volumes = server.volumes();
    let task = |v: &std::sync::Arc<crate::volume::Volume>| {
        v.due_in_ms().map(|time_diff_ms| TaskStatus {
            volume: v.name.to_string(),
            time_diff_ms,
        })
    };
    let tasks = volumes.iter().filter_map(task).collect();
    let mut shown = join_all(volumes.iter().map(|v| v.status())).await;
    shown.extend(
        server
            .failed()
            .iter()
            .map(|(name, reason)| failed_status(name, reason)),
    );
    Json(Status {
        global,
        archive: settings.archive.clone(),
        proxies: shared.proxies.status(),
        tasks,
        volumes: shown,
    })
}

async fn list(State(server): Server) -> Json<Vec<VolumeBrief>> {
    let volumes = server.volumes();
    let mut briefs = join_all(volumes.iter().map(|v| async {
        let failed = v.records().await.failed;
        VolumeBrief {
            name: v.name.to_string(),
            state: v.occupancy.state().name().to_owned(),
            failed,
        }
    }))
    .await;
    briefs.extend(server.failed().iter().map(|(name, reason)| VolumeBrief {
        name: name.clone(),
        state: "Failed".to_owned(),
        failed: Some(reason.clone()),
    }));
    Json(briefs)
}

async fn one(State(server): Server, VolumeParameter(name): VolumeParameter) -> Json<VolumeStatus> {
    Json(match (server.find(&name), server.failed().get(name.as_str())) {
        (Some(volume), _) => volume.status().await,
        (None, Some(reason)) => failed_status(name.as_str(), reason),
        (None, None) => clear_status(name.as_str()),
    })
}

async fn init(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<InitRequest>,
) -> Answer<Empty> {
    server
        .init(&name, &request.device)
        .await
        .map_err(|e| e.volume(&name))?;
    Ok(Json(Empty {}))
}

async fn clear(State(server): Server, VolumeParameter(name): VolumeParameter) -> Answer<Empty> {
    server.clear(&name).await.map_err(|e| e.volume(&name))?;
    Ok(Json(Empty {}))
}

async fn reset(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<ResetRequest>,
) -> Answer<Empty> {
    server
        .volume(&name, Command::ResetVol)?
        .reset(request.gid)
        .await
        .map_err(|e| e.volume(&name))?;
    Ok(Json(Empty {}))
}

async fn start(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<StartRequest>,
) -> Answer<Empty> {
    let role = request.role.unwrap_or_default();
    let role: StartAs = role.parse().map_err(|e: ParseError| {
        ApiError::from(e)
            .volume(&name)
            .hint(format!("specify role: target or standby:{role}"))
    })?;
    let command = match role {
        StartAs::Target => Command::StartTarget,
        StartAs::Standby => Command::StartStandby,
    };
    server
        .volume(&name, command)?
        .start(role)
        .await
        .map_err(|e| e.volume(&name))?;
    Ok(Json(Empty {}))
}

async fn stop(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<StopRequest>,
) -> Result<Response, ApiError> {
    let volume = server.volume(&name, Command::Stop)?;
    let mode = request.mode;
    let stopping = volume.begin_stop(mode).map_err(|e| e.volume(&name))?;
    let work = |job: walb_common::daemon::jobs::JobContext| async move {
        volume
            .finish_stop(stopping, mode, &job)
            .await
            .map_err(|e| e.volume(&volume.name))
    };
    server
        .context()
        .jobs
        .start("stop", Some(&name), work)
        .await
        .map(accepted)
}

async fn full_backup(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<BackupRequest>,
) -> Result<Response, ApiError> {
    let bulk = full_backup::bulk_size(request.bulk_bytes).map_err(|e| e.volume(&name))?;
    let volume = server.volume(&name, Command::FullBackup)?;
    let accepted_backup = full_backup::accept(&volume, bulk)
        .await
        .map_err(|e| e.volume(&name))?;
    server
        .context()
        .jobs
        .start("full-backup", Some(&name), |job| accepted_backup.run(job))
        .await
        .map(accepted)
}

async fn hash_backup(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<HashBackupRequest>,
) -> Result<Response, ApiError> {
    let wanted = hash_backup::Wanted {
        bulk: full_backup::bulk_size(request.bulk_bytes).map_err(|e| e.volume(&name))?,
        full_compare: request.full_compare,
        why: "asked for".to_owned(),
        // Whoever asked waits for the answer.
        catch_up: hash_backup::ASKED_CATCH_UP,
    };
    let volume = server.volume(&name, Command::HashBackup)?;
    hash_backup::start(&volume, wanted).await.map(accepted)
}

async fn snapshot(State(server): Server, VolumeParameter(name): VolumeParameter) -> Answer<SnapshotAnswer> {
    let gid = server
        .volume(&name, Command::Snapshot)?
        .snapshot()
        .await
        .map_err(|e| e.volume(&name))?;
    Ok(Json(SnapshotAnswer { gid }))
}

async fn kick(State(server): Server, Body(_): Body<KickRequest>) -> Json<Empty> {
    server.shared().proxies.kick();
    Json(Empty {})
}

/// Counts at once, also for what runs; until the daemon ends.
async fn full_scan_limit(State(server): Server, Body(request): Body<FullScanLimitRequest>) -> Json<Empty> {
    server.shared().scan_limit.send_replace(request.bytes_per_second);
    tracing::info!(
        bytes_per_second = request.bytes_per_second,
        "limit of the scans of backups set"
    );
    Json(Empty {})
}
