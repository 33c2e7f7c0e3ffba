//! The wire on real sockets, with real certificates: who gets in, what a stream does, and what strangers are told.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request as HttpRequest, State};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use walb_common::daemon::config::NodeConfig;
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::extract::{Peer, Volume};
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server::{self, Api, OPERATOR};
use walb_common::daemon::{chain, database};
use walb_common::rest::{ApiError, Empty, ErrorCode, NodeInfo};
use walb_common::types::VolumeName;
use walb_common::wire::client::{Client, ClientError};
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::message::{Done, StreamKind};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::stream::{Bulk, Received, Stream, WINDOW};
use walb_common::wire::tls::{TlsContext, TlsFiles};

const DAY: Duration = Duration::from_secs(86400);

struct Pki {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test authority", OffsetDateTime::now_utc(), DAY).unwrap();
        let pki = Self { dir, authority };
        pki.authority
            .pair()
            .store(&pki.path("ca.pem"), &pki.path("ca.key"))
            .unwrap();
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue_by(
        &self,
        authority: &Authority,
        role: Role,
        node: &str,
        from: OffsetDateTime,
        life: Duration,
    ) -> TlsFiles {
        let identity = Identity::new(role, node).unwrap();
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let request = Request {
            identity: &identity,
            hosts: &hosts,
            not_before: from,
            lifetime: life,
        };
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            cert: self.path(&format!("{node}.pem")),
            key: self.path(&format!("{node}.key")),
        };
        authority
            .issue(&request)
            .unwrap()
            .store(&files.cert, &files.key)
            .unwrap();
        files
    }

    fn issue(&self, role: Role, node: &str) -> TlsFiles {
        self.issue_by(&self.authority, role, node, OffsetDateTime::now_utc(), DAY)
    }
}

fn client(files: &TlsFiles) -> Client {
    let patience = Duration::from_secs(5);
    Client::new(TlsContext::load(files).unwrap(), patience, patience)
}

/// What the test daemon does with a stream: counts, answers the sum; gives up at a frame tagged 666.
async fn count(mut stream: Stream) {
    let mut total = 0;
    loop {
        match stream.recv_bulk().await {
            Ok(Received::Bulk(bulk)) if bulk.tag == 666 => {
                return stream
                    .fail(&ApiError::new(ErrorCode::NoSpace, "no space left for vol0"))
                    .await;
            }
            Ok(Received::Bulk(bulk)) => {
                total += u64::from(bulk.raw_len);
                stream.consumed(&bulk).await.unwrap();
            }
            Ok(Received::End) => break,
            Err(_) => return,
        }
    }
    stream.send(&total).await.unwrap();
    let _: Done = stream.recv().await.unwrap();
    stream.close().await;
}

type Context = Arc<DaemonContext>;

async fn wlog(
    State(context): State<Context>,
    Volume(volume): Volume,
    request: HttpRequest,
) -> Result<axum::response::Response, ApiError> {
    server::upgrade(&context, request, StreamKind::Wlog, volume, count)
}

async fn clear(Volume(_): Volume, Peer(_): Peer) -> axum::Json<Empty> {
    axum::Json(Empty {})
}

/// A daemon with the common routes, one route for operators and one stream for storages.
async fn daemon(pki: &Pki) -> (String, Lifecycle) {
    let tls = pki.issue(Role::Proxy, "p0");
    let dir = pki.path("data");
    std::fs::create_dir_all(&dir).unwrap();
    let toml = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {dir:?}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        tls.ca, tls.cert, tls.key
    );
    let path = pki.path("node.toml");
    std::fs::write(&path, toml).unwrap();
    let node: NodeConfig = walb_common::daemon::config::load(&path).unwrap();
    let lifecycle = Lifecycle::new(Duration::from_secs(5));
    let listener = server::bind(&node).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let pool = database::open(Path::new(&dir).join("metadata.sqlite").as_path(), &[])
        .await
        .unwrap();
    let tls = TlsContext::load(&tls).unwrap();
    let context = DaemonContext::new(node, tls, lifecycle.clone(), pool)
        .await
        .unwrap();
    let router = Api::<Context>::new(&context)
        .post("/v1/volumes/{vol}/clear", OPERATOR, clear)
        .get("/v1/streams/wlog/{vol}", &[Role::Storage], wlog)
        .finish(context.clone());
    lifecycle.spawn(server::serve(context, listener, router));
    (address, lifecycle)
}

fn volume() -> VolumeName {
    VolumeName::new("vol0").unwrap()
}

#[tokio::test]
async fn a_request_is_answered_and_a_wrong_role_is_refused_with_both_named() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let proxy = &[Role::Proxy];
    let operator = client(&pki.issue(Role::Operator, "admin"));
    let info: NodeInfo = operator.get(&address, proxy, "/v1/node").await.unwrap();
    assert_eq!((info.host_type.as_str(), info.node_id.as_str()), ("proxy", "p0"));
    let _: Empty = operator
        .post(&address, proxy, "/v1/volumes/vol0/clear", &Empty {})
        .await
        .unwrap();

    let viewer = client(&pki.issue(Role::Viewer, "eye"));
    let refused = viewer
        .post::<_, Empty>(&address, proxy, "/v1/volumes/vol0/clear", &Empty {})
        .await;
    let Err(ClientError::Api(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(error.code, ErrorCode::Forbidden);
    assert!(
        error.message.contains("viewer") && error.message.contains("operator"),
        "{error}"
    );

    let wrong = operator
        .get::<NodeInfo>(&address, &[Role::Archive], "/v1/node")
        .await
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("proxy p0") && wrong.contains("archive"), "{wrong}");
    let bad = operator
        .post::<_, Empty>(&address, proxy, "/v1/volumes/a_b/clear", &Empty {})
        .await
        .unwrap_err();
    assert!(bad.to_string().contains("bad volume name \"a_b\""), "{bad}");
    let none = operator
        .get::<Empty>(&address, proxy, "/v1/nothing")
        .await
        .unwrap_err()
        .to_string();
    assert!(none.contains("no route GET /v1/nothing"), "{none}");
}

#[tokio::test]
async fn expired_and_foreign_certificates_do_not_get_in() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let past = OffsetDateTime::now_utc() - 10 * DAY;
    let other = Authority::create("other", past, 30 * DAY).unwrap();
    let cases = [
        (
            pki.issue_by(&pki.authority, Role::Operator, "expired", past, DAY),
            "expired",
        ),
        (
            pki.issue_by(&other, Role::Operator, "foreign", past, 20 * DAY),
            "alert",
        ),
    ];
    for (files, word) in cases {
        let error = client(&files)
            .get::<NodeInfo>(&address, &[Role::Proxy], "/v1/node")
            .await
            .unwrap_err();
        let text = chain(&error).to_lowercase();
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_plain_text_client_is_told_what_it_has_reached() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let mut tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
    tcp.write_all(b"GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The server closes with our request unread, which may reset the connection after its answer.
    let _ = tcp.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("expected TLS"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_stream_carries_more_than_its_window_and_ends_in_order() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let storage = client(&pki.issue(Role::Storage, "s0"));
    let mut stream = storage
        .open_stream(&address, Role::Proxy, StreamKind::Wlog, &volume())
        .await
        .unwrap();
    assert_eq!(stream.peer(), "p0");
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let chunks = 3 * WINDOW / chunk.len() as u64;
    for n in 0..chunks {
        stream.send_bulk(Bulk::raw(n, chunk.clone())).await.unwrap();
    }
    stream.send_end().await.unwrap();
    assert_eq!(stream.recv::<u64>().await.unwrap(), chunks << 20);
    stream.send(&Done {}).await.unwrap();
    assert!(stream.bytes_sent() > chunks << 20);
}

#[tokio::test]
async fn a_peer_that_gives_up_in_the_middle_says_why() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let storage = client(&pki.issue(Role::Storage, "s0"));
    let mut stream = storage
        .open_stream(&address, Role::Proxy, StreamKind::Wlog, &volume())
        .await
        .unwrap();
    let chunk = Bytes::from(vec![7; 1 << 20]);
    stream.send_bulk(Bulk::raw(666, chunk.clone())).await.unwrap();
    let mut failure = None;
    for n in 0..100 {
        if let Err(error) = stream.send_bulk(Bulk::raw(n, chunk.clone())).await {
            failure = Some(error);
            break;
        }
    }
    let failure = failure.expect("the peer has given up");
    assert_eq!(
        failure.peer().map(|e| e.code),
        Some(ErrorCode::NoSpace),
        "{}",
        chain(&failure)
    );
}

#[tokio::test]
async fn only_the_right_role_may_open_a_stream() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let operator = client(&pki.issue(Role::Operator, "admin"));
    let error = operator
        .open_stream(&address, Role::Proxy, StreamKind::Wlog, &volume())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("role operator may not"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let pki = Pki::new();
    let (address, _life) = daemon(&pki).await;
    let operator = client(&pki.issue(Role::Operator, "admin"));
    let before: NodeInfo = operator.get(&address, &[Role::Proxy], "/v1/node").await.unwrap();
    pki.issue_by(
        &pki.authority,
        Role::Proxy,
        "p0",
        OffsetDateTime::now_utc(),
        2 * DAY,
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let now: NodeInfo = operator.get(&address, &[Role::Proxy], "/v1/node").await.unwrap();
        if now.certificate_expires > before.certificate_expires {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the new certificate was not taken up"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
