//! Certificates for the cluster under test, and wrong ones for the tests of refusals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use walb_common::wire::tls::TlsFiles;

const DAY: Duration = Duration::from_secs(86400);

/// An authority and its directory.
pub struct Pki {
    dir: PathBuf,
    authority: Authority,
}

impl Pki {
    /// A fresh authority whose certificates and keys are kept in `dir`.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let long_ago = time_now() - 30 * DAY;
        let authority = Authority::create("test authority", long_ago, 60 * DAY)?;
        authority.pair().store(&dir.join("ca.pem"), &dir.join("ca.key"))?;
        Ok(Self {
            dir: dir.into(),
            authority,
        })
    }

    /// A certificate valid now.
    pub fn issue(&self, role: Role, node: &str) -> anyhow::Result<TlsFiles> {
        self.issue_for(role, node, time_now())
    }

    /// A certificate that expired 19 days ago.
    pub fn issue_expired(&self, role: Role, node: &str) -> anyhow::Result<TlsFiles> {
        self.issue_for(role, node, time_now() - 20 * DAY)
    }

    fn issue_for(
        &self,
        role: Role,
        node: &str,
        not_before: time::OffsetDateTime,
    ) -> anyhow::Result<TlsFiles> {
        let identity = Identity::new(role, node)?;
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let request = Request {
            identity: &identity,
            hosts: &hosts,
            not_before,
            lifetime: DAY,
        };
        let (cert, key) = (
            self.dir.join(format!("{node}.pem")),
            self.dir.join(format!("{node}.key")),
        );
        self.authority.issue(&request)?.store(&cert, &key)?;
        Ok(TlsFiles {
            ca: self.dir.join("ca.pem"),
            cert,
            key,
        })
    }

    /// A client configuration for walbc that uses these files.
    pub fn walbc_config(&self, files: &TlsFiles, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(format!("{name}.toml"));
        std::fs::write(
            &path,
            format!(
                "ca = {:?}\ncert = {:?}\nkey = {:?}\n",
                files.ca, files.cert, files.key
            ),
        )?;
        Ok(path)
    }
}

fn time_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}
