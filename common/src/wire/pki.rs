//! A small certificate authority: `walbc pki init` and `walbc pki issue`, and the tests, make their certificates here.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::identity::{Identity, Role};
use crate::disk::replace_durable;

/// Making, reading or storing a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The certificate library refused.
    #[error("make certificate for {what}")]
    Make {
        /// What it was for.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("{act} {path}")]
    File {
        /// `read` or `write`.
        act: &'static str,
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A certificate and its private key, as PEM text.
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key (PKCS#8). Secret.
    pub key_pem: String,
}

/// A certificate authority whose key we hold.
pub struct Authority {
    pair: Pair,
}

/// Certificates are accepted from a little before they were made: clocks of hosts differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// What a certificate is issued for.
pub struct Request<'a> {
    /// Role and node id.
    pub identity: &'a Identity,
    /// Host names and addresses that a server with this certificate is reached at.
    pub hosts: &'a [String],
    /// From when on it is valid; a little slack for clocks is added.
    pub not_before: OffsetDateTime,
    /// How long it is valid from then.
    pub lifetime: Duration,
}

impl Authority {
    /// A new authority with a fresh key, valid from `now` for `lifetime`.
    pub fn create(name: &str, now: OffsetDateTime, lifetime: Duration) -> Result<Self, PkiError> {
        let make = |source| PkiError::Make {
            what: name.to_owned(),
            source,
        };
        let mut params = CertificateParams::new(Vec::new()).map_err(make)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + lifetime;
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.self_signed(&key).map_err(make)?;
        Ok(Self {
            pair: Pair {
                certificate_pem: certificate.pem(),
                key_pem: key.serialize_pem(),
            },
        })
    }

    /// The authority's own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Reads an authority made before.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| PkiError::File {
                act: "read",
                path: path.display().to_string(),
                source,
            })
        };
        Ok(Self {
            pair: Pair {
                certificate_pem: read(certificate)?,
                key_pem: read(key)?,
            },
        })
    }

    /// Issues a certificate with a fresh key.
    pub fn issue(&self, request: &Request<'_>) -> Result<Pair, PkiError> {
        let make = |source| PkiError::Make {
            what: request.identity.to_string(),
            source,
        };
        let mut params = CertificateParams::new(Vec::new()).map_err(make)?;
        params
            .distinguished_name
            .push(DnType::CommonName, request.identity.node.clone());
        params
            .subject_alt_names
            .push(SanType::URI(request.identity.uri().try_into().map_err(make)?));
        for host in request.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.clone().try_into().map_err(make)?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        // qemu, whose certificates are the guests', refuses one whose key usage leaves out key encipherment, which a key
        // of this kind must not claim. Without the extension both are content.
        if request.identity.role != Role::Guest {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = request.not_before - CLOCK_SKEW;
        params.not_after = request.not_before + request.lifetime;
        params.use_authority_key_identifier_extension = true;
        let ca_key = KeyPair::from_pem(&self.pair.key_pem).map_err(make)?;
        let issuer = Issuer::from_ca_cert_pem(&self.pair.certificate_pem, ca_key).map_err(make)?;
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &issuer).map_err(make)?;
        Ok(Pair {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

impl Pair {
    /// Stores both as files readable by the owner only: the key first, so that no certificate stands without its key.
    pub fn store(&self, certificate: &Path, key: &Path) -> Result<(), PkiError> {
        for (path, text) in [(key, &self.key_pem), (certificate, &self.certificate_pem)] {
            replace_durable(path, text.as_bytes()).map_err(|source| PkiError::File {
                act: "write",
                path: path.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }
}
