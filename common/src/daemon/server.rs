//! The accepting side: TLS with both certificates, HTTP/1.1, routes that each name who may call them, upgrades.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::context::DaemonContext;
use super::extract::{Body, Parameters, Peer};
use crate::rest::{Accepted, ApiError, Empty, ErrorCode, ShutdownRequest};
use crate::types::VolumeName;
use crate::wire::UPGRADE_PROTOCOL;
use crate::wire::identity::{Identity, Role};
use crate::wire::message::StreamKind;
use crate::wire::stream::Stream;

/// How long a client may take for its handshake, and for the head of each request.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of a request body.
const BODY_MAX: usize = 1 << 20;

/// Who may call a route.
pub type Access = &'static [Role];
/// Everybody with a certificate of ours, but guests: they have their disks, and no business with the daemons.
pub const ANYBODY: Access = &[
    Role::Storage,
    Role::Proxy,
    Role::Archive,
    Role::Operator,
    Role::Viewer,
];
/// Those who change things.
pub const OPERATOR: Access = &[Role::Operator];
/// Those who look.
pub const READER: Access = &[Role::Operator, Role::Viewer];

/// A router in which no route can be added without saying who may call it.
pub struct Api<S>(Router<S>);

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// The routes every daemon has.
    pub fn new(context: &Arc<DaemonContext>) -> Self {
        let (node, list, one, cancel, shutdown) = (
            context.clone(),
            context.clone(),
            context.clone(),
            context.clone(),
            context.clone(),
        );
        Self(Router::new())
            .get("/healthz", ANYBODY, || async { "ok\n" })
            .get(
                "/v1/node",
                ANYBODY,
                move || async move { axum::Json(node.info()) },
            )
            .get(
                "/v1/jobs",
                READER,
                move |Parameters(query): Parameters<JobQuery>| async move {
                    list.jobs.list(query.volume.as_deref()).await.map(axum::Json)
                },
            )
            .get("/v1/jobs/{id}", READER, move |id: JobId| async move {
                one.jobs.get(id.0).await.map(axum::Json)
            })
            .post("/v1/jobs/{id}/cancel", OPERATOR, move |id: JobId| async move {
                cancel.jobs.cancel(id.0).await.map(axum::Json)
            })
            .post(
                "/v1/shutdown",
                OPERATOR,
                move |Body(request): Body<ShutdownRequest>| async move {
                    if request.force {
                        shutdown.lifecycle.abort();
                    } else {
                        shutdown.lifecycle.stop();
                    }
                    axum::Json(Empty {})
                },
            )
    }

    fn add<H, T>(self, method: MethodFilter, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let route: MethodRouter<S> = on(method, handler).layer(from_fn_with_state(access, authorise));
        Self(self.0.route(path, route))
    }

    /// A route that only reads.
    #[must_use]
    pub fn get<H: Handler<T, S>, T: 'static>(self, path: &str, access: Access, handler: H) -> Self {
        self.add(MethodFilter::GET, path, access, handler)
    }

    /// A route that changes something.
    #[must_use]
    pub fn post<H: Handler<T, S>, T: 'static>(self, path: &str, access: Access, handler: H) -> Self {
        self.add(MethodFilter::POST, path, access, handler)
    }

    /// A route that stores something.
    #[must_use]
    pub fn put<H: Handler<T, S>, T: 'static>(self, path: &str, access: Access, handler: H) -> Self {
        self.add(MethodFilter::PUT, path, access, handler)
    }

    /// A route that removes something.
    #[must_use]
    pub fn delete<H: Handler<T, S>, T: 'static>(self, path: &str, access: Access, handler: H) -> Self {
        self.add(MethodFilter::DELETE, path, access, handler)
    }

    /// The finished router.
    pub fn finish(self, state: S) -> Router {
        let missing = |request: Request| async move {
            ApiError::new(
                ErrorCode::NotFound,
                format!("no route {} {}", request.method(), request.uri().path()),
            )
        };
        self.0
            .fallback(missing)
            .method_not_allowed_fallback(missing)
            .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
            .with_state(state)
    }
}

#[derive(serde::Deserialize)]
struct JobQuery {
    volume: Option<String>,
}

struct JobId(u64);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for JobId {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::<u64>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(id)| Self(id))
            .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("job number: {e}")))
    }
}

/// Lets the request pass if the peer's role is among `access`; every changing request is written to the audit log.
async fn authorise(State(access): State<Access>, Peer(peer): Peer, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if !access.contains(&peer.role) {
        let allowed = access
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" or ");
        tracing::warn!(target: "audit", %peer, %method, path, "refused: role not allowed");
        let message = format!("role {} may not {method} {path}: expected {allowed}", peer.role);
        return ApiError::new(ErrorCode::Forbidden, message).into_response();
    }
    let response = next.run(request).await;
    if method != Method::GET {
        tracing::info!(target: "audit", %peer, %method, path, status = response.status().as_u16(), "command");
    }
    response
}

/// The answer to an accepted long action: 202 with the job's number.
pub fn accepted(job: u64) -> Response {
    (StatusCode::ACCEPTED, axum::Json(Accepted { job })).into_response()
}

/// Turns an authorised request into a stream: answers 101, then runs `handle` with the stream once the handshake has
/// succeeded. The task is tracked by the lifecycle and dropped when it aborts.
pub fn upgrade<F, H>(
    context: &Arc<DaemonContext>,
    mut request: Request,
    kind: StreamKind,
    volume: VolumeName,
    handle: H,
) -> Result<Response, ApiError>
where
    H: FnOnce(Stream) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let wanted = request.headers().get(header::UPGRADE).map(HeaderValue::as_bytes);
    if wanted != Some(UPGRADE_PROTOCOL.as_bytes()) {
        let found = wanted.map_or("none".into(), |w| String::from_utf8_lossy(w).into_owned());
        let message = format!("header Upgrade: expected {UPGRADE_PROTOCOL}, found {found}");
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    let pending = hyper::upgrade::on(&mut request);
    let (node, abort) = (context.node_id(), context.lifecycle.aborting());
    context.lifecycle.spawn(async move {
        let work = async {
            let upgraded = match pending.await {
                Ok(upgraded) => upgraded,
                Err(error) => {
                    tracing::warn!(%volume, ?kind, %error, "stream could not be upgraded");
                    return;
                }
            };
            match Stream::accept(Box::new(TokioIo::new(upgraded)), kind, &node, &volume).await {
                Ok(stream) => handle(stream).await,
                Err(error) => {
                    tracing::warn!(%volume, ?kind, error = %super::chain(&error), "stream handshake failed");
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = abort.cancelled() => {}
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, UPGRADE_PROTOCOL)
        .body(axum::body::Body::empty())
        .map_err(|e| ApiError::internal(&e))
}

/// Binds the configured address; done before anything else is touched, so that a taken port is found first.
pub async fn bind(config: &super::config::NodeConfig) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen).await?;
    if let Some(path) = &config.address_file {
        let text = format!("{}\n", listener.local_addr()?);
        crate::disk::replace_durable(path, text.as_bytes())?;
    }
    Ok(listener)
}

/// Accepts until the daemon stops. Each connection is served by its own task; at most the configured number at once.
pub async fn serve(context: Arc<DaemonContext>, listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(context.node.max_connections));
    let stopping = context.lifecycle.stopping();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((tcp, address)) => {
                let (context, router) = (context.clone(), router.clone());
                tokio::spawn(async move {
                    connection(context, tcp, address.to_string(), router).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: the pause keeps the loop from spinning until some are free.
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connection(context: Arc<DaemonContext>, tcp: TcpStream, address: String, router: Router) {
    let _ = tcp.set_nodelay(true);
    let handshake = timeout(HANDSHAKE_DEADLINE, async {
        let mut first = [0];
        tcp.peek(&mut first).await?;
        if first[0] != TLS_HANDSHAKE {
            refuse_plain_text(tcp).await;
            return Err(std::io::Error::other("expected TLS, found plain text"));
        }
        TlsAcceptor::from(context.tls.current().server).accept(tcp).await
    });
    let tls = match handshake.await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::warn!(address, error = %super::chain(&error), "connection refused"),
        Err(_) => return tracing::warn!(address, "connection refused: no TLS handshake in time"),
    };
    let identity = match tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(Identity::from_certificate)
    {
        Some(Ok(identity)) => identity,
        Some(Err(error)) => return tracing::warn!(address, %error, "connection refused"),
        None => return tracing::warn!(address, "connection refused: no client certificate"),
    };
    let router = router.layer(axum::Extension(identity.clone()));
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_DEADLINE)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(address, peer = %identity, error = %super::chain(&error), "connection ended");
    }
}

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Tells a client without TLS what it has reached, in its own language, instead of leaving it with a closed connection.
async fn refuse_plain_text(mut tcp: TcpStream) {
    let body =
        r#"{"code":"bad-request","message":"expected TLS 1.3 with a client certificate, found plain text"}"#;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = tcp.write_all(answer.as_bytes()).await;
    let _ = tcp.shutdown().await;
}
