//! Certificates, configurations, the four daemons, and the commands to drive them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cleanup::Cleanup;
use super::text;
use crate::run;
use crate::servers::{self, SERVERS};

/// The running daemons.
pub struct Daemons {
    binaries: PathBuf,
    dir: PathBuf,
    ports: BTreeMap<&'static str, u16>,
}

impl Daemons {
    /// Makes certificates and configurations, starts one of each, waits until all answer.
    pub fn start(binaries: &Path, dir: &Path, cleanup: &mut Cleanup) -> Result<Self> {
        let mut taken = Vec::new();
        let ports = SERVERS
            .iter()
            .map(|(role, _)| Ok((*role, free_port(&mut taken)?)))
            .collect::<Result<_>>()?;
        let daemons = Self {
            binaries: binaries.to_owned(),
            dir: dir.to_owned(),
            ports,
        };
        std::fs::create_dir_all(dir.join("logs"))?;
        let walbc = daemons.binaries.join("walbc");
        servers::certificates(dir, |arguments| run::quietly(text(&walbc)?, arguments))?;
        let wdev = dir.join("wdev");
        std::fs::create_dir_all(&wdev)?;
        let socket = daemons.wdev_socket();
        daemons.spawn(
            "walb-wdev",
            &["--dir", text(&wdev)?, "--socket", text(&socket)?],
            cleanup,
        )?;
        for (role, node) in SERVERS {
            let config = servers::configuration(dir, (role, node), |role| daemons.address(role))?;
            daemons.spawn(&format!("walb-{role}"), &["--config", text(&config)?], cleanup)?;
        }
        until("walb-wdev", || daemons.wdevc(&["list"]))?;
        for (role, _) in SERVERS {
            until(role, || daemons.walbc(role, &["get", "host-type"]))?;
        }
        Ok(daemons)
    }

    fn spawn(&self, name: &str, arguments: &[&str], cleanup: &mut Cleanup) -> Result<()> {
        let log = File::create(self.dir.join("logs").join(format!("{name}.log")))?;
        let mut command = Command::new(self.binaries.join(name));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A group of its own: Ctrl-C on the terminal must reach us alone, or the device would go away under the mount.
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let pid = child.id();
        // Waits for the end, so that what comes next in the teardown finds it gone.
        cleanup.add(format!(
            "kill {pid} 2>/dev/null; for i in $(seq 300); do grep -qs '^State:.[^Z]' /proc/{pid}/status || exit 0; sleep 0.1; done; kill -9 {pid}"
        ))
    }

    /// The control socket of walb-wdev.
    pub fn wdev_socket(&self) -> PathBuf {
        self.dir.join("wdev.sock")
    }

    /// Runs wdevc.
    pub fn wdevc(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.binaries.join("wdevc"));
        run::output(
            command
                .env("WALB_WDEV_SOCKET", self.wdev_socket())
                .args(arguments),
        )
    }

    fn walbc(&self, role: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.binaries.join("walbc"));
        command.env("WALBC_CONFIG", self.dir.join("pki/walbc.toml"));
        command.args(["-a", "127.0.0.1", "-p", &self.ports[role].to_string()]);
        run::output(command.args(arguments))
    }

    /// Runs walbc against the storage.
    pub fn storage(&self, arguments: &[&str]) -> Result<String> {
        self.walbc("storage", arguments)
    }

    /// Runs walbc against the archive.
    pub fn archive(&self, arguments: &[&str]) -> Result<String> {
        self.walbc("archive", arguments)
    }

    /// Makes a volume known to storage, archive and proxy.
    pub fn register(&self, volume: &str) -> Result<()> {
        let device = format!("wdev:{}#{volume}", self.wdev_socket().display());
        for (role, arguments) in servers::registration(volume, &device, &self.address("archive")) {
            self.walbc(role, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn address(&self, role: &str) -> String {
        format!("127.0.0.1:{}", self.ports[role])
    }

    /// Bytes of the streams that storage and proxy have sent so far.
    pub fn wire_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for role in ["storage", "proxy"] {
            let text = self.walbc(role, &["--json", "version"])?;
            let value: serde_json::Value =
                serde_json::from_str(&text).with_context(|| format!("version: {text}"))?;
            sum += value["stream_bytes_sent"]
                .as_u64()
                .with_context(|| format!("no stream_bytes_sent in {text}"))?;
        }
        Ok(sum)
    }
}

/// Waits until a daemon answers.
fn until(who: &str, mut attempt: impl FnMut() -> Result<String>) -> Result<()> {
    let began = Instant::now();
    loop {
        crate::interrupt::check()?;
        match attempt() {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > Duration::from_secs(30) => {
                bail!("{who} does not answer: {error:#}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A port outside the range that outgoing connections take theirs from, not given twice.
fn free_port(taken: &mut Vec<u16>) -> Result<u16> {
    let start = u16::try_from(std::process::id() % 16_000).unwrap_or(0);
    for step in 0..16_000 {
        let port = 12_000 + (start + step) % 16_000;
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.push(port);
            return Ok(port);
        }
    }
    bail!("no free port between 12000 and 28000")
}

/// The ends of the daemons' logs.
pub fn log_tails(dir: &Path) -> String {
    let mut text = String::new();
    let Ok(entries) = std::fs::read_dir(dir.join("logs")) else {
        return text;
    };
    for entry in entries.flatten() {
        let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        text.push_str("--- ");
        text.push_str(&entry.file_name().to_string_lossy());
        text.push('\n');
        for line in lines.into_iter().rev() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
