//! The proxy's routes: requests in, domain calls, answers out. Nothing is decided here.

mod archives;
mod commands;
mod metrics;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use walb_common::daemon::extract::Volume;
use walb_common::daemon::server::{ANYBODY, Access, Api, OPERATOR, READER, upgrade};
use walb_common::rest::ApiError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::StreamKind;

use crate::{Shared, receive_wlog};

/// Who may send logs.
const STORAGE: Access = &[Role::Storage];

/// All of them.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Api::new(&shared.context)
        .get("/readyz", ANYBODY, || async { "ok\n" })
        .get("/metrics", ANYBODY, metrics::metrics)
        .get("/v1/status", READER, status::status)
        .get("/v1/volumes", READER, status::volumes)
        .get("/v1/volumes/{vol}", READER, status::volume)
        .get("/v1/volumes/{vol}/diffs", READER, status::diffs)
        .get("/v1/volumes/{vol}/archives", READER, archives::list)
        .get("/v1/volumes/{vol}/archives/{name}", READER, archives::get)
        .post("/v1/volumes/{vol}/archives/{name}", OPERATOR, archives::add)
        .put("/v1/volumes/{vol}/archives/{name}", OPERATOR, archives::put)
        .delete("/v1/volumes/{vol}/archives/{name}", OPERATOR, archives::delete)
        .post("/v1/volumes/{vol}/start", OPERATOR, commands::start)
        .post("/v1/volumes/{vol}/stop", OPERATOR, commands::stop)
        .post("/v1/volumes/{vol}/clear", OPERATOR, commands::clear)
        .post("/v1/kick", OPERATOR, commands::kick)
        .get("/v1/streams/wlog/{vol}", STORAGE, wlog)
        .finish(shared.clone())
}

async fn wlog(
    State(shared): State<Arc<Shared>>,
    Volume(name): Volume,
    request: Request,
) -> Result<Response, ApiError> {
    let (context, volume) = (shared.context.clone(), name.clone());
    upgrade(&context, request, StreamKind::Wlog, name, move |stream| {
        receive_wlog::handle(shared, volume, stream)
    })
}

/// Runs a change to its end even if the client goes away in the middle of it.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(|e| ApiError::internal(&e))?
}
