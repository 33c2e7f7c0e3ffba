//! A proxy and an archive made by hand: they believe nothing, keep everything, and misbehave when told to.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use walb_common::daemon::config::NodeConfig;
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::database;
use walb_common::daemon::extract::Volume;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server::{self, Api};
use walb_common::format::checksum::Salt;
use walb_common::format::compress::decompress;
use walb_common::format::log_device::RecordKind;
use walb_common::format::wlog::{LogpackParser, Parsed};
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::{Gid, Uuid};
use walb_common::wire::identity::Role;
use walb_common::wire::message::{
    Answer, Done, FullBegin, FullCommit, FullReset, Refusal, RefusalReason, StreamKind, WlogBegin, WlogCommit,
};
use walb_common::wire::stream::{Received, Stream, StreamError};
use walb_common::wire::tls::{TlsContext, TlsFiles};

use super::Pki;

/// How a peer treats its next stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Does not accept.
    Refuse,
    /// Takes everything, then breaks off before anything is kept.
    BreakOff,
    /// Keeps everything, then breaks off instead of saying so.
    LoseAnswer,
    /// Archive: waits for [`Peers::go_on`] after the first bulk.
    Hold,
}

/// What has arrived.
#[derive(Default)]
pub struct Arrived {
    /// The image of the last full backup, and its snapshot once committed.
    pub image: Vec<u8>,
    pub snapshot: Option<Snapshot>,
    /// Life of the log that the image goes with.
    pub uuid: Uuid,
    /// Every wlog, in order of arrival.
    pub wlogs: Vec<Wlog>,
    /// Manners of the streams to come; a stream without one is treated well.
    pub manners: VecDeque<Manner>,
    /// Streams that began.
    pub streams: u64,
}

pub struct Wlog {
    pub uuid: Uuid,
    pub diff: MetaDiff,
    pub writes: Vec<(usize, Bytes)>,
}

type Shared = Arc<(Mutex<Arrived>, tokio::sync::Notify)>;

pub struct Peers {
    pub proxy: String,
    pub archive: String,
    shared: Shared,
    dir: PathBuf,
    tls: TlsFiles,
    running: Mutex<Option<Lifecycle>>,
}

impl Peers {
    pub async fn start(dir: &Path, pki: &Pki, size: usize) -> Self {
        let (proxy, archive) = (free_address(), free_address());
        let shared = Shared::default();
        shared.0.lock().unwrap().image = vec![0xee; size];
        let tls = pki.issue(Role::Proxy, "p0");
        let peers = Self {
            proxy,
            archive,
            shared,
            dir: dir.to_owned(),
            tls,
            running: Mutex::new(None),
        };
        peers.start_proxy().await;
        let tls = pki.issue(Role::Archive, "a0");
        peers
            .serve("a0", &peers.archive, &tls, StreamKind::FullBackup)
            .await;
        peers
    }

    pub async fn start_proxy(&self) {
        let life = self.serve("p0", &self.proxy, &self.tls, StreamKind::Wlog).await;
        *self.running.lock().unwrap() = Some(life);
    }

    pub async fn stop_proxy(&self) {
        let life = self.running.lock().unwrap().take().unwrap();
        life.abort();
        let _ = life.until_stopped().await;
    }

    async fn serve(&self, node: &str, address: &str, tls: &TlsFiles, kind: StreamKind) -> Lifecycle {
        let data_dir = self.dir.join(node);
        std::fs::create_dir_all(&data_dir).unwrap();
        let node = NodeConfig {
            listen: address.parse().unwrap(),
            data_dir: data_dir.clone(),
            address_file: None,
            max_connections: 64,
            max_foreground_tasks: 8,
            max_background_tasks: 4,
            socket_timeout_seconds: 5,
            grace_seconds: 5,
            tls: tls.clone(),
        };
        let lifecycle = Lifecycle::new(Duration::from_secs(5));
        let listener = server::bind(&node).await.unwrap();
        let pool = database::open(&data_dir.join("metadata.sqlite"), &[])
            .await
            .unwrap();
        let context = DaemonContext::new(node, TlsContext::load(tls).unwrap(), lifecycle.clone(), pool)
            .await
            .unwrap();
        let handler = |State((context, shared)): State<(Arc<DaemonContext>, Shared)>,
                       Volume(volume): Volume,
                       request: Request| async move {
            let kind = if request.uri().path().contains("/wlog/") {
                StreamKind::Wlog
            } else {
                StreamKind::FullBackup
            };
            let handle = move |mut stream: Stream| async move {
                let result = match kind {
                    StreamKind::Wlog => take_wlog(&mut stream, &shared).await,
                    _ => take_image(&mut stream, &shared).await,
                };
                if let Err(Broken::Damaged(why)) = result {
                    stream.fail(&ApiError::new(ErrorCode::Corrupt, why)).await;
                }
            };
            server::upgrade(&context, request, kind, volume, handle) as Result<Response, ApiError>
        };
        let path = format!("/v1/streams/{}/{{vol}}", kind.segment());
        let router = Api::<(Arc<DaemonContext>, Shared)>::new(&context)
            .get(&path, &[Role::Storage], handler)
            .finish((context.clone(), self.shared.clone()));
        lifecycle.spawn(server::serve(context, listener, router));
        lifecycle
    }

    pub fn look<T>(&self, look: impl FnOnce(&mut Arrived) -> T) -> T {
        look(&mut self.shared.0.lock().unwrap())
    }

    /// How the next streams are treated.
    pub fn treat(&self, manners: &[Manner]) {
        self.look(|arrived| arrived.manners.extend(manners));
    }

    /// Ends a [`Manner::Hold`].
    pub fn go_on(&self) {
        self.shared.1.notify_one();
    }

    /// The image of the last backup with every wlog of `uuid`, in the order of gids, without a gap.
    pub fn restored(&self, uuid: Uuid) -> Vec<u8> {
        self.look(|arrived| {
            assert_eq!(arrived.uuid, uuid, "the image goes with the log of now");
            let mut image = arrived.image.clone();
            let mut at = Gid(0);
            for wlog in arrived.wlogs.iter().filter(|w| w.uuid == uuid) {
                let (begin, end) = (wlog.diff.begin().begin(), wlog.diff.end().begin());
                assert!(begin <= at, "gap: {} after gid {at}", wlog.diff);
                if end <= at {
                    continue;
                }
                for (offset, data) in &wlog.writes {
                    image[*offset..*offset + data.len()].copy_from_slice(data);
                }
                at = end;
            }
            image
        })
    }
}

/// An address nobody listens at.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

enum Broken {
    Stream,
    OnPurpose,
    Damaged(String),
}

impl From<StreamError> for Broken {
    fn from(_: StreamError) -> Self {
        Self::Stream
    }
}

fn damaged(why: impl ToString) -> Broken {
    Broken::Damaged(why.to_string())
}

fn manner(shared: &Shared) -> Option<Manner> {
    let mut arrived = shared.0.lock().unwrap();
    arrived.streams += 1;
    arrived.manners.pop_front()
}

async fn refuse(stream: &mut Stream) -> Result<(), Broken> {
    let message = "bad state:Clear".to_owned();
    stream
        .send(&Answer::Refuse(Refusal {
            reason: RefusalReason::BadState,
            message,
        }))
        .await?;
    Ok(())
}

async fn take_wlog(stream: &mut Stream, shared: &Shared) -> Result<(), Broken> {
    let begin: WlogBegin = stream.recv().await?;
    let manner = manner(shared);
    if manner == Some(Manner::Refuse) {
        return refuse(stream).await;
    }
    stream.send(&Answer::Accept).await?;
    let mut parser = LogpackParser::new(begin.pbs, Salt(begin.salt), begin.begin);
    let mut writes = Vec::new();
    while let Received::Bulk(bulk) = stream.recv_bulk().await? {
        if bulk.tag != parser.next_lsid().0 {
            return Err(damaged(format!(
                "tag {} at lsid {}",
                bulk.tag,
                parser.next_lsid()
            )));
        }
        parser.push(bulk.payload.clone());
        stream.consumed(&bulk).await?;
        while let Parsed::Pack(pack) = parser.next().map_err(damaged)? {
            for (record, data) in pack.records() {
                if record.kind == RecordKind::Normal {
                    writes.push((record.offset.bytes() as usize, data));
                }
            }
        }
    }
    let commit: WlogCommit = stream.recv().await?;
    if parser.buffered() != 0
        || parser.next_lsid() != commit.end
        || commit.end.0 > begin.begin.0 + begin.max_pb
    {
        return Err(damaged(format!(
            "ends at {} of {}",
            parser.next_lsid(),
            commit.end
        )));
    }
    if manner == Some(Manner::BreakOff) {
        return Err(Broken::OnPurpose);
    }
    shared.0.lock().unwrap().wlogs.push(Wlog {
        uuid: begin.uuid,
        diff: commit.diff,
        writes,
    });
    if manner == Some(Manner::LoseAnswer) {
        return Err(Broken::OnPurpose);
    }
    stream.send(&Done {}).await?;
    Ok(())
}

async fn take_image(stream: &mut Stream, shared: &Shared) -> Result<(), Broken> {
    let begin: FullBegin = stream.recv().await?;
    let manner = manner(shared);
    if manner == Some(Manner::Refuse) {
        return refuse(stream).await;
    }
    stream.send(&Answer::Accept).await?;
    let reset: FullReset = stream.recv().await?;
    stream.send(&Done {}).await?;
    let mut image = Vec::new();
    while let Received::Bulk(bulk) = stream.recv_bulk().await? {
        if bulk.tag * 512 != image.len() as u64 {
            return Err(damaged(format!(
                "bulk at {} after {} bytes",
                bulk.tag,
                image.len()
            )));
        }
        let raw = if bulk.is_zeros() {
            vec![0; bulk.raw_len as usize]
        } else {
            decompress(bulk.codec, &bulk.payload, bulk.raw_len as usize).map_err(damaged)?
        };
        let first = image.is_empty();
        image.extend_from_slice(&raw);
        stream.consumed(&bulk).await?;
        if first && manner == Some(Manner::Hold) {
            stream.working(shared.1.notified()).await?;
        }
        if first && manner == Some(Manner::BreakOff) {
            return Err(Broken::OnPurpose);
        }
    }
    if image.len() as u64 != begin.size.bytes() {
        return Err(damaged(format!(
            "{} bytes of {}",
            image.len(),
            begin.size.bytes()
        )));
    }
    stream.send(&Done {}).await?;
    let commit: FullCommit = stream.recv().await?;
    {
        let mut arrived = shared.0.lock().unwrap();
        (arrived.image, arrived.snapshot, arrived.uuid) = (image, Some(commit.snapshot), reset.uuid);
    }
    stream.send(&Done {}).await?;
    Ok(())
}
