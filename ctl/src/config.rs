//! Who we are: a TOML file with the paths of our certificate, found by `WALBC_CONFIG` or in its default places.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use walb_common::daemon::config::{self, ConfigError};
use walb_common::wire::tls::TlsFiles;

/// The file as written. Relative paths are relative to the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

/// Our identity and where to call when the command line does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Our identity.
    pub tls: TlsFiles,
    /// Default of `-a`.
    pub host: Option<String>,
    /// Default of `-p`.
    pub port: Option<u16>,
}

/// There is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum FindConfigError {
    /// No file in any of the places.
    #[error("no client identity:found none of {}", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        /// Where we looked.
        looked: Vec<PathBuf>,
    },
    /// The file is there but unusable.
    #[error(transparent)]
    Unusable(#[from] ConfigError),
}

/// What helps against a missing identity.
pub const HINT: &str = "make one: `walbc pki init --dir DIR`, `walbc pki issue --dir DIR --role operator --id NAME`, then \
write ca = \"DIR/ca.pem\", cert = \"DIR/NAME.pem\", key = \"DIR/NAME.key\" into ~/.config/walb/walbc.toml, or name \
another file in WALBC_CONFIG";

/// The places to look at, in order. A file named by `WALBC_CONFIG` is the only one then.
fn places(named: Option<OsString>, home: Option<OsString>) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|n| !n.is_empty()) {
        return vec![named.into()];
    }
    let home = home
        .filter(|h| !h.is_empty())
        .map(|h| Path::new(&h).join(".config/walb/walbc.toml"));
    home.into_iter()
        .chain([PathBuf::from("/etc/walb/walbc.toml")])
        .collect()
}

impl Config {
    /// Finds and reads the file.
    pub fn find() -> Result<Self, FindConfigError> {
        let looked = places(std::env::var_os("WALBC_CONFIG"), std::env::var_os("HOME"));
        match looked.iter().find(|p| p.exists()) {
            Some(path) => Ok(Self::load(path)?),
            None => Err(FindConfigError::Missing { looked }),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let ConfigFile {
            ca,
            cert,
            key,
            host,
            port,
        } = config::load(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let tls = TlsFiles {
            ca: dir.join(ca),
            cert: dir.join(cert),
            key: dir.join(key),
        };
        Ok(Self {
            path: path.to_owned(),
            tls,
            host,
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_is_the_only_place_and_an_empty_name_is_none() {
        assert_eq!(
            places(Some("x.toml".into()), Some("/h".into())),
            [PathBuf::from("x.toml")]
        );
        let defaults = ["/h/.config/walb/walbc.toml", "/etc/walb/walbc.toml"].map(PathBuf::from);
        assert_eq!(places(Some(OsString::new()), Some("/h".into())), defaults);
        assert_eq!(places(None, None), defaults[1..]);
    }

    #[test]
    fn relative_paths_are_relative_to_the_file_and_unknown_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("walbc.toml");
        std::fs::write(
            &path,
            "ca = \"ca.pem\"\ncert = \"pki/op.pem\"\nkey = \"/k\"\nport = 10000\n",
        )
        .unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.tls.ca, dir.path().join("ca.pem"));
        assert_eq!(config.tls.cert, dir.path().join("pki/op.pem"));
        assert_eq!(config.tls.key, Path::new("/k"));
        assert_eq!((config.host, config.port), (None, Some(10000)));
        std::fs::write(&path, "ca = \"a\"\ncert = \"b\"\nkey = \"c\"\nhots = \"x\"\n").unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains("line 4") && error.contains("hots"), "{error}");
    }
}
