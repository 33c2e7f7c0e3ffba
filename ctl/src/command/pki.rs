//! Certificates: pki init, issue, show. Works on files here; no server is called.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use time::OffsetDateTime;
use walb_common::types::Timestamp;
use walb_common::wire::identity::{Identity, Role};
use walb_common::wire::pki::{Authority, Request};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::answer::{Answer, Text, bit};
use crate::error::CommandError;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  walbc pki init --dir /etc/walb/pki\n  walbc pki issue --dir /etc/walb/pki --role storage --id s0 --host s0.example.org\n  walbc pki issue --dir /etc/walb/pki --role operator --id alice"
)]
pub struct Pki {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Make an authority: ca.pem, and ca.key that only its owner may read
    #[command(after_help = "Example:\n  walbc pki init --dir /etc/walb/pki")]
    Init(Init),
    /// Issue a certificate: NODE.pem and NODE.key; existing ones are renewed
    #[command(
        after_help = "Example:\n  walbc pki issue --dir /etc/walb/pki --role storage --id s0 --host s0 192.0.2.7"
    )]
    Issue(Issue),
    /// Show whom a certificate speaks for and how long it is valid
    #[command(after_help = "Example:\n  walbc pki show /etc/walb/pki/s0.pem")]
    Show {
        /// A certificate in PEM form
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Init {
    /// Directory of the authority; made if it is not there
    #[arg(long)]
    dir: PathBuf,
    /// Name of the authority
    #[arg(long, default_value = "WalB authority")]
    name: String,
    /// Days of validity
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
}

#[derive(Debug, Args)]
struct Issue {
    /// Directory of the authority
    #[arg(long)]
    dir: PathBuf,
    /// storage, proxy, archive, operator (may change things), viewer (may only look) or guest (uses devices over NBD)
    #[arg(long)]
    role: Role,
    /// Node id; of an operator, a viewer or a guest, any name
    #[arg(long, value_name = "NODE")]
    id: String,
    /// Names and addresses that a server is reached at; one at least for a server
    #[arg(long, num_args = 1.., value_name = "HOST")]
    host: Vec<String>,
    /// Days of validity
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// Directory of the new files [default: that of the authority]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Pki {
    pub fn run(self, now: OffsetDateTime) -> Result<Answer, CommandError> {
        match self.command {
            Sub::Init(init) => init.run(now),
            Sub::Issue(issue) => issue.run(now),
            Sub::Show { file } => show(&file, now),
        }
    }
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86400)
}

/// Makes a directory that only its owner may enter: keys will be in it.
fn make_dir(dir: &Path) -> Result<(), CommandError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| CommandError::Io {
            what: format!("make directory {}", dir.display()),
            source,
        })
}

fn written(files: [&Path; 2]) -> Answer {
    let names = files.map(|f| f.display().to_string());
    Answer::lines(json!({ "certificate": names[0], "key": names[1] }), names)
}

impl Init {
    fn run(self, now: OffsetDateTime) -> Result<Answer, CommandError> {
        make_dir(&self.dir)?;
        let (certificate, key) = (self.dir.join("ca.pem"), self.dir.join("ca.key"));
        // Every certificate issued so far would be worthless with a new authority in its place.
        if let Some(there) = [&certificate, &key].into_iter().find(|p| p.exists()) {
            return Err(CommandError::local_with(
                format!("already exists:{}", there.display()),
                "one authority serves all; for another one name another --dir",
            ));
        }
        Authority::create(&self.name, now, days(self.days))?
            .pair()
            .store(&certificate, &key)?;
        Ok(written([&certificate, &key]))
    }
}

impl Issue {
    fn run(self, now: OffsetDateTime) -> Result<Answer, CommandError> {
        let identity = Identity::new(self.role, &self.id)?;
        if self.id == "ca" || self.id.starts_with('.') {
            return Err(CommandError::local(format!(
                "bad node id:{}, expected neither ca nor a leading dot",
                self.id
            )));
        }
        if self.host.is_empty() && !matches!(self.role, Role::Operator | Role::Viewer | Role::Guest) {
            return Err(CommandError::Usage(format!(
                "--host HOST is required: where the {} is reached",
                self.role
            )));
        }
        let authority = Authority::load(&self.dir.join("ca.pem"), &self.dir.join("ca.key"))?;
        let out = self.out.as_ref().unwrap_or(&self.dir);
        make_dir(out)?;
        let (certificate, key) = (
            out.join(format!("{}.pem", self.id)),
            out.join(format!("{}.key", self.id)),
        );
        let request = Request {
            identity: &identity,
            hosts: &self.host,
            not_before: now,
            lifetime: days(self.days),
        };
        authority.issue(&request)?.store(&certificate, &key)?;
        Ok(written([&certificate, &key]))
    }
}

fn show(file: &Path, now: OffsetDateTime) -> Result<Answer, CommandError> {
    let bad = |reason: String| CommandError::local(format!("no certificate:{}:{reason}", file.display()));
    let pem = fs::read(file).map_err(|source| CommandError::Io {
        what: format!("read {}", file.display()),
        source,
    })?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|e| bad(e.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|e| bad(e.to_string()))?;
    let (key, who) = match Identity::from_certificate(&der) {
        Ok(identity) => ("identity", identity.to_string()),
        Err(_) if certificate.is_ca() => ("authority", certificate.subject().to_string()),
        Err(error) => return Err(bad(error.to_string())),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let hosts: Vec<String> = names.map_or(Vec::new(), |n| {
        n.value.general_names.iter().filter_map(host).collect()
    });
    let time = |t: i64| Timestamp(u64::try_from(t).unwrap_or(0));
    let validity = certificate.validity();
    let (from, until) = (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    );
    let seconds_left = validity.not_after.timestamp() - now.unix_timestamp();
    let mut text = Text::default();
    text.pair(key, &who);
    text.pair("issuer", certificate.issuer());
    if !hosts.is_empty() {
        text.pair("hosts", hosts.join(" "));
    }
    text.pair("validFrom", from);
    text.pair("expires", until);
    text.pair("daysLeft", seconds_left.max(0) / 86400);
    text.pair("expired", bit(seconds_left < 0));
    let json = json!({
        key: who, "issuer": certificate.issuer().to_string(), "hosts": hosts, "valid_from": from, "expires": until,
        "expired": seconds_left < 0,
    });
    Ok(Answer {
        json,
        text: text.finish(),
    })
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::Ipv6Addr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn issue(dir: &Path, role: Role, id: &str, host: &[&str]) -> Result<Answer, CommandError> {
        let host = host.iter().map(ToString::to_string).collect();
        Issue {
            dir: dir.to_owned(),
            role,
            id: id.into(),
            host,
            days: 30,
            out: None,
        }
        .run(now())
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_359_114).unwrap()
    }

    fn init(dir: &Path) -> Result<Answer, CommandError> {
        Init {
            dir: dir.to_owned(),
            name: "test".into(),
            days: 100,
        }
        .run(now())
    }

    #[test]
    fn what_was_issued_is_shown_with_identity_hosts_and_expiry() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("pki");
        let files = init(&dir).unwrap().text;
        assert_eq!(files, format!("{0}/ca.pem\n{0}/ca.key\n", dir.display()));
        issue(&dir, Role::Storage, "s0", &["localhost", "127.0.0.1", "::1"]).unwrap();
        let shown = show(&dir.join("s0.pem"), now()).unwrap().text;
        assert_eq!(
            shown,
            "identity storage s0\nissuer CN=test\nhosts localhost 127.0.0.1 ::1\nvalidFrom 2026-11-22T14:46:54\n\
             expires 2026-12-22T14:51:54\ndaysLeft 30\nexpired 0\n"
        );
        let ca = show(&dir.join("ca.pem"), now() + days(101)).unwrap().text;
        assert!(
            ca.starts_with("authority CN=test\n") && ca.ends_with("daysLeft 0\nexpired 1\n"),
            "{ca}"
        );
        for key in ["ca.key", "s0.key"] {
            assert_eq!(
                fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777,
                0o600,
                "{key}"
            );
        }
    }

    #[test]
    fn an_authority_is_never_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        init(temporary.path()).unwrap();
        let before = fs::read(temporary.path().join("ca.key")).unwrap();
        assert!(
            init(temporary.path())
                .unwrap_err()
                .reason()
                .starts_with("already exists:")
        );
        assert!(issue(temporary.path(), Role::Operator, "ca", &[]).is_err());
        assert_eq!(fs::read(temporary.path().join("ca.key")).unwrap(), before);
    }

    #[test]
    fn requests_that_make_no_usable_certificate_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(
            issue(temporary.path(), Role::Operator, "op", &[])
                .unwrap_err()
                .reason()
                .contains("ca.pem")
        );
        init(temporary.path()).unwrap();
        assert!(matches!(
            issue(temporary.path(), Role::Proxy, "p0", &[]),
            Err(CommandError::Usage(_))
        ));
        assert!(
            issue(temporary.path(), Role::Operator, "a/b", &[])
                .unwrap_err()
                .reason()
                .contains("node id")
        );
        let key = temporary.path().join("ca.key");
        assert!(
            show(&key, now())
                .unwrap_err()
                .reason()
                .starts_with("no certificate:")
        );
    }
}
