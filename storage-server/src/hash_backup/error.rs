//! Why a hash backup does not go on, and whether that passes by itself.

use walb_common::daemon::chain;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::Lb;
use walb_common::wire::message::{Refusal, RefusalReason};
use walb_common::wire::stream::StreamError;

use crate::device::CallError;
use crate::full_backup::scan::ScanError;
use crate::metadata::MetadataError;
use crate::volume::{MarkError, ResetError};

#[derive(Debug, thiserror::Error)]
pub(super) enum HashError {
    #[error("archive {archive}: {reason}")]
    Unreachable { archive: String, reason: String },
    // Scripts know the beginning of this.
    #[error("not accepted by archive:{archive}:{}", refusal.message)]
    Refused { archive: String, refusal: Refusal },
    #[error("hash backup: archive {archive}")]
    Stream {
        archive: String,
        #[source]
        source: StreamError,
    },
    #[error("hash backup")]
    Reset(#[from] ResetError),
    #[error("hash backup")]
    Device(#[source] CallError),
    #[error("hash backup: read the device")]
    Read(#[from] ScanError),
    #[error("hash backup: snapshot")]
    Mark(#[from] MarkError),
    #[error(
        "hash backup: the size of the device is {found} logical blocks, was {expected} when the archive accepted"
    )]
    SizeChanged { expected: Lb, found: Lb },
    #[error("hash backup: {0}")]
    Continuity(String),
    #[error("hash backup: {0}")]
    Cut(&'static str),
    #[error("hash backup: {0}")]
    Protocol(String),
    #[error("hash backup")]
    Store(#[from] MetadataError),
    #[error("hash backup")]
    Fault(#[source] std::io::Error),
}

impl HashError {
    /// Whether it is worth while to ask again soon, with nobody's help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            // What changed size is begun again as it is now.
            Self::Unreachable { .. } | Self::SizeChanged { .. } => true,
            Self::Refused { refusal, .. } => is_passing(refusal.reason),
            Self::Stream { source, .. } => source.peer().is_none(),
            Self::Device(error)
            | Self::Mark(MarkError::Device(error))
            | Self::Reset(ResetError::Device(error)) => error.is_away(),
            Self::Read(ScanError::Device { source, .. }) => source.is_away(),
            _ => false,
        }
    }
}

fn is_passing(reason: RefusalReason) -> bool {
    matches!(
        reason,
        RefusalReason::Syncing | RefusalReason::WdiffRecv | RefusalReason::Limit
    )
}

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        let code = match &error {
            HashError::Refused { refusal, .. } if is_passing(refusal.reason) => ErrorCode::Busy,
            HashError::Refused { .. } => ErrorCode::PeerRefused,
            HashError::Stream { source, .. } => {
                source.peer().map_or(ErrorCode::Unavailable, |peer| peer.code)
            }
            HashError::Unreachable { .. }
            | HashError::Device(_)
            | HashError::Read(_)
            | HashError::Mark(_)
            | HashError::SizeChanged { .. } => ErrorCode::Unavailable,
            HashError::Continuity(_) => ErrorCode::Overflow,
            HashError::Cut(_) => ErrorCode::Cancelled,
            HashError::Protocol(_) => ErrorCode::Corrupt,
            HashError::Reset(_) | HashError::Store(_) | HashError::Fault(_) => {
                return ApiError::internal(&error);
            }
        };
        ApiError::new(code, chain(&error))
    }
}
