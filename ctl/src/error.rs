//! What a command can fail with, and the one line it makes on stderr.

use std::error::Error;
use std::io;

use time::OffsetDateTime;
use time::macros::format_description;
use walb_common::daemon::chain;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::ParseError;
use walb_common::wire::client::ClientError;
use walb_common::wire::pki::PkiError;
use walb_common::wire::tls::TlsError;

use crate::config::{self, FindConfigError};

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The words on the command line make no request.
    #[error("{0}")]
    Usage(String),
    /// The request makes no sense, or the answer does not hold what was asked for; found here.
    #[error("{reason}")]
    Local {
        /// What, expected, found.
        reason: String,
        /// What would help.
        hint: Option<String>,
    },
    /// The command is not one of that kind of server.
    #[error("{what}:{command}:{found}")]
    WrongKind {
        /// `bad protocol` or `no such target`, as the existing tools say.
        what: &'static str,
        /// The command or target.
        command: String,
        /// Who answered.
        found: String,
        /// Who would have been right.
        expected: String,
    },
    /// A job ended badly.
    #[error("job {id}:{error}")]
    Job {
        /// Which one.
        id: u64,
        /// Why.
        error: ApiError,
    },
    /// No identity.
    #[error(transparent)]
    Config(#[from] FindConfigError),
    /// An unusable identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate could not be made, read or stored.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The server could not be reached, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file or the system failed.
    #[error("{what}")]
    Io {
        /// What was done, to which file.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<ParseError> for CommandError {
    fn from(error: ParseError) -> Self {
        Self::local(error.to_string())
    }
}

impl CommandError {
    /// An error found here.
    pub fn local(reason: impl Into<String>) -> Self {
        Self::Local {
            reason: reason.into(),
            hint: None,
        }
    }

    /// An error found here, with what would help.
    pub fn local_with(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Local {
            reason: reason.into(),
            hint: Some(hint.into()),
        }
    }

    /// The same error that an unknown volume gives at the servers.
    pub fn bad_state(volume: &str, state: &str, expected: &str) -> Self {
        let reason = format!("bad state:{state}, expected {expected}:{volume}");
        match state {
            "Clear" => Self::local_with(reason, format!("no volume {volume} here")),
            _ => Self::local(reason),
        }
    }

    /// Whether another attempt could go better: nobody answered, or was too busy to.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Client(ClientError::Api(error)) => {
                matches!(error.code, ErrorCode::Limit | ErrorCode::Unavailable)
            }
            Self::Client(ClientError::Deadline { .. }) => true,
            Self::Client(error @ ClientError::Connect { .. }) => tls_cause(error).is_none(),
            Self::Client(
                ClientError::Role { .. } | ClientError::Answer { .. } | ClientError::Stream { .. },
            )
            | Self::Usage(_)
            | Self::Local { .. }
            | Self::WrongKind { .. }
            | Self::Job { .. }
            | Self::Config(_)
            | Self::Tls(_)
            | Self::Pki(_)
            | Self::Io { .. } => false,
        }
    }

    /// Reason and arguments joined by `:`, then what would help in parentheses. One line.
    pub fn reason(&self) -> String {
        let (reason, hint) = match self {
            Self::Client(ClientError::Api(error)) => (message(error), error.hint.clone()),
            Self::Job { id, error } => (format!("job {id}:{}", message(error)), error.hint.clone()),
            Self::Local { reason, hint } => (reason.clone(), hint.clone()),
            Self::WrongKind { expected, .. } => {
                let article = if expected.starts_with('a') { "an" } else { "a" };
                (
                    self.to_string(),
                    Some(format!("only {article} {expected} knows it")),
                )
            }
            Self::Config(FindConfigError::Missing { .. }) => {
                (self.to_string(), Some(config::HINT.to_owned()))
            }
            Self::Client(error) => (chain(error), hint_for(error)),
            other => (chain(other), None),
        };
        let text = match hint {
            Some(hint) => format!("{reason} ({hint})"),
            None => reason,
        };
        text.replace(['\n', '\r'], " ")
    }
}

/// The server's reason, with the volume unless it is in there already.
fn message(error: &ApiError) -> String {
    match &error.volume {
        Some(volume) if !error.message.split([':', ' ', ',']).any(|part| part == volume) => {
            format!("{}:{volume}", error.message)
        }
        _ => error.message.clone(),
    }
}

/// The TLS error below `error`, if there is one. An `io::Error` skips what it wraps when asked for its source.
fn tls_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn hint_for(error: &ClientError) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
    let hint = match tls_cause(error) {
        Some(Tls::InvalidMessage(_)) => "what answers there does not speak TLS: check -a and -p",
        Some(Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            "the server's certificate has expired: issue a new one with `walbc pki issue`"
        }
        Some(Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            "the server's certificate is not valid yet: compare the clocks here and where it was issued"
        }
        Some(Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            "the server's certificate is not from our authority: check ca in the client's configuration"
        }
        Some(Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "the server's certificate is not for this name: use one it was issued for with -a"
        }
        Some(Tls::AlertReceived(Alert::CertificateExpired)) => {
            // The same alert for one that is not valid yet.
            "the server says that our certificate has expired: if `walbc pki show` says otherwise its clock is wrong, \
             else issue a new one with `walbc pki issue`"
        }
        Some(Tls::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::DecryptError)) => {
            "the server does not trust our certificate: it must be from the server's authority"
        }
        None if chain(error).contains("refused") => {
            "no server there: check -a and -p, and whether the daemon runs"
        }
        None if chain(error).contains("close_notify") => {
            "the server ended before it answered: whether it did what was asked is not known"
        }
        Some(_) | None => return None,
    };
    Some(hint.to_owned())
}

/// The line on stderr: `YYYY-MM-DD hh:mm:ss.mmm ERROR walbc error: ORIGIN:REASON`.
pub fn line(now: OffsetDateTime, origin: &str, reason: &str) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
    let time = now.format(format).unwrap_or_default();
    let origin = if origin.is_empty() {
        String::new()
    } else {
        format!("{origin}:")
    };
    format!("{time} ERROR walbc error: {origin}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::types::VolumeName;

    #[test]
    fn the_line_has_time_origin_reason_and_hint() {
        let now = OffsetDateTime::from_unix_timestamp_nanos(1_795_359_114_724_000_000).unwrap();
        let volume = VolumeName::new("vol0").unwrap();
        let refused = ApiError::new(ErrorCode::NotFound, "bad gid to restore:vol0:3")
            .volume(&volume)
            .hint("see get restorable");
        let error = CommandError::Client(ClientError::Api(refused));
        assert_eq!(
            line(now, "restore", &error.reason()),
            "2026-11-22 14:51:54.724 ERROR walbc error: restore:bad gid to restore:vol0:3 (see get restorable)"
        );
    }

    #[test]
    fn the_volume_is_added_when_the_reason_does_not_name_it() {
        let volume = VolumeName::new("vol0").unwrap();
        let refused =
            ApiError::new(ErrorCode::WrongState, "bad state:Clear, expected Target").volume(&volume);
        let error = CommandError::Client(ClientError::Api(refused));
        assert_eq!(error.reason(), "bad state:Clear, expected Target:vol0");
        assert!(!error.is_passing());
    }

    #[test]
    fn a_silent_server_is_worth_another_attempt_and_a_bad_certificate_is_not() {
        let connect = |source: io::Error| {
            CommandError::Client(ClientError::Connect {
                what: "connect to",
                address: "s:1".into(),
                source: source.into(),
            })
        };
        assert!(connect(io::ErrorKind::ConnectionRefused.into()).is_passing());
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let error = connect(io::Error::new(io::ErrorKind::InvalidData, bad));
        assert!(!error.is_passing());
        assert!(
            error.reason().contains("has expired: issue a new one"),
            "{}",
            error.reason()
        );
        let ended = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "peer closed connection without sending TLS close_notify",
        );
        assert!(
            connect(ended)
                .reason()
                .contains("whether it did what was asked is not known")
        );
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let error = connect(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert!(
            error.reason().contains("its clock is wrong"),
            "{}",
            error.reason()
        );
    }
}
