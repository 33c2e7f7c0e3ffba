//! The real walb-wdev as a child, and calls to it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use walb_wdev::client::{Remedy, WdevClient};

/// Far beyond what anything takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running walb-wdev, with its state in `DIR/state` and its control socket at `DIR/control`.
pub struct Daemon {
    child: Child,
    dir: Utf8PathBuf,
}

impl Daemon {
    /// `fault` is what `WALB_FAULT` says.
    pub fn start(dir: &Utf8Path, fault: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walb-wdev"));
        command.args([
            "--dir",
            dir.join("state").as_str(),
            "--socket",
            dir.join("control").as_str(),
        ]);
        command.env("WALB_LOG", "warn").env_remove("WALB_FAULT");
        if let Some(fault) = fault {
            command.env("WALB_FAULT", fault);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log.txt"));
        let child = command.stdin(Stdio::null()).stderr(log.unwrap()).spawn().unwrap();
        Self {
            child,
            dir: dir.to_owned(),
        }
    }

    pub fn client(&self, name: &str) -> WdevClient {
        WdevClient::new(Some(self.dir.join("control")), name.to_owned())
    }

    /// Waits until its devices are open.
    pub async fn ready(&self, name: &str) -> WdevClient {
        let client = self.client(name);
        let until = Instant::now() + PATIENCE;
        loop {
            match client.list().await {
                Ok(_) => return client,
                Err(e) => assert!(e.remedy() == Remedy::Retry && Instant::now() < until, "{e:?}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether it has died, at a fault point.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its death at a fault point.
    pub fn died_by_itself(mut self) {
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    pub fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only when a test fails does it still run here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
