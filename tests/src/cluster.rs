//! One of each daemon on loopback, as an operator would set them up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use walb_common::wire::identity;

use crate::binaries;
use crate::daemon::Daemon;
use crate::image::{Captured, digest_file};
use crate::pki::Pki;
use crate::ports::{Port, reserve};
use crate::wait::{PATIENCE, until};

/// The four daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// walb-wdev.
    Wdev,
    /// walb-storage.
    Storage,
    /// walb-proxy.
    Proxy,
    /// walb-archive.
    Archive,
}

impl Role {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Wdev, Self::Storage, Self::Proxy, Self::Archive];

    /// Name of the binary.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Wdev => "walb-wdev",
            Self::Storage => "walb-storage",
            Self::Proxy => "walb-proxy",
            Self::Archive => "walb-archive",
        }
    }
}

/// What may differ between clusters.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The proxy's data directory; for tests with a small file system.
    pub proxy_dir: Option<PathBuf>,
    /// The archive's data directory.
    pub archive_dir: Option<PathBuf>,
    /// Further lines for the `[storage]` table.
    pub storage_settings: String,
    /// Further lines for the `[proxy]` table.
    pub proxy_settings: String,
    /// Further lines for the `[archive]` table.
    pub archive_settings: String,
}

/// A volume to make.
#[derive(Debug, Clone, Copy)]
pub struct VolumeSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its physical block size.
    pub pbs: u32,
    /// Size of its log device in bytes.
    pub log_size: u64,
}

impl Default for VolumeSpec<'_> {
    fn default() -> Self {
        Self {
            name: "vol0",
            size: 64 << 20,
            pbs: 512,
            log_size: 256 << 20,
        }
    }
}

/// A running cluster. Everything it made goes with it.
pub struct Cluster {
    /// Certificates.
    pub pki: Pki,
    dir: PathBuf,
    daemons: BTreeMap<Role, Daemon>,
    ports: BTreeMap<Role, Port>,
    operator: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Cluster {
    /// Starts one of each.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&Options::default())
    }

    /// Starts one of each with other settings.
    pub fn start_with(options: &Options) -> anyhow::Result<Self> {
        let temporary = tempfile::Builder::new().prefix("walb-test-").tempdir()?;
        let dir = temporary.path().to_owned();
        let pki = Pki::create(&dir.join("pki"))?;
        let ports: BTreeMap<_, _> = [Role::Storage, Role::Proxy, Role::Archive]
            .map(|r| (r, reserve()))
            .into();
        let operator = pki.walbc_config(&pki.issue(identity::Role::Operator, "admin")?, "admin")?;
        let mut cluster = Self {
            pki,
            dir,
            daemons: BTreeMap::new(),
            ports,
            operator,
            _temporary: temporary,
        };
        cluster.prepare(options)?;
        for role in Role::ALL {
            cluster.start_daemon(role)?;
        }
        for role in [Role::Archive, Role::Proxy, Role::Storage] {
            cluster.until_up(role)?;
        }
        until("walb-wdev to come up", PATIENCE, || {
            cluster.wdevc(&["list"]).map(Some)
        })?;
        Ok(cluster)
    }

    fn prepare(&mut self, options: &Options) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        let address = |role| self.ports[&role].address();
        let storage = format!(
            "archive = {:?}\nproxies = [{:?}]\n{}",
            address(Role::Archive),
            address(Role::Proxy),
            options.storage_settings
        );
        let configs = [
            (Role::Storage, identity::Role::Storage, "s0", storage, None),
            (
                Role::Proxy,
                identity::Role::Proxy,
                "p0",
                options.proxy_settings.clone(),
                options.proxy_dir.clone(),
            ),
            (
                Role::Archive,
                identity::Role::Archive,
                "a0",
                options.archive_settings.clone(),
                options.archive_dir.clone(),
            ),
        ];
        for (role, identity, node, settings, data_dir) in configs {
            let tls = self.pki.issue(identity, node)?;
            let data_dir = data_dir.unwrap_or_else(|| dir.join(node));
            std::fs::create_dir_all(&data_dir)?;
            let text = format!(
                "[node]\nlisten = {:?}\ndata_dir = {data_dir:?}\n\n[node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\n[{identity}]\n{settings}\n",
                address(role),
                tls.ca,
                tls.cert,
                tls.key
            );
            let path = dir.join(format!("{node}.toml"));
            std::fs::write(&path, text)?;
            let arguments = vec!["--config".into(), text_of(&path)?];
            let log = dir.join(format!("{node}.log"));
            self.daemons.insert(
                role,
                Daemon::new(role.binary(), binaries::path(role.binary()), arguments, &log),
            );
        }
        std::fs::create_dir_all(dir.join("wdev"))?;
        let arguments = vec![
            "--dir".into(),
            text_of(&dir.join("wdev"))?,
            "--socket".into(),
            text_of(&self.wdev_socket())?,
        ];
        let wdev = Daemon::new(
            "walb-wdev",
            binaries::path("walb-wdev"),
            arguments,
            &dir.join("wdev.log"),
        );
        self.daemons.insert(Role::Wdev, wdev);
        Ok(())
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn wdev_socket(&self) -> PathBuf {
        self.dir.join("wdev.sock")
    }

    /// A daemon.
    pub fn daemon(&mut self, role: Role) -> &mut Daemon {
        self.daemons
            .get_mut(&role)
            .expect("all four are made at the start")
    }

    /// Starts a daemon that does not run.
    pub fn start_daemon(&mut self, role: Role) -> anyhow::Result<()> {
        self.daemon(role).start()
    }

    /// Waits until a server answers.
    pub fn until_up(&mut self, role: Role) -> anyhow::Result<()> {
        until(&format!("{} to come up", role.binary()), PATIENCE, || {
            if !self.daemon(role).is_running() {
                bail!("it has died\n{}", self.daemon(role).log_tail());
            }
            self.walbc(role, &["get", "host-type"]).map(Some)
        })?;
        Ok(())
    }

    /// `HOST:PORT` of a server.
    pub fn address(&self, role: Role) -> String {
        self.ports[&role].address()
    }

    /// Runs walbc as the operator; its stdout without white space at the ends, or an error with its stderr.
    pub fn walbc(&self, role: Role, arguments: &[&str]) -> anyhow::Result<String> {
        self.walbc_as(&self.operator, role, arguments)
    }

    /// Runs walbc with another configuration.
    pub fn walbc_as(&self, config: &Path, role: Role, arguments: &[&str]) -> anyhow::Result<String> {
        Self::walbc_on(config, self.ports[&role].number, arguments)
    }

    /// Runs walbc as the operator against a server that is none of the four.
    pub fn walbc_at(&self, port: u16, arguments: &[&str]) -> anyhow::Result<String> {
        Self::walbc_on(&self.operator, port, arguments)
    }

    fn walbc_on(config: &Path, port: u16, arguments: &[&str]) -> anyhow::Result<String> {
        let port = port.to_string();
        let mut command = Command::new(binaries::path("walbc"));
        command
            .env("WALBC_CONFIG", config)
            .args(["-a", "127.0.0.1", "-p", &port])
            .args(arguments);
        output_of(command)
    }

    /// Runs wdevc against the cluster's walb-wdev.
    pub fn wdevc(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(binaries::path("wdevc"));
        command
            .env("WALB_WDEV_SOCKET", self.wdev_socket())
            .args(arguments);
        output_of(command)
    }

    /// The NBD socket of a volume's device.
    pub fn nbd_socket(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}.nbd"))
    }

    /// Makes a formatted device with files behind it, served over NBD.
    pub fn create_device(&self, spec: &VolumeSpec<'_>) -> anyhow::Result<()> {
        let file = |suffix: &str, size| -> anyhow::Result<String> {
            let path = self.dir.join(format!("{}.{suffix}", spec.name));
            std::fs::File::create(&path)?.set_len(size)?;
            text_of(&path)
        };
        let (log, data) = (file("ldev", spec.log_size)?, file("ddev", spec.size)?);
        let (pbs, socket) = (spec.pbs.to_string(), text_of(&self.nbd_socket(spec.name))?);
        self.wdevc(&["format-ldev", &log, &data, "-n", spec.name, "-pbs", &pbs])?;
        self.wdevc(&["create-wdev", &log, &data, "-n", spec.name, "-nbd", &socket])?;
        Ok(())
    }

    /// Makes a volume known to all three servers; its full backup is not yet taken.
    pub fn register(&self, volume: &str) -> anyhow::Result<()> {
        let device = format!("wdev:{}#{volume}", text_of(&self.wdev_socket())?);
        self.walbc(Role::Storage, &["init-vol", volume, &device])?;
        self.walbc(Role::Archive, &["init-vol", volume])?;
        let archive = self.address(Role::Archive);
        self.walbc(
            Role::Proxy,
            &["archive-info", "add", volume, "a0", &archive, "lz4:0:1"],
        )?;
        self.walbc(Role::Proxy, &["start", volume])?;
        Ok(())
    }

    /// A device, registered, with its full backup taken.
    pub fn protect(&self, spec: &VolumeSpec<'_>) -> anyhow::Result<()> {
        self.create_device(spec)?;
        self.register(spec.name)?;
        self.walbc(Role::Storage, &["full-bkp", spec.name, "--wait"])?;
        Ok(())
    }

    /// Takes an explicit snapshot; its gid.
    pub fn snapshot(&self, volume: &str) -> anyhow::Result<u64> {
        Ok(self.walbc(Role::Storage, &["snapshot", volume])?.parse()?)
    }

    /// Explicit restorable gids.
    pub fn restorable(&self, volume: &str) -> anyhow::Result<Vec<u64>> {
        let text = self.walbc(Role::Archive, &["get", "restorable", volume])?;
        text.lines()
            .map(|line| Ok(line.split(' ').next().context("empty line")?.parse()?))
            .collect()
    }

    /// Waits until a snapshot is restorable.
    pub fn until_restorable(&self, volume: &str, gid: u64, patience: Duration) -> anyhow::Result<()> {
        until(
            &format!("snapshot {gid} of {volume} to be restorable"),
            patience,
            || Ok(self.restorable(volume)?.contains(&gid).then_some(())),
        )
    }

    /// The newest gid the archive holds for a volume.
    pub fn latest_gid(&self, volume: &str) -> anyhow::Result<u64> {
        let text = self.walbc(Role::Archive, &["get", "latest-snap", volume])?;
        let gid = text
            .split('\t')
            .find_map(|f| f.strip_prefix("gid:"))
            .context("latest-snap without gid")?;
        Ok(gid.parse()?)
    }

    /// Restores a snapshot, digests the image, removes it again.
    pub fn restored_digest(&self, volume: &str, gid: u64) -> anyhow::Result<Captured> {
        let text = gid.to_string();
        self.walbc(Role::Archive, &["restore", volume, &text, "--wait"])?;
        let path = self.walbc(Role::Archive, &["get", "restored-path", volume, &text])?;
        let captured = digest_file(Path::new(&path))?;
        self.walbc(Role::Archive, &["del-restored", volume, &text])?;
        Ok(captured)
    }

    /// The ends of all logs, for the message of a failing test.
    pub fn logs(&self) -> String {
        self.daemons.values().map(Daemon::log_tail).collect()
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("path is not UTF-8")?.to_owned())
}

fn output_of(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
