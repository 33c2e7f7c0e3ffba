//! A real walb-wdev in this process, with guests that write through NBD.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use tokio_util::sync::CancellationToken;
use walb_common::types::{PhysicalBlockSize, Uuid};
use walb_wdev::client::{DeviceStatus, WalDevice, WdevClient};
use walb_wdev::config::{DeviceConfig, Limits};
use walb_wdev::daemon::{Daemon, Network, bind_control_socket};
use walb_wdev::engine::format_log_device;
use walb_wdev::nbd::client::NbdClient;

pub struct Wdev {
    dir: Utf8PathBuf,
    running: Option<(Arc<Daemon>, CancellationToken)>,
    guests: Arc<Mutex<HashMap<String, NbdClient>>>,
}

impl Wdev {
    pub async fn start(dir: &Path) -> Self {
        let dir = Utf8Path::from_path(dir).unwrap().join("wdev");
        let mut wdev = Self {
            dir,
            running: None,
            guests: Arc::default(),
        };
        wdev.restart().await;
        wdev
    }

    /// Starts the daemon (again).
    pub async fn restart(&mut self) {
        self.stop().await;
        let (dir, socket) = (self.dir.clone(), self.socket());
        let listener = bind_control_socket(&socket).unwrap();
        let daemon = tokio::task::spawn_blocking(move || Daemon::open(&dir, Network::default()))
            .await
            .unwrap()
            .unwrap();
        let stop = CancellationToken::new();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        tokio::spawn(daemon.clone().serve(listener, stop.clone()));
        self.running = Some((daemon, stop));
    }

    /// Stops it; its devices are gone for whoever uses them.
    pub async fn stop(&mut self) {
        self.guests.lock().unwrap().clear();
        if let Some((daemon, stop)) = self.running.take() {
            stop.cancel();
            tokio::task::spawn_blocking(move || daemon.stop()).await.unwrap();
            let _ = std::fs::remove_file(self.socket());
        }
    }

    fn socket(&self) -> Utf8PathBuf {
        self.dir.parent().unwrap().join("wdev.sock")
    }

    pub fn spec(&self, name: &str) -> String {
        format!("wdev:{}#{name}", self.socket())
    }

    pub fn client(&self, name: &str) -> WdevClient {
        WdevClient::new(Some(self.socket()), name.to_owned())
    }

    pub fn ldev(&self, name: &str) -> Utf8PathBuf {
        self.dir.join(format!("{name}.ldev"))
    }

    pub async fn create(&self, name: &str, data_bytes: u64, log_bytes: u64) {
        self.create_with(name, data_bytes, log_bytes, PhysicalBlockSize::B512)
            .await;
    }

    pub async fn create_with(&self, name: &str, data_bytes: u64, log_bytes: u64, pbs: PhysicalBlockSize) {
        let (ldev, ddev) = (self.ldev(name), self.dir.join(format!("{name}.ddev")));
        for (path, bytes) in [(&ldev, log_bytes), (&ddev, data_bytes)] {
            std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
        }
        format_log_device(&ldev, &ddev, name, Some(pbs), false).unwrap();
        let nbd = Some(self.dir.join(format!("{name}.nbd")));
        let limits = Limits {
            checkpoint_interval_ms: 200,
            log_sync_interval_ms: 20,
            ..Limits::default()
        };
        let config = DeviceConfig {
            name: name.to_owned(),
            ldev,
            ddev,
            nbd,
            nbd_guests: vec![],
            fuse: None,
            ublk: None,
            nbd_node: None,
            limits,
        };
        self.client("").create(config).await.unwrap();
    }

    pub async fn status(&self, name: &str) -> DeviceStatus {
        self.client(name).status().await.unwrap()
    }

    pub async fn uuid(&self, name: &str) -> Uuid {
        self.status(name).await.uuid
    }

    /// Everything a guest would read.
    pub async fn content(&self, name: &str) -> Vec<u8> {
        let (device, size) = (self.client(name), self.status(name).await.size.bytes());
        let mut content = Vec::new();
        while (content.len() as u64) < size {
            let part = u32::try_from((size - content.len() as u64).min(1 << 20)).unwrap();
            content.extend_from_slice(&device.read_data(content.len() as u64, part).await.unwrap());
        }
        content
    }

    /// Writes as a guest does, acknowledged when this returns.
    pub async fn write(&self, name: &str, offset: u64, data: Vec<u8>) {
        let (guests, name) = (self.guests.clone(), name.to_owned());
        let path = self.dir.join(format!("{name}.nbd"));
        tokio::task::spawn_blocking(move || {
            let mut guests = guests.lock().unwrap();
            let guest = guests
                .entry(name.clone())
                .or_insert_with(|| connect(path.as_std_path(), &name));
            guest.write(offset, &data).unwrap();
        })
        .await
        .unwrap();
    }

    /// A run of writes that only depends on `seed`.
    pub async fn scribble(&self, name: &str, seed: u64, writes: u64) {
        let mut random = Random(seed.wrapping_add(1));
        for _ in 0..writes {
            let blocks = 1 + random.next() % 32;
            let offset = random.next() % (8192 - blocks) * 512;
            let data = (0..blocks * 512).map(|_| (random.next() % 7) as u8).collect();
            self.write(name, offset, data).await;
        }
    }
}

/// A device that has just been opened serves its guests a moment later.
fn connect(socket: &Path, name: &str) -> NbdClient {
    let began = std::time::Instant::now();
    loop {
        match NbdClient::connect(socket, name) {
            Ok(guest) => return guest,
            Err(error) => assert!(began.elapsed() < super::PATIENCE, "{name}: {error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Enough chance for a test, the same each time.
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
