use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{ParseError, VolumeName};

/// What kind of error, for programs. Each has a page in docs/errors/.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not of the right form.
    BadRequest,
    /// The certificate's role does not permit it.
    Forbidden,
    /// The thing named does not exist.
    NotFound,
    /// The thing named exists already.
    AlreadyExists,
    /// The volume's state does not allow it.
    WrongState,
    /// Something else that runs does not allow it.
    Busy,
    /// A limit of the process is reached; try later.
    Limit,
    /// The device's log has overflowed.
    Overflow,
    /// No room on a disk.
    NoSpace,
    /// Stored or transferred data is damaged.
    Corrupt,
    /// A peer refused.
    PeerRefused,
    /// A peer or a device cannot be reached.
    Unavailable,
    /// It was cancelled.
    Cancelled,
    /// The daemon failed; its log tells more.
    Internal,
}

impl ErrorCode {
    /// The HTTP status it travels with.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::WrongState | Self::Busy | Self::Overflow | Self::Cancelled => 409,
            Self::Limit => 429,
            Self::NoSpace => 507,
            Self::PeerRefused | Self::Unavailable => 503,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The name used on the wire and in docs/errors/.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::WrongState => "wrong-state",
            Self::Busy => "busy",
            Self::Limit => "limit",
            Self::Overflow => "overflow",
            Self::NoSpace => "no-space",
            Self::Corrupt => "corrupt",
            Self::PeerRefused => "peer-refused",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// The body of every negative answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what, expected, found; one line.
    pub message: String,
    /// The volume concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The volume's state when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error with a code and a message. Line breaks become blanks: one error, one line.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into().replace(['\n', '\r'], " ");
        Self {
            code,
            message,
            volume: None,
            state: None,
            hint: None,
        }
    }

    /// A failure of ours or of the machine's, with its whole chain of causes.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let no_space = {
            let mut cause = Some(error);
            std::iter::from_fn(|| {
                let now = cause?;
                cause = now.source();
                Some(now)
            })
            .any(is_no_space)
        };
        let code = if no_space {
            ErrorCode::NoSpace
        } else {
            ErrorCode::Internal
        };
        Self::new(code, crate::daemon::chain(error))
    }

    /// Adds the volume.
    #[must_use]
    pub fn volume(mut self, volume: &VolumeName) -> Self {
        self.volume = Some(volume.to_string());
        self
    }

    /// Adds the state it was found in.
    #[must_use]
    pub fn state(mut self, state: impl fmt::Display) -> Self {
        self.state = Some(state.to_string());
        self
    }

    /// Adds what would help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `MESSAGE:VOLUME (HINT)`, one line.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(volume) = &self.volume {
            write!(f, ":{volume}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ApiError {}

impl From<ParseError> for ApiError {
    fn from(error: ParseError) -> Self {
        Self::new(ErrorCode::BadRequest, error.to_string())
    }
}

impl From<crate::disk::FileError> for ApiError {
    fn from(error: crate::disk::FileError) -> Self {
        Self::internal(&error)
    }
}

/// SQLite's result code for a disk that is full.
const SQLITE_FULL: &str = "13";

fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return matches!(io.kind(), StorageFull | QuotaExceeded);
    }
    let database = error
        .downcast_ref::<sqlx::Error>()
        .and_then(sqlx::Error::as_database_error);
    database
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == SQLITE_FULL)
}
