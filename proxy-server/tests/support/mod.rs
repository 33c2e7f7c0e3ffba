//! A proxy under test between a hand-made storage and a hand-made archive, over real TLS.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod archive;
pub mod storage;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use walb_common::daemon::chain;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::server;
use walb_common::rest::proxy::{ArchiveInfo, KickRequest, VolumeStatus};
use walb_common::rest::{ApiError, Empty, Job, StopMode, StopRequest};
use walb_common::types::VolumeName;
use walb_common::wire::client::{Client, ClientError};
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::tls::{TlsContext, TlsFiles};
use walb_proxy_server::ProxyServer;
use walb_proxy_server::config::Config;

pub const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86400);

pub fn vol(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

/// Waits for a condition, never for a time.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An authority and everything below one temporary directory.
pub struct Site {
    pub dir: tempfile::TempDir,
    authority: Authority,
    operator: Client,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test authority", OffsetDateTime::now_utc(), DAY).unwrap();
        authority
            .pair()
            .store(&dir.path().join("ca.pem"), &dir.path().join("ca.key"))
            .unwrap();
        let files = issue(&authority, dir.path(), Role::Operator, "operator");
        let operator = client(&files);
        Self {
            dir,
            authority,
            operator,
        }
    }

    pub fn issue(&self, role: Role, node: &str) -> TlsFiles {
        issue(&self.authority, self.dir.path(), role, node)
    }

    pub fn client(&self, role: Role, node: &str) -> Client {
        client(&self.issue(role, node))
    }

    /// The configuration of the proxy, listening on a free port; `more` goes to its `[proxy]` table.
    pub fn config(&self, more: &str) -> PathBuf {
        let tls = self.issue(Role::Proxy, "p0");
        let text = format!(
            "[node]\nlisten = '127.0.0.1:0'\ndata_dir = {:?}\naddress_file = {:?}\ngrace_seconds = 5\n\
             [node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[proxy]\nretry_max_seconds = 1\n{more}",
            self.data_dir(),
            self.dir.path().join("address"),
            tls.ca,
            tls.cert,
            tls.key
        );
        let path = self.dir.path().join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Names below a directory of a volume.
    pub fn names(&self, volume: &str, below: &str) -> Vec<String> {
        let dir = self.data_dir().join("volumes").join(volume).join(below);
        let mut names: Vec<_> = match std::fs::read_dir(dir) {
            Ok(entries) => entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        names
    }

    /// The proxy in this process.
    pub async fn start(&self, more: &str) -> Proxy {
        let config = Config::load(&self.config(more)).unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(5));
        let listener = server::bind(&config.node).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // The last connection of the one before may still be closing, and the directory is its until then.
        let proxy = until("the data directory to be free", || async {
            match ProxyServer::open(config.clone(), lifecycle.clone()).await {
                Ok(proxy) => Some(proxy),
                Err(error) if chain(&error).contains("another daemon") => None,
                Err(error) => panic!("{}", chain(&error)),
            }
        })
        .await;
        lifecycle.spawn(server::serve(proxy.context(), listener, proxy.router()));
        Proxy {
            address,
            operator: self.operator.clone(),
            runs: Runs::Here(lifecycle),
        }
    }

    /// The program, with a fault armed ("" for none). Its log goes to `proxy.log`.
    pub async fn start_program(&self, more: &str, fault: &str) -> Proxy {
        let config = self.config(more);
        let address_file = self.dir.path().join("address");
        let _ = std::fs::remove_file(&address_file);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_walb-proxy"))
            .arg("--config")
            .arg(config)
            .env("WALB_FAULT", fault)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut proxy = Proxy {
            address: String::new(),
            operator: self.operator.clone(),
            runs: Runs::Program(child),
        };
        proxy.address = until("the program to listen", || async {
            std::fs::read_to_string(&address_file)
                .ok()
                .map(|text| text.trim().to_owned())
        })
        .await;
        until("the program to serve", || async {
            proxy.get::<Vec<serde_json::Value>>("/v1/volumes").await.ok()
        })
        .await;
        proxy
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("proxy.log")
    }
}

fn issue(authority: &Authority, dir: &Path, role: Role, node: &str) -> TlsFiles {
    let identity = Identity::new(role, node).unwrap();
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let request = Request {
        identity: &identity,
        hosts: &hosts,
        not_before: OffsetDateTime::now_utc(),
        lifetime: DAY,
    };
    let path = |ending: &str| dir.join(format!("{node}.{ending}"));
    let files = TlsFiles {
        ca: dir.join("ca.pem"),
        cert: path("pem"),
        key: path("key"),
    };
    authority
        .issue(&request)
        .unwrap()
        .store(&files.cert, &files.key)
        .unwrap();
    files
}

fn client(files: &TlsFiles) -> Client {
    Client::new(
        TlsContext::load(files).unwrap(),
        Duration::from_secs(10),
        Duration::from_secs(10),
    )
}

enum Runs {
    Here(Lifecycle),
    Program(Child),
}

/// A running proxy.
pub struct Proxy {
    pub address: String,
    pub operator: Client,
    runs: Runs,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        match &mut self.runs {
            Runs::Here(lifecycle) => lifecycle.abort(),
            Runs::Program(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Proxy {
    /// Stops it and waits for its end.
    pub async fn stop_daemon(self) {
        if let Runs::Here(lifecycle) = &self.runs {
            lifecycle.stop();
            lifecycle.until_stopped().await;
        }
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        let Runs::Program(child) = &self.runs else {
            panic!("not a program")
        };
        child.id()
    }

    /// Waits until the program has died of its fault.
    pub async fn died(&mut self) {
        let Runs::Program(child) = &mut self.runs else {
            panic!("not a program")
        };
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(
                began.elapsed() < PATIENCE,
                "the program did not reach its fault point"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.operator.get(&self.address, &[Role::Proxy], path).await
    }

    pub async fn post<Q: serde::Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
    ) -> Result<A, ClientError> {
        self.operator
            .post(&self.address, &[Role::Proxy], path, body)
            .await
    }

    pub async fn delete(&self, path: &str) -> Result<Empty, ClientError> {
        self.operator.delete(&self.address, &[Role::Proxy], path).await
    }

    pub async fn status(&self, volume: &str) -> VolumeStatus {
        self.get(&format!("/v1/volumes/{volume}")).await.unwrap()
    }

    pub async fn state(&self, volume: &str) -> String {
        self.status(volume).await.state
    }

    pub async fn try_add(&self, volume: &str, archive: &str, address: &str) -> Result<Empty, ClientError> {
        let info = ArchiveInfo {
            address: address.to_owned(),
            compression: "snappy:0:1".parse().unwrap(),
            delay_seconds: 0,
        };
        self.post(&format!("/v1/volumes/{volume}/archives/{archive}"), &info)
            .await
    }

    pub async fn add(&self, volume: &str, archive: &str, address: &str) {
        self.try_add(volume, archive, address).await.unwrap();
    }

    pub async fn start_volume(&self, volume: &str) {
        let Empty {} = self
            .post(&format!("/v1/volumes/{volume}/start"), &Empty {})
            .await
            .unwrap();
    }

    pub async fn kick(&self) {
        let Empty {} = self.post("/v1/kick", &KickRequest::default()).await.unwrap();
    }

    /// Asks for a stop; the job's number.
    pub async fn stop(&self, volume: &str, mode: StopMode) -> Result<u64, ClientError> {
        let path = format!("/v1/volumes/{volume}/stop");
        let accepted: walb_common::rest::Accepted = self.post(&path, &StopRequest { mode }).await?;
        Ok(accepted.job)
    }

    pub async fn job(&self, number: u64) -> Job {
        until("the job's end", || async {
            let job: Job = self.get(&format!("/v1/jobs/{number}")).await.unwrap();
            job.state.is_over().then_some(job)
        })
        .await
    }

    /// Waits until nothing waits for anybody.
    pub async fn drained(&self, volume: &str) {
        until("everything to be sent", || async {
            let status = self.status(volume).await;
            let done = status.num_diff == 0 && status.archives.iter().all(|a| a.num_diff == 0 && !a.sending);
            done.then_some(())
        })
        .await;
    }
}

/// The server's own words.
pub fn api(error: ClientError) -> ApiError {
    match error {
        ClientError::Api(error) => error,
        other => panic!("expected an answer, found {other:?}"),
    }
}
