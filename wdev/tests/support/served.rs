//! A device in memory, served over NBD on a unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use walb_wdev::nbd::NbdServer;
use walb_wdev::nbd::client::NbdClient;

use super::raw::Raw;
use super::{MemDevice, serve};

/// Bytes of the device.
pub const SIZE: usize = 8 << 20;

/// A device in memory behind a server of its own.
pub struct Served {
    pub device: Arc<MemDevice>,
    pub dir: tempfile::TempDir,
    pub server: Option<NbdServer>,
}

impl Served {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = MemDevice::new(SIZE);
        let server = Some(serve(dir.path(), device.clone()));
        Self { device, dir, server }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub fn client(&self) -> NbdClient {
        let client = NbdClient::connect(&self.socket(), "vol").unwrap();
        client.set_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.socket())
    }
}
