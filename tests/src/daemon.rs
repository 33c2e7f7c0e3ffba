//! A child process that can be killed and started again with the same arguments.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A daemon under test.
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    open_files: Option<u64>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Prepares one; it does not run yet.
    pub fn new(name: &str, program: PathBuf, arguments: Vec<String>, log: &Path) -> Self {
        Self {
            name: name.into(),
            program,
            arguments,
            environment: Vec::new(),
            open_files: None,
            log: log.into(),
            child: None,
        }
    }

    /// Environment for the next start, e.g. `WALB_FAULT`. An empty list clears it.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
    }

    /// So many files may it have open from the next start on, and it cannot change that.
    pub fn limit_open_files(&mut self, files: u64) {
        self.open_files = Some(files);
    }

    /// Starts it. Its output is appended to its log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_running(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("open log")?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        let open_files = self.open_files;
        // SAFETY: only async-signal-safe system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // A test that is killed must not leave daemons behind.
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                if open_files.is_some() {
                    let limit = rustix::process::Rlimit {
                        current: open_files,
                        maximum: open_files,
                    };
                    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
                }
                Ok(())
            });
        }
        self.child = Some(
            command
                .spawn()
                .with_context(|| format!("start {}", self.program.display()))?,
        );
        Ok(())
    }

    /// Whether the process is alive.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Process id, if started.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have died by itself, at a fault point for instance.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        if let Some(pid) = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > patience {
                child.kill()?;
                child.wait()?;
                anyhow::bail!(
                    "{} did not stop within {patience:?}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it dies by itself (at an armed fault point).
    pub fn wait_for_death(&mut self, patience: Duration) -> anyhow::Result<()> {
        crate::wait::until(&format!("{} to die", self.name), patience, || {
            Ok((!self.is_running()).then_some(()))
        })?;
        self.kill9();
        Ok(())
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(25).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("--- log of {}:\n{}\n", self.name, lines.join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
    }
}
