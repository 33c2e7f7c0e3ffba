use std::io;
use std::path::{Path, PathBuf};

/// A file or directory could not be dealt with.
#[derive(Debug, thiserror::Error)]
#[error("{act} {path}")]
pub struct FileError {
    /// What was tried.
    pub act: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Whether what was looked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Names act and path of an IO error.
pub trait At<T> {
    /// The same result, its error saying that `act` failed on `path`.
    fn at(self, act: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, act: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            act,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
