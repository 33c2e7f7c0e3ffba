//! TLS 1.3 with certificates on both sides, always; there is no other mode.
//!
//! The files may be replaced while a daemon runs: every new connection uses what is on disk (looked at most once a
//! second), so a renewed certificate needs no restart. If the new files are unusable the old ones stay in force and the
//! reason is logged once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

use super::identity::{Identity, IdentityError};

/// Where a daemon or a client finds its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of the authorities we trust (PEM).
    pub ca: PathBuf,
    /// Our certificate, followed by intermediates if any (PEM).
    pub cert: PathBuf,
    /// Our private key (PEM).
    pub key: PathBuf,
}

/// The TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the kind wanted.
    #[error("read {what} from {path}")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds none of what was wanted.
    #[error("{path} holds no {what}")]
    Empty {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or are of an unusable kind.
    #[error("use certificate {path}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The trust anchors are unusable.
    #[error("use authorities of {path}")]
    Verifier {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// Our own certificate names no identity.
    #[error("identity in {path}")]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: IdentityError,
    },
}

/// What the files currently amount to.
#[derive(Clone)]
pub struct Current {
    /// For accepting.
    pub server: Arc<ServerConfig>,
    /// For connecting.
    pub client: Arc<ClientConfig>,
    /// Who we are.
    pub identity: Identity,
    /// End of our certificate's validity, in Unix seconds.
    pub expires: i64,
}

struct Loaded {
    current: Current,
    stamps: [Option<SystemTime>; 3],
    looked: Instant,
}

/// Our TLS identity, kept up to date with its files.
pub struct TlsContext {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl TlsContext {
    /// Loads the files.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(files);
        let current = load(files)?;
        let loaded = Mutex::new(Loaded {
            current,
            stamps,
            looked: Instant::now(),
        });
        Ok(Arc::new(Self {
            files: files.clone(),
            loaded,
        }))
    }

    /// The configuration for a connection made now.
    pub fn current(&self) -> Current {
        let mut loaded = self.lock();
        if loaded.looked.elapsed() >= LOOK_INTERVAL {
            loaded.looked = Instant::now();
            let now = stamps(&self.files);
            if now != loaded.stamps {
                loaded.stamps = now;
                match load(&self.files) {
                    Ok(current) => {
                        tracing::info!(cert = %self.files.cert.display(), "TLS files reloaded");
                        loaded.current = current;
                    }
                    Err(error) => {
                        let error = crate::daemon::chain(&error);
                        tracing::error!(%error, "changed TLS files are unusable; going on with the old ones");
                    }
                }
            }
        }
        loaded.current.clone()
    }

    /// Who we are.
    pub fn identity(&self) -> Identity {
        self.lock().current.identity.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // What is behind the lock is only ever replaced whole.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &TlsFiles) -> [Option<SystemTime>; 3] {
    [&files.ca, &files.cert, &files.key].map(|f| std::fs::metadata(f).and_then(|m| m.modified()).ok())
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        what,
        path: path.to_owned(),
        source,
    };
    let list = CertificateDer::pem_file_iter(path)
        .map_err(pem)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem)?;
    if list.is_empty() {
        return Err(TlsError::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(list)
}

fn load(files: &TlsFiles) -> Result<Current, TlsError> {
    let unusable = |source| TlsError::Unusable {
        path: files.cert.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.ca, "authority certificates")? {
        roots.add(authority).map_err(|source| TlsError::Unusable {
            path: files.ca.clone(),
            source,
        })?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&files.cert, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
        what: "private key",
        path: files.key.clone(),
        source,
    })?;
    let identity = Identity::from_certificate(&chain[0]).map_err(|source| TlsError::Identity {
        path: files.cert.clone(),
        source,
    })?;
    let expires = expiry(&chain[0]);

    let versions = &[&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|source| TlsError::Verifier {
            path: files.ca.clone(),
            source,
        })?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unusable)?;
    // A resumed session would skip the look at a certificate that has been replaced or has expired meanwhile.
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Current {
        server: Arc::new(server),
        client: Arc::new(client),
        identity,
        expires,
    })
}

fn expiry(certificate: &CertificateDer<'_>) -> i64 {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(certificate).map_or(0, |(_, c)| c.validity().not_after.timestamp())
}
