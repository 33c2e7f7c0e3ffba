//! What the driver tells in `walb!NAME/`: lines of text, found by their names, since versions order them differently.

use std::io::{self, Read as _};

use camino::{Utf8Path, Utf8PathBuf};
use walb_common::types::{Lb, Lsid, Uuid};

use crate::client::Lsids;

/// Longest file believed: sysfs gives one page at most.
const FILE_MAX: u64 = 4096;

/// Why the driver's text is no use.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something else than it should.
    #[error("{path}: expected {expected}, found {found:?}")]
    Content {
        /// The file.
        path: Utf8PathBuf,
        /// What should be there.
        expected: String,
        /// What is.
        found: String,
    },
}

/// The directory of one device.
#[derive(Debug, Clone)]
pub struct Sysfs {
    dir: Utf8PathBuf,
}

impl Sysfs {
    /// The directory of device `name` below `root`. There need not be one.
    pub fn new(root: &Utf8Path, name: &str) -> Self {
        Self {
            dir: root.join(format!("walb!{name}")),
        }
    }

    /// The log's positions, of one instant.
    pub fn lsids(&self) -> Result<Lsids, SysfsError> {
        let file = self.file("walb/lsids")?;
        let lsid = |name| file.number(name).map(Lsid);
        Ok(Lsids {
            oldest: lsid("oldest")?,
            prev_written: lsid("prev_written")?,
            written: lsid("written")?,
            permanent: lsid("permanent")?,
            flush: lsid("flush")?,
            completed: lsid("completed")?,
            latest: lsid("latest")?,
        })
    }

    /// Names the log sequence.
    pub fn uuid(&self) -> Result<Uuid, SysfsError> {
        let file = self.file("walb/uuid")?;
        let digits: String = file.text.split_ascii_whitespace().collect();
        digits.parse().map_err(|_| file.lacks("16 two-digit hex numbers"))
    }

    /// Writes are refused since an IO error.
    pub fn read_only(&self) -> Result<bool, SysfsError> {
        Ok(self.file("walb/status")?.number("read_only")? != 0)
    }

    /// The underlying device `ldev` or `ddev`, `MAJOR:MINOR`.
    pub fn underlying(&self, which: &str) -> Result<String, SysfsError> {
        Ok(self.file(&format!("walb/{which}"))?.text.trim().to_owned())
    }

    /// The device's size.
    pub fn size(&self) -> Result<Lb, SysfsError> {
        let file = self.file("size")?;
        let size = file.text.trim().parse();
        size.map(Lb).map_err(|_| file.lacks("a number of logical blocks"))
    }

    fn file(&self, name: &str) -> Result<SysFile, SysfsError> {
        let path = self.dir.join(name);
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|f| f.take(FILE_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(SysFile { path, text }),
            Err(source) => Err(SysfsError::Read { path, source }),
        }
    }
}

struct SysFile {
    path: Utf8PathBuf,
    text: String,
}

impl SysFile {
    /// The number on the line `NAME NUMBER`.
    fn number(&self, name: &str) -> Result<u64, SysfsError> {
        self.text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| self.lacks(&format!("a line with {name} and a number")))
    }

    fn lacks(&self, expected: &str) -> SysfsError {
        SysfsError::Content {
            path: self.path.clone(),
            expected: expected.to_owned(),
            found: self.text.clone(),
        }
    }
}
