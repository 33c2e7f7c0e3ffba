//! How a device is named on a command line: `wdev:NAME`, `wdev:SOCKET#NAME` or `/dev/walb/NAME`.

use std::{env, fmt, str::FromStr};

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};
use walb_common::types::{ParseError, VolumeName};

use crate::kernel;

/// The control socket of `walb-wdev` unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/walb/wdev/control.sock";
/// The environment variable that tells otherwise.
pub const SOCKET_ENV: &str = "WALB_WDEV_SOCKET";

/// The control socket to use when none is given: `WALB_WDEV_SOCKET`, or [`DEFAULT_SOCKET`].
pub fn default_socket() -> Utf8PathBuf {
    env::var(SOCKET_ENV)
        .ok()
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| DEFAULT_SOCKET.to_owned())
        .into()
}

/// Names a WalB device of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceSpec {
    /// A device of `walb-wdev`.
    Wdev {
        /// Its control socket; `None` is the default one (so that a stored spec follows the environment).
        socket: Option<Utf8PathBuf>,
        /// Its name there.
        name: String,
    },
    /// A device of the kernel driver.
    Kernel {
        /// Its node, `/dev/walb/NAME`.
        path: Utf8PathBuf,
    },
}

impl FromStr for DeviceSpec {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("device", text, "wdev:NAME, wdev:SOCKET#NAME or /dev/walb/NAME");
        if let Some(rest) = text.strip_prefix("wdev:") {
            let (socket, name) = match rest.rsplit_once('#') {
                Some(("", _)) => return Err(bad()),
                Some((socket, name)) => (Some(Utf8PathBuf::from(socket)), name),
                None => (None, rest),
            };
            let name = VolumeName::new(name).map_err(|_| bad())?.as_str().to_owned();
            return Ok(Self::Wdev { socket, name });
        }
        match text.strip_prefix(kernel::DEVICE_DIR) {
            Some(name) if !name.is_empty() && !name.contains('/') => Ok(Self::Kernel { path: text.into() }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wdev { socket: None, name } => write!(f, "wdev:{name}"),
            Self::Wdev {
                socket: Some(socket),
                name,
            } => write!(f, "wdev:{socket}#{name}"),
            Self::Kernel { path } => path.fmt(f),
        }
    }
}

impl TryFrom<String> for DeviceSpec {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<DeviceSpec> for String {
    fn from(spec: DeviceSpec) -> String {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_print_as_they_were_given() {
        for text in ["wdev:vol0", "wdev:/tmp/a b#c/x.sock#vol-1", "/dev/walb/0"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_device_is_refused_with_the_forms_that_do() {
        for text in [
            "",
            "vol0",
            "wdev:",
            "wdev:#x",
            "wdev:/s#",
            "wdev:a/b",
            "/dev/walb/",
            "/dev/walb/a/b",
            "/dev/sda",
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(error.contains("wdev:NAME"), "{error}");
        }
    }
}
