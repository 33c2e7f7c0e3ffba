//! Who a certificate speaks for.
//!
//! A certificate carries its role and node id as one URI in the subject alternative names: `walb://ROLE/NODE`.

use std::{fmt, str::FromStr};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::types::ParseError;

/// What the holder of a certificate may do; decided per route and per stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A walb-storage daemon: starts backups, sends wlogs.
    Storage,
    /// A walb-proxy daemon: sends wdiffs.
    Proxy,
    /// A walb-archive daemon: replicates.
    Archive,
    /// A person or script that changes things.
    Operator,
    /// A person, script or monitor that only looks.
    Viewer,
    /// A machine that uses block devices over NBD, those named for it; nothing else.
    Guest,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Storage,
        Self::Proxy,
        Self::Archive,
        Self::Operator,
        Self::Viewer,
        Self::Guest,
    ];

    /// The name used in certificates, configuration and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Proxy => "proxy",
            Self::Archive => "archive",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Guest => "guest",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ParseError;
    fn from_str(name: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|r| r.name() == name).ok_or_else(|| {
            ParseError::new("role", name, "storage, proxy, archive, operator, viewer or guest")
        })
    }
}

/// Role and node id of an authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What it may do.
    pub role: Role,
    /// Which one it is.
    pub node: String,
}

impl Identity {
    /// Checks the node id: 1 to 64 characters of `0-9 a-z A-Z - _ .`.
    pub fn new(role: Role, node: &str) -> Result<Self, ParseError> {
        let good = (1..=64).contains(&node.len())
            && node
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !good {
            return Err(ParseError::new(
                "node id",
                node,
                "1 to 64 characters of 0-9 a-z A-Z - _ .",
            ));
        }
        Ok(Self {
            role,
            node: node.to_owned(),
        })
    }

    /// The URI that stands in the certificate.
    pub fn uri(&self) -> String {
        format!("walb://{}/{}", self.role, self.node)
    }

    /// Reads the identity out of a certificate that TLS has already verified.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::NotACertificate)?;
        let names = parsed
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or(IdentityError::NoIdentity)?;
        let mut found = None;
        for name in &names.value.general_names {
            let GeneralName::URI(uri) = name else { continue };
            let Some(rest) = uri.strip_prefix("walb://") else {
                continue;
            };
            let (role, node) = rest.split_once('/').ok_or(IdentityError::NoIdentity)?;
            let identity = Self::new(role.parse()?, node)?;
            // Two identities in one certificate would make every decision ambiguous.
            if found.replace(identity).is_some() {
                return Err(IdentityError::Several);
            }
        }
        found.ok_or(IdentityError::NoIdentity)
    }
}

/// `storage s0`
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.node)
    }
}

/// A certificate says nothing usable about its holder.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("the peer's certificate cannot be parsed")]
    NotACertificate,
    /// No `walb://` name in it.
    #[error(
        "the peer's certificate names no role and node: expected one URI walb://ROLE/NODE among its alternative names"
    )]
    NoIdentity,
    /// More than one `walb://` name in it.
    #[error("the peer's certificate names several identities: expected one URI walb://ROLE/NODE")]
    Several,
    /// A role or node id of a form we do not know.
    #[error("the peer's certificate names an unusable identity: {0}")]
    Unusable(#[from] ParseError),
}
