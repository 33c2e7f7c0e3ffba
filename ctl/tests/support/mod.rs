//! A certificate authority, a fake archive with real TLS, and `walbc` itself as a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use walb_common::daemon::config::{self, NodeConfig};
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::database;
use walb_common::daemon::extract::{Body, GidParameter, Parameters, Volume};
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server::{self, Api, OPERATOR, READER};
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::rest::archive::{self, RestoreRequest};
use walb_common::rest::{ApiError, Empty, ErrorCode, StopMode, StopRequest, VolumeBrief};
use walb_common::types::{Gid, Lb, Timestamp, Uuid, VolumeName};
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::tls::{TlsContext, TlsFiles};

pub const DAY: Duration = Duration::from_secs(86400);

/// A directory with an authority and what it issued.
pub struct Pki {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority =
            Authority::create("test authority", OffsetDateTime::now_utc() - 10 * DAY, 100 * DAY).unwrap();
        let pki = Self { dir, authority };
        pki.authority
            .pair()
            .store(&pki.path("ca.pem"), &pki.path("ca.key"))
            .unwrap();
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate of this authority that is valid for a day from `age` ago.
    pub fn issue(&self, role: Role, node: &str, age: Duration) -> TlsFiles {
        self.issue_by(&self.authority, role, node, age)
    }

    /// The same by another authority, in the same directory.
    pub fn issue_by(&self, authority: &Authority, role: Role, node: &str, age: Duration) -> TlsFiles {
        let identity = Identity::new(role, node).unwrap();
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let not_before = OffsetDateTime::now_utc() - age;
        let request = Request {
            identity: &identity,
            hosts: &hosts,
            not_before,
            lifetime: DAY,
        };
        let cert = self.path(&format!("{node}.pem"));
        let key = self.path(&format!("{node}.key"));
        authority.issue(&request).unwrap().store(&cert, &key).unwrap();
        TlsFiles {
            ca: self.path("ca.pem"),
            cert,
            key,
        }
    }

    /// A client configuration for `role`, with paths relative to it.
    pub fn client(&self, role: Role, age: Duration) -> PathBuf {
        let node = format!("client-{role}-{}", age.as_secs());
        self.issue(role, &node, age);
        self.client_of(&node)
    }

    pub fn client_of(&self, node: &str) -> PathBuf {
        let path = self.path(&format!("{node}.toml"));
        std::fs::write(
            &path,
            format!("ca = \"ca.pem\"\ncert = \"{node}.pem\"\nkey = \"{node}.key\"\n"),
        )
        .unwrap();
        path
    }
}

/// What a run of `walbc` came to.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Success with exactly this on stdout, and silence on stderr.
    #[track_caller]
    pub fn prints(&self, stdout: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str(), self.stderr.as_str()),
            (Some(0), stdout, ""),
            "{self:?}"
        );
    }

    /// Failure with nothing on stdout and one line on stderr, which holds every one of `parts`.
    #[track_caller]
    pub fn fails_with(&self, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        assert!(self.stderr.contains(" ERROR walbc error: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "expected {part:?} in {self:?}");
        }
    }
}

/// `walbc` under the identity of `config`; the arguments are separated by blanks.
pub fn command(config: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walbc"));
    command
        .env_clear()
        .env("WALBC_CONFIG", config)
        .args(arguments.split(' '))
        .stdin(Stdio::null());
    command
}

pub fn run(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running archive a0 that knows the volume vol0 and pretends.
pub struct FakeArchive {
    pub pki: Pki,
    pub port: u16,
    operator: PathBuf,
    lifecycle: Lifecycle,
    _runtime: Runtime,
}

impl FakeArchive {
    pub fn start() -> Self {
        Self::start_with_certificate_of_age(Duration::ZERO)
    }

    /// `age` beyond a day makes its certificate an expired one.
    pub fn start_with_certificate_of_age(age: Duration) -> Self {
        let pki = Pki::new();
        let tls = pki.issue(Role::Archive, "a0", age);
        let operator = pki.client(Role::Operator, Duration::ZERO);
        let runtime = Runtime::new().unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(5));
        let port = runtime.block_on(serve(&pki, &tls, lifecycle.clone()));
        Self {
            pki,
            port,
            operator,
            lifecycle,
            _runtime: runtime,
        }
    }

    /// Runs `walbc` as an operator.
    pub fn walbc(&self, arguments: &str) -> Outcome {
        run(self.command(arguments))
    }

    pub fn command(&self, arguments: &str) -> Command {
        self.command_as(&self.operator, arguments)
    }

    pub fn command_as(&self, config: &Path, arguments: &str) -> Command {
        command(config, &format!("-a 127.0.0.1 -p {} {arguments}", self.port))
    }
}

impl Drop for FakeArchive {
    fn drop(&mut self) {
        self.lifecycle.abort();
    }
}

type Context = std::sync::Arc<DaemonContext>;

async fn serve(pki: &Pki, tls: &TlsFiles, lifecycle: Lifecycle) -> u16 {
    let path = pki.path("node.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        pki.path(""),
        tls.ca,
        tls.cert,
        tls.key
    );
    std::fs::write(&path, text).unwrap();
    let node: NodeConfig = config::load(&path).unwrap();
    let listener = server::bind(&node).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pool = database::open(&pki.path("metadata.sqlite"), &[]).await.unwrap();
    let context = DaemonContext::new(node, TlsContext::load(tls).unwrap(), lifecycle, pool)
        .await
        .unwrap();
    let router = Api::new(&context)
        .get("/v1/volumes", READER, || async {
            let brief = |name: &str| VolumeBrief {
                name: name.into(),
                state: "Archived".into(),
                failed: None,
            };
            axum::Json(vec![brief("vol0"), brief("vol1")])
        })
        .get("/v1/volumes/{vol}", READER, |Volume(vol): Volume| async move {
            axum::Json(volume(&vol))
        })
        .get("/v1/volumes/{vol}/diffs", READER, diffs)
        .get("/v1/volumes/{vol}/restored/{gid}", READER, restored)
        .post(
            "/v1/volumes/{vol}/init",
            OPERATOR,
            |Body(_): Body<archive::InitRequest>| async { axum::Json(Empty {}) },
        )
        .post("/v1/volumes/{vol}/restore", OPERATOR, restore)
        .post("/v1/volumes/{vol}/stop", OPERATOR, stop)
        .finish(context.clone());
    tokio::spawn(server::serve(context, listener, router));
    port
}

fn volume(vol: &VolumeName) -> archive::VolumeStatus {
    let known = vol.as_str() == "vol0";
    archive::VolumeStatus {
        name: vol.to_string(),
        state: if known { "Archived" } else { "Clear" }.into(),
        failed: None,
        actions: Vec::new(),
        stop_state: "NotStopping".into(),
        last_sync: Timestamp::NONE,
        last_wdiff_received: Timestamp::NONE,
        progress: Lb(0),
        size: known.then_some(Lb(65536)),
        uuid: Uuid([0xab; 16]),
        archive_uuid: Uuid::NIL,
        base: "<|2|>-20261122140200".into(),
        latest: Some(Snapshot::clean(Gid(9))),
        latest_timestamp: Timestamp::NONE,
        num_restored: 0,
        num_restorable: 2,
        num_restorable_all: 2,
        num_diff: 1,
        wdiff_total_size: 857_632,
        warnings: Vec::new(),
    }
}

#[derive(serde::Deserialize)]
struct Range {
    gid0: u64,
    gid1: u64,
}

/// As many diffs as the range is long, up to a hundred thousand.
async fn diffs(Parameters(range): Parameters<Range>) -> axum::Json<Vec<MetaDiff>> {
    let snapshot = |gid| Snapshot::clean(Gid(gid));
    let end = range.gid1.min(range.gid0 + 100_000);
    axum::Json(
        (range.gid0..end)
            .map(|g| MetaDiff::new(snapshot(g), snapshot(g + 1)).unwrap().with_size(7))
            .collect(),
    )
}

async fn restored(GidParameter(gid): GidParameter) -> Result<axum::Json<archive::Restored>, ApiError> {
    match gid {
        Gid(9) => Ok(axum::Json(archive::Restored {
            gid,
            path: "/images/wr_vol0_9".into(),
        })),
        _ => Err(ApiError::new(
            ErrorCode::NotFound,
            format!("volume not found:vol0:{gid}:restored"),
        )),
    }
}

fn clear(vol: &VolumeName) -> ApiError {
    ApiError::new(ErrorCode::WrongState, "bad state:Clear, expected Archived")
        .volume(vol)
        .hint(format!("no volume {vol} here"))
}

/// The gid tells how the job goes.
async fn restore(
    State(context): State<Context>,
    Volume(vol): Volume,
    Body(request): Body<RestoreRequest>,
) -> Result<Response, ApiError> {
    if vol.as_str() != "vol0" {
        return Err(clear(&vol));
    }
    let RestoreRequest { gid } = request;
    if gid == Gid(3) {
        return Err(ApiError::new(ErrorCode::NotFound, "bad gid to restore:vol0:3").volume(&vol));
    }
    let work = move |job: walb_common::daemon::jobs::JobContext| async move {
        job.set_total(100);
        match gid {
            Gid(10) => Err(
                ApiError::new(ErrorCode::NoSpace, "write wr_vol0_10: disk is full").hint("free some space"),
            ),
            Gid(11) => {
                job.cancel.cancelled().await;
                Err(ApiError::new(ErrorCode::Cancelled, "restore was cancelled"))
            }
            _ => {
                job.set_done(100);
                Ok(json!({ "gid": gid }))
            }
        }
    };
    Ok(server::accepted(
        context.jobs.start("restore", Some(&vol), work).await?,
    ))
}

async fn stop(
    State(context): State<Context>,
    Volume(vol): Volume,
    Body(request): Body<StopRequest>,
) -> Result<Response, ApiError> {
    if request.mode == StopMode::Empty {
        return Err(ApiError::new(ErrorCode::BadRequest, "stop empty is not allowed."));
    }
    let work = |_| async { Ok(Value::Null) };
    Ok(server::accepted(
        context.jobs.start("stop", Some(&vol), work).await?,
    ))
}
