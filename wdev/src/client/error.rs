//! What a call to a device can fail with, and what helps.

use std::io;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use walb_common::types::{Lsid, ParseError};

/// Why a call to a device failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// `walb-wdev` is not there.
    #[error("connect to walb-wdev at {socket}")]
    Connect {
        /// Its control socket.
        socket: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke during a call; whether the call took effect is unknown.
    #[error("connection to walb-wdev at {socket} broke during {call}")]
    Broken {
        /// Its control socket.
        socket: Utf8PathBuf,
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The peer does not speak our protocol.
    #[error("walb-wdev at {socket} answered {call} with {found}")]
    Protocol {
        /// Its control socket.
        socket: Utf8PathBuf,
        /// Which call.
        call: &'static str,
        /// What came instead of the answer.
        found: String,
    },
    /// The device answered with a refusal.
    #[error("device {device}: {source}")]
    Refused {
        /// The device's name.
        device: String,
        /// Its answer.
        #[source]
        source: Refusal,
    },
    /// Log that was asked for has been released or overwritten.
    #[error("device {device}: the log at lsid {from} is gone; the oldest readable is {oldest}")]
    LogGone {
        /// The device's name.
        device: String,
        /// Where the read began.
        from: Lsid,
        /// From here on the log can still be read.
        oldest: Lsid,
    },
    /// The kernel driver is not loaded.
    #[error(
        "device {device}: the kernel driver is not there ({node}: {source}): load walb-mod, or use wdev:NAME"
    )]
    NoDriver {
        /// The device.
        device: String,
        /// The driver's control node.
        node: Utf8PathBuf,
        /// Why it could not be found.
        #[source]
        source: io::Error,
    },
    /// This kind of device, or this operation on it, does not exist here.
    #[error("device {device}: {what}")]
    Unsupported {
        /// The device.
        device: String,
        /// What is missing and what to use instead.
        what: String,
    },
    /// The device's name is not of a known form.
    #[error(transparent)]
    Spec(#[from] ParseError),
}

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Try again later: the daemon is away for a moment.
    Retry,
    /// The same call will fail again: the caller or the operator must change something.
    FixRequest,
    /// Log is lost: synchronise the volume anew and reset the log.
    Resynchronise,
    /// The device needs a restart or a repair.
    RepairDevice,
}

impl DeviceError {
    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::NoDriver { .. } => Remedy::Retry,
            Self::Protocol { .. } | Self::Unsupported { .. } | Self::Spec(_) => Remedy::FixRequest,
            Self::LogGone { .. } => Remedy::Resynchronise,
            Self::Refused { source, .. } => source.remedy(),
        }
    }
}

/// A refusal by the device, as it crosses the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No device of that name.
    #[error("no such device here: known are {known}")]
    NoSuchDevice {
        /// The names known, separated by blanks.
        known: String,
    },
    /// The device could not be opened when the daemon started.
    #[error("the device is failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// See [`DeviceError::LogGone`].
    #[error("the log at lsid {from} is gone; the oldest readable is {oldest}")]
    LogGone {
        /// Where the read began.
        from: Lsid,
        /// From here on the log can still be read.
        oldest: Lsid,
    },
    /// The log is damaged where it was read.
    #[error("the log is damaged at lsid {lsid}: {reason}")]
    LogDamaged {
        /// Where.
        lsid: Lsid,
        /// How.
        reason: String,
    },
    /// The request makes no sense for the device as it is.
    #[error("{reason}")]
    Bad {
        /// What was expected and what was found.
        reason: String,
    },
    /// The device takes no writes since an IO error.
    #[error("the device is read-only since an error: {reason}; restart it")]
    ReadOnly {
        /// The first error.
        reason: String,
    },
    /// An IO error of the log or data device.
    #[error("{reason}")]
    Io {
        /// What failed.
        reason: String,
    },
    /// The daemon or the device is being stopped.
    #[error("the device is stopping")]
    Stopping,
}

impl Refusal {
    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoSuchDevice { .. } | Self::Bad { .. } => Remedy::FixRequest,
            Self::Failed { .. } | Self::ReadOnly { .. } | Self::Io { .. } => Remedy::RepairDevice,
            Self::LogGone { .. } | Self::LogDamaged { .. } => Remedy::Resynchronise,
            Self::Stopping => Remedy::Retry,
        }
    }
}
