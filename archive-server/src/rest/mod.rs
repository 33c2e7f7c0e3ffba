//! Routes. Handlers translate and delegate.

mod lists;
mod metrics;
mod status;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use walb_common::daemon::extract::{Body, GidParameter, Volume as VolumeParameter};
use walb_common::daemon::server::{ANYBODY, Api, OPERATOR, READER, accepted, upgrade};
use walb_common::rest::archive::{InitRequest, RestoreRequest};
use walb_common::rest::{ApiError, Empty, StartRequest, StopRequest};
use walb_common::wire::identity::Role;
use walb_common::wire::message::StreamKind;

use crate::{ArchiveServer, full_backup, hash_backup, receive_wdiff, restore, volume};

type Server = State<ArchiveServer>;
type Answered<T> = Result<axum::Json<T>, ApiError>;

pub(crate) fn router(server: &ArchiveServer) -> Router {
    Api::<ArchiveServer>::new(server.context())
        .get("/readyz", ANYBODY, || async { "ok\n" })
        .get("/metrics", ANYBODY, metrics::metrics)
        .get("/v1/status", READER, status::status)
        .get("/v1/volumes", READER, status::volumes)
        // A storage asks here whether a backup that was cut has been committed.
        .get(
            "/v1/volumes/{vol}",
            &[Role::Operator, Role::Viewer, Role::Storage],
            status::volume,
        )
        .get("/v1/volumes/{vol}/diffs", READER, lists::diffs)
        .get(
            "/v1/volumes/{vol}/applicable-diffs",
            READER,
            lists::applicable_diffs,
        )
        .get("/v1/volumes/{vol}/restorable", READER, lists::restorable)
        .get("/v1/volumes/{vol}/restored", READER, lists::restored)
        .get("/v1/volumes/{vol}/restored/{gid}", READER, lists::restored_one)
        .post("/v1/volumes/{vol}/init", OPERATOR, init)
        .post("/v1/volumes/{vol}/clear", OPERATOR, clear)
        .post("/v1/volumes/{vol}/reset", OPERATOR, reset)
        .post("/v1/volumes/{vol}/start", OPERATOR, start)
        .post("/v1/volumes/{vol}/stop", OPERATOR, stop)
        .post("/v1/volumes/{vol}/restore", OPERATOR, restore)
        .delete("/v1/volumes/{vol}/restored/{gid}", OPERATOR, delete_restored)
        .get("/v1/streams/wdiff/{vol}", &[Role::Proxy], wdiff_stream)
        .get(
            "/v1/streams/full-backup/{vol}",
            &[Role::Storage],
            full_backup_stream,
        )
        .get(
            "/v1/streams/hash-backup/{vol}",
            &[Role::Storage],
            hash_backup_stream,
        )
        .finish(server.clone())
}

async fn init(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(InitRequest {}): Body<InitRequest>,
) -> Answered<Empty> {
    // A command that is begun ends, also when the client goes away.
    detached(async move { volume::init(&server, &server.volume_to_init(&name)).await }).await
}

async fn clear(State(server): Server, VolumeParameter(name): VolumeParameter) -> Answered<Empty> {
    detached(async move { volume::clear(&server, &server.volume(&name)).await }).await
}

async fn reset(State(server): Server, VolumeParameter(name): VolumeParameter) -> Answered<Empty> {
    detached(async move { volume::reset(&server, &server.volume(&name)).await }).await
}

async fn start(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(_): Body<StartRequest>,
) -> Answered<Empty> {
    detached(async move { volume::start(&server, &server.volume(&name)).await }).await
}

async fn stop(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<StopRequest>,
) -> Result<Response, ApiError> {
    volume::stop(&server, &server.volume(&name), request.mode)
        .await
        .map(accepted)
}

async fn restore(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    Body(request): Body<RestoreRequest>,
) -> Result<Response, ApiError> {
    restore::start(&server, &server.volume(&name), request.gid)
        .await
        .map(accepted)
}

async fn delete_restored(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    GidParameter(gid): GidParameter,
) -> Answered<Empty> {
    detached(async move { restore::delete(&server, &server.volume(&name), gid).await }).await
}

async fn wdiff_stream(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    request: Request,
) -> Result<Response, ApiError> {
    let context = server.context().clone();
    let of = name.clone();
    upgrade(&context, request, StreamKind::Wdiff, name, |stream| {
        receive_wdiff::serve(server, of, stream)
    })
}

async fn full_backup_stream(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    request: Request,
) -> Result<Response, ApiError> {
    let context = server.context().clone();
    let of = name.clone();
    upgrade(&context, request, StreamKind::FullBackup, name, |stream| {
        full_backup::serve(server, of, stream)
    })
}

async fn hash_backup_stream(
    State(server): Server,
    VolumeParameter(name): VolumeParameter,
    request: Request,
) -> Result<Response, ApiError> {
    let context = server.context().clone();
    let of = name.clone();
    upgrade(&context, request, StreamKind::HashBackup, name, |stream| {
        hash_backup::serve(server, of, stream)
    })
}

/// Runs a command to its end, also when the client that asked for it closes its connection meanwhile.
async fn detached(work: impl Future<Output = Result<(), ApiError>> + Send + 'static) -> Answered<Empty> {
    let ended = tokio::spawn(work).await;
    ended.map_err(|e| ApiError::internal(&e))??;
    Ok(axum::Json(Empty {}))
}
