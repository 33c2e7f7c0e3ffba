//! The storage under test: the real binary, driven over REST.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use walb_common::rest::storage::{SnapshotAnswer, VolumeStatus};
use walb_common::rest::{Accepted, ApiError, Job};
use walb_common::wire::client::{Client, ClientError};
use walb_common::wire::identity::Role;
use walb_common::wire::tls::TlsContext;

use super::{Peers, Pki, until};

pub struct Storage {
    child: Child,
    pub address: String,
    client: Client,
    dir: PathBuf,
}

impl Storage {
    pub async fn start(
        dir: &Path,
        pki: &Pki,
        peers: &Peers,
        proxies: &[String],
        fault: Option<&str>,
    ) -> Self {
        let tls = pki.issue(Role::Storage, "s0");
        let address_file = dir.join("s0.address");
        let text = format!(
            "[node]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\naddress_file = {address_file:?}\n\
             socket_timeout_seconds = 5\ngrace_seconds = 5\n\
             [node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
             [storage]\narchive = {:?}\nproxies = {proxies:?}\nmax_wlog_send_mb = 1\nretry_max_seconds = 2\n\
             probe_interval_seconds = 1\nsend_delay_milliseconds = 20\ntransfer_interval_milliseconds = 50\nheal_overflow = false\n",
            dir.join("s0"),
            tls.ca,
            tls.cert,
            tls.key,
            peers.archive
        );
        std::fs::write(dir.join("s0.toml"), text).unwrap();
        let operator = TlsContext::load(&pki.issue(Role::Operator, "admin")).unwrap();
        let patience = Duration::from_secs(20);
        let client = Client::new(operator, patience, patience);
        let (child, address) = spawn(dir, fault).await;
        Self {
            child,
            address,
            client,
            dir: dir.to_owned(),
        }
    }

    /// Kills it with -9 (if it still lives), and starts it again.
    pub async fn restart(&mut self, fault: Option<&str>) {
        self.kill();
        (self.child, self.address) = spawn(&self.dir, fault).await;
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Waits until it has died by itself.
    pub async fn died(&mut self) {
        let child = &mut self.child;
        until("the storage dies at its fault point", async || {
            child.try_wait().unwrap().is_some()
        })
        .await;
    }

    /// Asks it to stop, as systemd does; answers its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let child = &mut self.child;
        until("the storage stops", async || child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap().code()
    }

    /// What a second one on the same data directory says before it gives up.
    pub fn second_one(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walb-storage"));
        let output = command
            .arg("--config")
            .arg(self.dir.join("s0.toml"))
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.client.get(&self.address, &[Role::Storage], path).await
    }

    pub async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, ApiError> {
        match self
            .client
            .post(&self.address, &[Role::Storage], path, body)
            .await
        {
            Ok(answer) => Ok(answer),
            Err(ClientError::Api(error)) => Err(error),
            Err(other) => Err(other.into()),
        }
    }

    pub async fn command(&self, vol: &str, command: &str, body: Value) -> Result<Value, ApiError> {
        self.post(&format!("/v1/volumes/{vol}/{command}"), &body).await
    }

    pub async fn init(&self, vol: &str, device: &str) -> Result<Value, ApiError> {
        self.command(vol, "init", json!({ "device": device })).await
    }

    pub async fn full_backup(&self, vol: &str) -> Result<u64, ApiError> {
        let body = json!({ "bulk_bytes": 65536 });
        self.post::<Accepted>(&format!("/v1/volumes/{vol}/full-backup"), &body)
            .await
            .map(|a| a.job)
    }

    pub async fn stop(&self, vol: &str, mode: &str) -> Result<u64, ApiError> {
        self.post::<Accepted>(&format!("/v1/volumes/{vol}/stop"), &json!({ "mode": mode }))
            .await
            .map(|a| a.job)
    }

    pub async fn snapshot(&self, vol: &str) -> Result<u64, ApiError> {
        self.post::<SnapshotAnswer>(&format!("/v1/volumes/{vol}/snapshot"), &json!({}))
            .await
            .map(|a| a.gid.0)
    }

    pub async fn status(&self, vol: &str) -> VolumeStatus {
        self.get(&format!("/v1/volumes/{vol}")).await.unwrap()
    }

    /// None as long as the storage does not answer.
    pub async fn done_gid(&self, vol: &str) -> Option<u64> {
        let status = self
            .get::<VolumeStatus>(&format!("/v1/volumes/{vol}"))
            .await
            .ok()?;
        Some(status.done?.gid.0)
    }

    pub async fn job(&self, id: u64) -> Job {
        self.get(&format!("/v1/jobs/{id}")).await.unwrap()
    }

    pub async fn job_ended(&self, id: u64) -> Job {
        until("the job ends", async || self.job(id).await.state.is_over()).await;
        self.job(id).await
    }

    pub async fn in_state(&self, vol: &str, state: &str) {
        until(&format!("{vol} is in state {state}"), async || {
            self.status(vol).await.state == state
        })
        .await;
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn spawn(dir: &Path, fault: Option<&str>) -> (Child, String) {
    let address_file = dir.join("s0.address");
    let _ = std::fs::remove_file(&address_file);
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("s0.log"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walb-storage"));
    command.arg("--config").arg(dir.join("s0.toml")).arg("--debug");
    command
        .env_remove("WALB_FAULT")
        .stdin(Stdio::null())
        .stderr(log)
        .stdout(Stdio::null());
    if let Some(fault) = fault {
        command.env("WALB_FAULT", fault);
    }
    let child = command.spawn().unwrap();
    until("the storage listens", async || address_file.exists()).await;
    let address = std::fs::read_to_string(&address_file).unwrap().trim().to_owned();
    (child, address)
}
