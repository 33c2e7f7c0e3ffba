//! An archive under test, in this process or in its own, and hand-made peers: a storage, a proxy, an operator.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "tests; each test file uses a part of it"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use walb_archive_server::{ArchiveServer, Config};
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server;
use walb_common::format::wdiff::{Content, SortedWriter, WdiffRecord};
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::rest::archive::{Restorable, Restored, VolumeStatus};
use walb_common::rest::{Accepted, ApiError, Empty, Job, JobState};
use walb_common::types::{Compression, CompressionSetting, Gid, Lb, Timestamp, Uuid, VolumeName};
use walb_common::wire::client::{Client, ClientError};
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::message::{Answer, Done, FullBegin, FullCommit, FullReset, StreamKind, WdiffBegin};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::stream::{Bulk, Stream, StreamError};
use walb_common::wire::tls::{TlsContext, TlsFiles};

pub const ARCHIVE: &[Role] = &[Role::Archive];
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Blocks of the volumes of most tests: 1 MiB.
pub const SIZE: Lb = Lb(2048);

pub struct Site {
    pub dir: tempfile::TempDir,
    authority: Authority,
    pub operator: Client,
    pub viewer: Client,
    pub storage: Client,
    pub proxy: Client,
}

fn issue(dir: &Path, authority: &Authority, role: Role, node: &str) -> TlsFiles {
    let identity = Identity::new(role, node).unwrap();
    let hosts = ["127.0.0.1".to_owned()];
    let lifetime = Duration::from_secs(86400);
    let request = Request {
        identity: &identity,
        hosts: &hosts,
        not_before: OffsetDateTime::now_utc(),
        lifetime,
    };
    let path = |name: String| dir.join(name);
    let files = TlsFiles {
        ca: path("ca.pem".into()),
        cert: path(format!("{node}.pem")),
        key: path(format!("{node}.key")),
    };
    authority
        .issue(&request)
        .unwrap()
        .store(&files.cert, &files.key)
        .unwrap();
    files
}

impl Site {
    /// Certificates and a configuration file.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let life = Duration::from_secs(86400);
        let authority = Authority::create("test", OffsetDateTime::now_utc(), life).unwrap();
        authority
            .pair()
            .store(&dir.path().join("ca.pem"), &dir.path().join("ca.key"))
            .unwrap();
        let client = |role, node| {
            let files = issue(dir.path(), &authority, role, node);
            Client::new(TlsContext::load(&files).unwrap(), PATIENCE, PATIENCE)
        };
        let operator = client(Role::Operator, "admin");
        let viewer = client(Role::Viewer, "monitor");
        let storage = client(Role::Storage, "s0");
        let proxy = client(Role::Proxy, "p0");
        let tls = issue(dir.path(), &authority, Role::Archive, "a0");
        let text = format!(
            "[node]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\naddress_file = {:?}\ngrace_seconds = 2\n\
             [node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            dir.path().join("data"),
            dir.path().join("address"),
            tls.ca,
            tls.cert,
            tls.key,
        );
        std::fs::write(dir.path().join("archive.toml"), text).unwrap();
        Self {
            dir,
            authority,
            operator,
            viewer,
            storage,
            proxy,
        }
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("archive.toml")
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.data("images").join(name)
    }

    /// Starts an archive in this process.
    pub async fn start(&self) -> Running {
        let config = Config::load(&self.config_path()).unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(2));
        let listener = server::bind(&config.node).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let archive = ArchiveServer::open(config, lifecycle.clone()).await.unwrap();
        lifecycle.spawn(server::serve(
            archive.context().clone(),
            listener,
            archive.router(),
        ));
        Running {
            address,
            lifecycle,
            archive: Some(archive),
        }
    }

    /// Starts an archive in its own process, with `faults` armed.
    pub fn spawn(&self, faults: &str) -> Process {
        let address_file = self.dir.path().join("address");
        let _ = std::fs::remove_file(&address_file);
        let child = Command::new(env!("CARGO_BIN_EXE_walb-archive"))
            .arg("--config")
            .arg(self.config_path())
            .env("WALB_FAULT", faults)
            .env("WALB_LOG", "warn")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Process {
            child,
            address: String::new(),
        };
        let began = Instant::now();
        while process.address.is_empty() {
            assert!(began.elapsed() < PATIENCE, "the archive did not bind");
            assert!(
                process.child.try_wait().unwrap().is_none(),
                "the archive ended at its start"
            );
            match std::fs::read_to_string(&address_file) {
                Ok(text) => text.trim().clone_into(&mut process.address),
                Err(_) => std::thread::yield_now(),
            }
        }
        process
    }
}

pub struct Running {
    pub address: String,
    lifecycle: Lifecycle,
    archive: Option<ArchiveServer>,
}

impl Running {
    /// Stops it and waits until its directory is free again.
    pub async fn stop(mut self, site: &Site) {
        self.lifecycle.abort();
        self.archive.take();
        let lock = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(site.data("lock"))
            .unwrap();
        tokio::task::spawn_blocking(move || {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        })
        .await
        .unwrap()
        .unwrap();
    }
}

pub struct Process {
    pub child: Child,
    pub address: String,
}

impl Process {
    /// Waits until it has died of a signal.
    pub fn wait_for_death(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "expected death at a fault point, found {status}"
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn vol(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

/// An operator at one archive.
pub struct Operator<'a> {
    pub site: &'a Site,
    pub address: String,
}

type Answered<T> = Result<T, ClientError>;

impl<'a> Operator<'a> {
    pub fn at(site: &'a Site, address: &str) -> Self {
        Self {
            site,
            address: address.to_owned(),
        }
    }

    pub async fn post<B: Serialize, A: DeserializeOwned>(&self, path: &str, body: &B) -> Answered<A> {
        self.site
            .operator
            .post(&self.address, ARCHIVE, &format!("/v1/volumes/{path}"), body)
            .await
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Answered<A> {
        self.site
            .viewer
            .get(&self.address, ARCHIVE, &format!("/v1/volumes/{path}"))
            .await
    }

    pub async fn command(&self, volume: &str, command: &str) -> Answered<Empty> {
        self.post(&format!("{volume}/{command}"), &Empty {}).await
    }

    pub async fn status(&self, volume: &str) -> VolumeStatus {
        self.get(volume).await.unwrap()
    }

    pub async fn restorable(&self, volume: &str) -> Vec<u64> {
        let list: Vec<Restorable> = self.get(&format!("{volume}/restorable?all=true")).await.unwrap();
        list.into_iter().map(|r| r.gid.0).collect()
    }

    pub async fn restored(&self, volume: &str) -> Vec<Restored> {
        self.get(&format!("{volume}/restored")).await.unwrap()
    }

    pub async fn restore(&self, volume: &str, gid: u64) -> Answered<u64> {
        let accepted: Accepted = self
            .post(&format!("{volume}/restore"), &serde_json::json!({ "gid": gid }))
            .await?;
        Ok(accepted.job)
    }

    pub async fn stop(&self, volume: &str, mode: &str) -> Answered<u64> {
        let accepted: Accepted = self
            .post(&format!("{volume}/stop"), &serde_json::json!({ "mode": mode }))
            .await?;
        Ok(accepted.job)
    }

    pub async fn delete_restored(&self, volume: &str, gid: u64) -> Answered<Empty> {
        self.site
            .operator
            .delete(
                &self.address,
                ARCHIVE,
                &format!("/v1/volumes/{volume}/restored/{gid}"),
            )
            .await
    }

    /// Waits for a job's end; None if the archive has gone meanwhile.
    pub async fn job(&self, id: u64) -> Option<Job> {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "job {id} did not end");
            let job: Answered<Job> = self
                .site
                .viewer
                .get(&self.address, ARCHIVE, &format!("/v1/jobs/{id}"))
                .await;
            match job {
                Ok(job) if job.state == JobState::Running => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(job) => return Some(job),
                Err(_) => return None,
            }
        }
    }

    /// Restores, and gives the image's bytes.
    pub async fn image_of(&self, volume: &str, gid: u64) -> Vec<u8> {
        let job = self.job(self.restore(volume, gid).await.unwrap()).await.unwrap();
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        let one: Restored = self.get(&format!("{volume}/restored/{gid}")).await.unwrap();
        std::fs::read(one.path).unwrap()
    }
}

pub fn api_error<T: std::fmt::Debug>(result: Answered<T>) -> ApiError {
    match result {
        Err(ClientError::Api(error)) => error,
        other => panic!("expected an error of the archive, found {other:?}"),
    }
}

/// A volume as it should be: its bytes after each snapshot.
pub struct Model {
    pub bytes: Vec<u8>,
}

impl Model {
    pub fn new(seed: u8) -> Self {
        let mut bytes = vec![0; usize::try_from(SIZE.bytes()).unwrap()];
        for (i, chunk) in bytes.chunks_mut(4096).enumerate().filter(|(i, _)| i % 3 == 0) {
            chunk.fill(seed.wrapping_add(u8::try_from(i % 251).unwrap()));
        }
        Self { bytes }
    }

    /// Writes data, zeros and a discard, different for each `n`; gives the records.
    pub fn change(&mut self, n: u8) -> Vec<WdiffRecord> {
        let at = u64::from(n % 16) * 64;
        let data = |fill: u8, blocks: usize| Bytes::from(vec![fill; blocks * 512]);
        let records = vec![
            WdiffRecord::normal(Lb(at), data(n, 8)),
            WdiffRecord {
                address: Lb(at + 8),
                blocks: Lb(16),
                content: Content::AllZero,
            },
            WdiffRecord {
                address: Lb(at + 24),
                blocks: Lb(8),
                content: Content::Discard,
            },
            WdiffRecord::normal(Lb(1500), data(n.wrapping_add(100), 3)),
        ];
        for record in &records {
            let from = usize::try_from(record.address.bytes()).unwrap();
            let to = usize::try_from(record.end().bytes()).unwrap();
            match record.raw_data().unwrap() {
                Some(raw) => self.bytes[from..to].copy_from_slice(&raw),
                None => self.bytes[from..to].fill(0),
            }
        }
        records
    }
}

pub fn wdiff(uuid: Uuid, records: &[WdiffRecord]) -> Vec<u8> {
    let mut writer = SortedWriter::new(Vec::new(), uuid, CompressionSetting::of(Compression::Lz4)).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    writer.finish().unwrap().0
}

pub fn diff(from: u64, to: u64) -> MetaDiff {
    MetaDiff::new(Snapshot::clean(Gid(from)), Snapshot::clean(Gid(to)))
        .unwrap()
        .with_timestamp(Timestamp(1_700_000_000 + to))
}

pub const LOG: Uuid = Uuid([7; 16]);

/// What came of a transfer.
#[derive(Debug)]
pub enum Sent {
    Done,
    Refused(walb_common::wire::message::Refusal),
    Failed(StreamError),
    /// The archive went away.
    Lost,
}

impl Sent {
    pub fn refusal(self) -> walb_common::wire::message::RefusalReason {
        match self {
            Self::Refused(refusal) => refusal.reason,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }
}

fn outcome(error: StreamError) -> Sent {
    if error.peer().is_some() {
        Sent::Failed(error)
    } else {
        Sent::Lost
    }
}

/// Sends bytes as a wdiff, as a proxy does.
pub async fn send_wdiff(site: &Site, address: &str, volume: &str, begin: &WdiffBegin, bytes: &[u8]) -> Sent {
    let Ok(mut stream) = site
        .proxy
        .open_stream(address, Role::Archive, StreamKind::Wdiff, &vol(volume))
        .await
    else {
        return Sent::Lost;
    };
    match wdiff_dialogue(&mut stream, begin, bytes).await {
        Ok(Answer::Accept) => Sent::Done,
        Ok(Answer::Refuse(refusal)) => Sent::Refused(refusal),
        Err(error) => outcome(error),
    }
}

async fn wdiff_dialogue(
    stream: &mut Stream,
    begin: &WdiffBegin,
    bytes: &[u8],
) -> Result<Answer, StreamError> {
    stream.send(begin).await?;
    let answer: Answer = stream.recv().await?;
    if answer == Answer::Accept {
        // Odd lengths: frames need not end where records do.
        for (i, chunk) in bytes.chunks(1001).enumerate() {
            stream
                .send_bulk(Bulk::raw(i as u64 * 1001, Bytes::copy_from_slice(chunk)))
                .await?;
        }
        stream.send_end().await?;
        let Done {} = stream.recv().await?;
    }
    Ok(answer)
}

pub async fn send_diff(
    site: &Site,
    address: &str,
    volume: &str,
    diff: MetaDiff,
    records: &[WdiffRecord],
) -> Sent {
    let begin = WdiffBegin {
        uuid: LOG,
        size: SIZE,
        diff,
    };
    send_wdiff(site, address, volume, &begin, &wdiff(LOG, records)).await
}

/// Opens a full backup up to the accepted reset, as a storage does.
pub async fn begin_backup(
    site: &Site,
    address: &str,
    volume: &str,
) -> Result<Result<Stream, Sent>, ClientError> {
    let mut stream = site
        .storage
        .open_stream(address, Role::Archive, StreamKind::FullBackup, &vol(volume))
        .await?;
    let begin = FullBegin {
        size: SIZE,
        timestamp: Timestamp(1_700_000_000),
        bulk: Lb(128),
    };
    let dialogue = async {
        stream.send(&begin).await?;
        let answer: Answer = stream.recv().await?;
        if answer == Answer::Accept {
            stream.send(&FullReset { uuid: LOG }).await?;
            let Done {} = stream.recv().await?;
        }
        Ok(answer)
    }
    .await;
    Ok(match dialogue {
        Ok(Answer::Accept) => Ok(stream),
        Ok(Answer::Refuse(refusal)) => Err(Sent::Refused(refusal)),
        Err(error) => Err(outcome(error)),
    })
}

/// A whole full backup of `image`, which is the snapshot `(0, end)`.
pub async fn full_backup(site: &Site, address: &str, volume: &str, image: &[u8], end: u64) -> Sent {
    let mut stream = match begin_backup(site, address, volume).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(sent)) => return sent,
        Err(_) => return Sent::Lost,
    };
    let dialogue = async {
        for (i, chunk) in image.chunks(128 * 512).enumerate() {
            let tag = i as u64 * 128;
            let bulk = if chunk.iter().all(|b| *b == 0) {
                Bulk::zeros(tag, u32::try_from(chunk.len()).unwrap())
            } else {
                let mut compressor =
                    walb_common::format::compress::Compressor::new(CompressionSetting::of(Compression::Lz4));
                match compressor.compress(chunk) {
                    Some(stored) => Bulk {
                        tag,
                        codec: Compression::Lz4,
                        raw_len: u32::try_from(chunk.len()).unwrap(),
                        payload: stored.into(),
                    },
                    None => Bulk::raw(tag, Bytes::copy_from_slice(chunk)),
                }
            };
            stream.send_bulk(bulk).await?;
        }
        stream.send_end().await?;
        let Done {} = stream.recv().await?;
        stream
            .send(&FullCommit {
                snapshot: Snapshot::new(Gid(0), Gid(end)).unwrap(),
            })
            .await?;
        let Done {} = stream.recv().await?;
        Ok(())
    };
    match dialogue.await {
        Ok(()) => Sent::Done,
        Err(error) => outcome(error),
    }
}
