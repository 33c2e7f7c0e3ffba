//! A site: certificates, a device with a guest, a proxy and an archive, and the storage under test.

mod device;
mod peers;
mod storage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::tls::TlsFiles;

pub use device::Wdev;
pub use peers::{Manner, Peers, free_address};
pub use storage::Storage;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Makes certificates.
pub struct Pki {
    dir: PathBuf,
    authority: Authority,
}

impl Pki {
    pub fn new(dir: &Path) -> Self {
        let life = Duration::from_secs(86400);
        let authority = Authority::create("test authority", OffsetDateTime::now_utc(), life).unwrap();
        authority
            .pair()
            .store(&dir.join("ca.pem"), &dir.join("ca.key"))
            .unwrap();
        Self {
            dir: dir.to_owned(),
            authority,
        }
    }

    pub fn issue(&self, role: Role, node: &str) -> TlsFiles {
        let identity = Identity::new(role, node).unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let (not_before, lifetime) = (OffsetDateTime::now_utc(), Duration::from_secs(86400));
        let request = Request {
            identity: &identity,
            hosts: &hosts,
            not_before,
            lifetime,
        };
        let files = TlsFiles {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{node}.pem")),
            key: self.dir.join(format!("{node}.key")),
        };
        self.authority
            .issue(&request)
            .unwrap()
            .store(&files.cert, &files.key)
            .unwrap();
        files
    }
}

/// Everything of one scenario.
pub struct Site {
    pub storage: Storage,
    pub peers: Peers,
    pub wdev: Wdev,
    pub dir: tempfile::TempDir,
}

impl Site {
    /// One device of 4 MiB with a log of 16 MiB, initialised as vol0.
    pub async fn new() -> Self {
        Self::with(16 << 20, None).await
    }

    /// With another size of the log, and armed fault points.
    pub async fn with(log_bytes: u64, fault: Option<&str>) -> Self {
        Self::preferring(&[], log_bytes, fault).await
    }

    /// With further proxies before the one of the site.
    pub async fn preferring(proxies: &[String], log_bytes: u64, fault: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let wdev = Wdev::start(dir.path()).await;
        wdev.create("d0", 4 << 20, log_bytes).await;
        let peers = Peers::start(dir.path(), &pki, 4 << 20).await;
        let proxies = [proxies, std::slice::from_ref(&peers.proxy)].concat();
        let storage = Storage::start(dir.path(), &pki, &peers, &proxies, fault).await;
        let site = Self {
            storage,
            peers,
            wdev,
            dir,
        };
        site.storage.init("vol0", &site.wdev.spec("d0")).await.unwrap();
        site
    }

    /// A full backup to its end; answers gE.
    pub async fn backup(&self) -> u64 {
        let job = self.storage.full_backup("vol0").await.unwrap();
        let job = self.storage.job_ended(job).await;
        let result = job
            .result
            .unwrap_or_else(|| panic!("backup failed: {:?}", job.error));
        result["gid"].as_u64().unwrap()
    }

    /// Takes a snapshot and waits until it is delivered.
    pub async fn deliver(&self) -> u64 {
        let gid = self.storage.snapshot("vol0").await.unwrap();
        self.delivered(gid).await;
        gid
    }

    /// Waits until a gid is delivered, as the storage says.
    pub async fn delivered(&self, gid: u64) {
        let delivered = |done: Option<u64>| done.is_some_and(|done| done >= gid);
        until("the snapshot is delivered", async || {
            delivered(self.storage.done_gid("vol0").await)
        })
        .await;
    }

    /// What arrived must be the device.
    pub async fn check(&self) {
        self.deliver().await;
        let found = self.peers.restored(self.wdev.uuid("d0").await);
        let expected = self.wdev.content("d0").await;
        let differ = expected
            .chunks(512)
            .zip(found.chunks(512))
            .filter(|(a, b)| a != b)
            .count();
        assert_eq!((found.len(), differ), (expected.len(), 0), "blocks that differ");
    }
}

/// Waits for a condition, not for a time.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
