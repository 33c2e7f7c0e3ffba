//! An authority of the test's own, and certificates in the files that programs want them in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::tls::{TlsContext, TlsFiles};

const DAY: Duration = Duration::from_secs(86400);

pub struct Pki {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test authority", OffsetDateTime::now_utc(), DAY).unwrap();
        Self { dir, authority }
    }

    /// A directory with `ca-cert.pem`, `client-cert.pem` and `client-key.pem`, as libnbd and qemu look for them.
    pub fn directory(&self, role: Role, node: &str) -> PathBuf {
        self.issue(role, node, &self.authority, Duration::ZERO)
    }

    /// The same, but a certificate that expired long ago.
    pub fn expired(&self, role: Role, node: &str) -> PathBuf {
        self.issue(role, node, &self.authority, 3 * DAY)
    }

    /// The same, but by an authority that nobody trusts.
    pub fn foreign(&self, role: Role, node: &str) -> PathBuf {
        let foreign = Authority::create("another authority", OffsetDateTime::now_utc(), DAY).unwrap();
        self.issue(role, node, &foreign, Duration::ZERO)
    }

    fn issue(&self, role: Role, node: &str, by: &Authority, age: Duration) -> PathBuf {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let trusted = &self.authority.pair().certificate_pem;
        std::fs::write(dir.join("ca-cert.pem"), trusted).unwrap();
        let identity = Identity::new(role, node).unwrap();
        let request = Request {
            identity: &identity,
            hosts: &["127.0.0.1".to_owned(), "localhost".to_owned()],
            not_before: OffsetDateTime::now_utc() - age,
            lifetime: DAY,
        };
        let pair = by.issue(&request).unwrap();
        pair.store(&dir.join("client-cert.pem"), &dir.join("client-key.pem"))
            .unwrap();
        dir
    }

    pub fn files(&self, role: Role, node: &str) -> TlsFiles {
        let dir = self.directory(role, node);
        TlsFiles {
            ca: dir.join("ca-cert.pem"),
            cert: dir.join("client-cert.pem"),
            key: dir.join("client-key.pem"),
        }
    }

    pub fn context(&self, role: Role, node: &str) -> Arc<TlsContext> {
        TlsContext::load(&self.files(role, node)).unwrap()
    }
}
