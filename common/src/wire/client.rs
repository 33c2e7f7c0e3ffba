//! The connecting side: REST requests and streams over one TLS connection each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::UPGRADE_PROTOCOL;
use super::identity::{Identity, Role};
use super::message::StreamKind;
use super::stream::{Stream, StreamError};
use super::tls::TlsContext;
use crate::rest::{ApiError, ErrorCode};
use crate::types::VolumeName;

/// Most bytes of an answer that we read: listings of many thousand diffs fit.
const ANSWER_MAX: usize = 64 << 20;

/// A request did not get a positive answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("{what} {address}")]
    Connect {
        /// What we were doing.
        what: &'static str,
        /// With whom.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Silence.
    #[error("{what} {address}: no answer within {} s", after.as_secs_f32())]
    Deadline {
        /// What we were doing.
        what: &'static str,
        /// With whom.
        address: String,
        /// How long we waited.
        after: Duration,
    },
    /// Somebody else answers there.
    #[error("{address} is {found}: expected one with the role {expected}")]
    Role {
        /// Who was called.
        address: String,
        /// Who answered.
        found: String,
        /// Roles that would have been right.
        expected: String,
    },
    /// The server's answer is an error.
    #[error("{0}")]
    Api(ApiError),
    /// The server's answer is none of ours.
    #[error("{address} gave an answer that is not WalB's: {detail}")]
    Answer {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The handshake of a stream failed.
    #[error("stream with {address}")]
    Stream {
        /// With whom.
        address: String,
        /// Why.
        #[source]
        source: StreamError,
    },
}

impl From<ClientError> for ApiError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(error) => error,
            other => ApiError::new(ErrorCode::Unavailable, crate::daemon::chain(&other)),
        }
    }
}

/// Talks to daemons under our identity.
#[derive(Clone)]
pub struct Client {
    tls: Arc<TlsContext>,
    connect_timeout: Duration,
    answer_timeout: Duration,
}

type Sender = http1::SendRequest<Full<Bytes>>;

impl Client {
    /// A client that waits so long for a connection, and then for an answer.
    pub fn new(tls: Arc<TlsContext>, connect_timeout: Duration, answer_timeout: Duration) -> Self {
        Self {
            tls,
            connect_timeout,
            answer_timeout,
        }
    }

    /// Our own identity.
    pub fn identity(&self) -> Identity {
        self.tls.identity()
    }

    async fn connect(&self, address: &str, expect: &[Role]) -> Result<Sender, ClientError> {
        let what = "connect to";
        let failed = |source| ClientError::Connect {
            what,
            address: address.to_owned(),
            source,
        };
        let work = async {
            let tcp = TcpStream::connect(address).await.map_err(|e| failed(e.into()))?;
            // Small control messages must not wait for each other.
            let _ = tcp.set_nodelay(true);
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.into()))?;
            let connector = TlsConnector::from(self.tls.current().client);
            connector.connect(name, tcp).await.map_err(|e| failed(e.into()))
        };
        let tls = timeout(self.connect_timeout, work)
            .await
            .map_err(|_| ClientError::Deadline {
                what,
                address: address.to_owned(),
                after: self.connect_timeout,
            })??;
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = match certificates.first() {
            Some(certificate) => Identity::from_certificate(certificate).map_err(|e| failed(e.into()))?,
            None => return Err(failed("the server showed no certificate".into())),
        };
        if !expect.contains(&identity.role) {
            let expected = expect
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" or ");
            return Err(ClientError::Role {
                address: address.to_owned(),
                found: identity.to_string(),
                expected,
            });
        }
        let (sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| failed(e.into()))?;
        // Ends by itself with the request or the upgraded stream.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn exchange(
        &self,
        address: &str,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, ClientError> {
        let what = "request to";
        match timeout(self.answer_timeout, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(ClientError::Connect {
                what,
                address: address.to_owned(),
                source: source.into(),
            }),
            Err(_) => Err(ClientError::Deadline {
                what,
                address: address.to_owned(),
                after: self.answer_timeout,
            }),
        }
    }

    /// A REST request with a JSON body; the JSON answer is decoded. `expect`: roles the server may have.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        address: &str,
        expect: &[Role],
        method: Method,
        path: &str,
        body: Option<&Q>,
    ) -> Result<A, ClientError> {
        let sender = self.connect(address, expect).await?;
        let answer_error = |detail: String| ClientError::Answer {
            address: address.to_owned(),
            detail,
        };
        let body = match body {
            Some(body) => serde_json::to_vec(body)
                .map_err(|e| answer_error(format!("cannot encode the request: {e}")))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, address)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| answer_error(format!("cannot make the request: {e}")))?;
        let response = self.exchange(address, sender, request).await?;
        let status = response.status();
        let body = timeout(
            self.answer_timeout,
            Limited::new(response.into_body(), ANSWER_MAX).collect(),
        );
        let Ok(body) = body.await else {
            let after = self.answer_timeout;
            return Err(ClientError::Deadline {
                what: "answer of",
                address: address.to_owned(),
                after,
            });
        };
        let body = body
            .map_err(|e| answer_error(format!("answer broke off: {e}")))?
            .to_bytes();
        decode(address, status, &body)
    }

    /// GET.
    pub async fn get<A: DeserializeOwned>(
        &self,
        address: &str,
        expect: &[Role],
        path: &str,
    ) -> Result<A, ClientError> {
        self.request::<(), A>(address, expect, Method::GET, path, None)
            .await
    }

    /// POST.
    pub async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        address: &str,
        expect: &[Role],
        path: &str,
        body: &Q,
    ) -> Result<A, ClientError> {
        self.request(address, expect, Method::POST, path, Some(body))
            .await
    }

    /// DELETE.
    pub async fn delete<A: DeserializeOwned>(
        &self,
        address: &str,
        expect: &[Role],
        path: &str,
    ) -> Result<A, ClientError> {
        self.request::<(), A>(address, expect, Method::DELETE, path, None)
            .await
    }

    /// Opens a stream: upgrade, then handshake.
    pub async fn open_stream(
        &self,
        address: &str,
        expect: Role,
        kind: StreamKind,
        volume: &VolumeName,
    ) -> Result<Stream, ClientError> {
        let sender = self.connect(address, &[expect]).await?;
        let answer_error = |detail: String| ClientError::Answer {
            address: address.to_owned(),
            detail,
        };
        let request = Request::builder()
            .method(Method::GET)
            .uri(kind.path(volume))
            .header(HOST, address)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, UPGRADE_PROTOCOL)
            .body(Full::new(Bytes::new()))
            .map_err(|e| answer_error(format!("cannot make the request: {e}")))?;
        let response = self.exchange(address, sender, request).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = Limited::new(response.into_body(), 1 << 20).collect();
            let body = match timeout(self.answer_timeout, body).await {
                Ok(Ok(body)) => body.to_bytes(),
                _ => Bytes::new(),
            };
            return Err(match decode::<serde_json::Value>(address, status, &body) {
                Err(error) => error,
                Ok(_) => answer_error(format!(
                    "expected a switch to {UPGRADE_PROTOCOL}, found status {status}"
                )),
            });
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|e| answer_error(format!("upgrade failed: {e}")))?;
        Stream::connect(
            Box::new(TokioIo::new(upgraded)),
            kind,
            &self.identity().node,
            volume,
        )
        .await
        .map_err(|source| ClientError::Stream {
            address: address.to_owned(),
            source,
        })
    }
}

fn decode<A: DeserializeOwned>(address: &str, status: StatusCode, body: &[u8]) -> Result<A, ClientError> {
    if status.is_success() {
        let text = if body.is_empty() { b"null" } else { body };
        return serde_json::from_slice(text).map_err(|e| ClientError::Answer {
            address: address.to_owned(),
            detail: format!("status {status}, body does not fit: {e}"),
        });
    }
    if let Ok(error) = serde_json::from_slice::<ApiError>(body) {
        return Err(ClientError::Api(error));
    }
    let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
    Err(ClientError::Answer {
        address: address.to_owned(),
        detail: format!("status {status}: {text}"),
    })
}

/// `HOST:PORT` resolved; the first address is taken.
pub async fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    tokio::net::lookup_host(address)
        .await?
        .next()
        .ok_or_else(|| std::io::Error::other(format!("{address} has no address")))
}
