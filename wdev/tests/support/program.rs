//! Programs that run beside a test.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use walb_wdev::nbd::client::NbdClient;

use super::raw::until;

/// Ends with the test, whatever becomes of it.
pub struct Running(pub Child);

impl Running {
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// qemu in front of what it reaches at `server`, as a guest has it: on the unix socket `front`, reconnecting for a minute.
pub fn qemu_nbd(export: &str, server: &str, certificates: &Path, front: &str) -> Running {
    let image = format!("driver=nbd,export={export},reconnect-delay=60,{server}");
    let credentials = format!(
        "tls-creds-x509,id=tls0,endpoint=client,dir={}",
        certificates.display()
    );
    let child = Command::new("qemu-nbd")
        .args(["--persistent", "--shared=16", "--object", &credentials])
        .args(["--socket", front, "--export-name", export, "--image-opts", &image])
        .stdin(Stdio::null())
        .spawn();
    let qemu = Running(
        child.unwrap_or_else(|e| panic!("cannot run qemu-nbd: {e}; it is in the Debian package qemu-utils")),
    );
    until("qemu-nbd listens", || {
        NbdClient::connect(Path::new(front), export).is_ok()
    });
    qemu
}
