//! One of each server in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};

use super::daemon::{CONTROL, NAME};
use super::tools::{Running, run_with, until};
use crate::servers::{SERVERS, certificates, configuration, registration};

/// The running servers; they end with this value.
pub struct Servers {
    dir: PathBuf,
    running: Vec<Running>,
}

fn address(role: &str) -> String {
    let number = SERVERS.iter().position(|(r, _)| *r == role).unwrap_or(0);
    format!("127.0.0.1:{}", 10_000 + number)
}

impl Servers {
    /// Starts them with everything they store in `dir`, and waits until they answer.
    pub fn start(dir: &str) -> Result<Self> {
        let mut servers = Self {
            dir: dir.into(),
            running: Vec::new(),
        };
        fs::create_dir_all(dir).with_context(|| format!("make directory {dir}"))?;
        certificates(&servers.dir, |arguments| run_with("walbc", arguments, &[]))?;
        for server in SERVERS {
            let config = configuration(&servers.dir, server, address)?;
            let config = config.to_str().context("path is not UTF-8")?;
            let program = format!("walb-{}", server.0);
            servers
                .running
                .push(Running::start(&program, &["--config", config])?);
        }
        for (role, _) in SERVERS {
            until(role, || {
                for server in &mut servers.running {
                    if let Some(status) = server.ended()? {
                        bail!("{status}: {}", server.said());
                    }
                }
                Ok(servers.walbc(role, &["get", "host-type"]).ok())
            })?;
        }
        Ok(servers)
    }

    /// Makes the device a volume.
    pub fn register(&self) -> Result<()> {
        let device = format!("wdev:{CONTROL}#{NAME}");
        for (role, arguments) in registration(NAME, &device, &address("archive")) {
            self.walbc(role, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Runs walbc against the server of a role.
    pub fn walbc(&self, role: &str, arguments: &[&str]) -> Result<String> {
        let config = self.dir.join("pki/walbc.toml");
        let config = config.to_str().context("path is not UTF-8")?;
        let to = address(role);
        let (host, port) = to.split_once(':').context("an address has a port")?;
        let mut all = vec!["-a", host, "-p", port];
        all.extend(arguments);
        run_with("walbc", &all, &[("WALBC_CONFIG", config)])
            .with_context(|| self.running.iter().map(Running::said).collect::<String>())
    }

    /// Where the archive keeps what it stores.
    pub fn archive_dir(&self) -> PathBuf {
        Path::new(&self.dir).join(SERVERS[2].1)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.running {
            // One may have ended by itself.
            let _ = kill_process(server.id(), Signal::TERM);
            let _ = server.wait();
        }
    }
}
