use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::existing;
use crate::disk::{At, FileError, TEMPORARY_SUFFIX};
use crate::lineage::{BaseState, DiffSet, MetaDiff};
use crate::state::archive::Static;
use crate::types::{Lb, ParseError, Uuid, VolumeName, parse_size};

/// The small files hold a line; more than this is something else.
const SMALL_FILE_BYTES: u64 = 4096;
const WDIFF_SUFFIX: &str = ".wdiff";
/// Names that make a directory a volume's, beside `*.wdiff`.
const SMALL_FILES: [&str; 5] = ["state", "base", "archive_uuid", "uuid", "size"];

/// Where a volume's data come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// What the base image shows.
    pub base: BaseState,
    /// This lineage of archive data.
    pub archive_uuid: Uuid,
    /// Life of the log that the diffs come from.
    pub uuid: Uuid,
}

/// A small file does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{path}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds, and what was expected.
        #[source]
        source: ParseError,
    },
}

/// The diffs of a volume, as their names tell them.
#[derive(Debug, Default)]
pub struct Listing {
    /// The diffs.
    pub diffs: DiffSet,
    /// What is odd about names, a line each: none of them is used.
    pub odd: Vec<String>,
    /// Half-written files.
    pub temporary: Vec<PathBuf>,
}

/// A volume's directory, to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFiles {
    path: PathBuf,
}

impl VolumeFiles {
    /// The volume kept in the directory `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a diff is stored.
    pub fn diff(&self, diff: &MetaDiff) -> PathBuf {
        self.path.join(diff.file_name())
    }

    /// Whether anything here is a volume's. A stranger's directory is not shown as a broken volume, or somebody might
    /// clear it.
    pub fn is_a_volume(&self) -> Result<bool, FileError> {
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let name = entry.at("list", &self.path)?.file_name();
            let name = name.to_string_lossy();
            if SMALL_FILES.contains(&&*name) || name.ends_with(WDIFF_SUFFIX) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the state.
    pub fn read_state(&self) -> Result<Static, ReadError> {
        self.read("state", |stored| existing::text(stored).map(str::parse))
    }

    /// Reads what the base image shows.
    pub fn read_base(&self) -> Result<BaseState, ReadError> {
        self.read("base", existing::base_state)
    }

    /// Reads the lineage of the archive data.
    pub fn read_archive_uuid(&self) -> Result<Uuid, ReadError> {
        self.read("archive_uuid", |stored| existing::uuid(stored).map(Ok))
    }

    /// Reads the life of the log that the diffs come from.
    pub fn read_uuid(&self) -> Result<Uuid, ReadError> {
        self.read("uuid", |stored| existing::uuid(stored).map(Ok))
    }

    /// Reads base and uuids.
    pub fn read_lineage(&self) -> Result<Lineage, ReadError> {
        Ok(Lineage {
            base: self.read_base()?,
            archive_uuid: self.read_archive_uuid()?,
            uuid: self.read_uuid()?,
        })
    }

    /// Reads the size the base image has to have; none in a directory of the existing archive, which does not store it.
    pub fn read_size(&self) -> Result<Option<Lb>, ReadError> {
        let path = self.path.join("size");
        let stored = match stored(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            found => found?,
        };
        let size = as_text(&stored).and_then(parse_size).map(Lb);
        size.map(Some)
            .map_err(|source| ReadError::Content { path, source })
    }

    /// Reads a small file in the form of the existing archive if it is of that, else as text.
    fn read<T: std::str::FromStr<Err = ParseError>>(
        &self,
        name: &str,
        existing: impl Fn(&[u8]) -> Option<Result<T, ParseError>>,
    ) -> Result<T, ReadError> {
        let path = self.path.join(name);
        let stored = stored(&path)?;
        let value = existing(&stored).unwrap_or_else(|| as_text(&stored)?.parse());
        value.map_err(|source| ReadError::Content { path, source })
    }

    /// Lists the diffs. Of two that lead from and to the same snapshots a log diff is used rather than a compared one,
    /// and the later rather than the earlier.
    pub fn list(&self) -> Result<Listing, FileError> {
        let mut found = Listing::default();
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let entry = entry.at("list", &self.path)?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name.ends_with(TEMPORARY_SUFFIX) {
                found.temporary.push(path);
            } else if name.ends_with(WDIFF_SUFFIX) {
                let odd = |what: &str| format!("{} is left alone: {what}", path.display());
                // Through links: a diff may have been moved to another disk.
                match fs::metadata(&path) {
                    Ok(about) if about.is_file() => names.push((name, about.len())),
                    // Opening a pipe would wait for ever.
                    Ok(_) => found.odd.push(odd("it is no file")),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        // Else merged, applied or replaced since the directory was read.
                        if path.is_symlink() {
                            found.odd.push(odd("it is a link to nothing"));
                        }
                    }
                    Err(error) => return Err(error).at("look at", &path),
                }
            }
        }
        names.sort();
        for (name, size) in names {
            match MetaDiff::from_file_name(&name, size) {
                Ok(diff) => found.take(diff),
                Err(error) => {
                    let path = self.path.join(name);
                    found
                        .odd
                        .push(format!("{} is left alone: {error}", path.display()));
                }
            }
        }
        Ok(found)
    }
}

impl Listing {
    fn take(&mut self, diff: MetaDiff) {
        let Some(mut other) = self.diffs.insert(diff) else {
            return;
        };
        let mut used = diff;
        if used.is_compared() && !other.is_compared() {
            self.diffs.insert(other);
            (used, other) = (other, used);
        }
        let (used, other) = (used.file_name(), other.file_name());
        self.odd
            .push(format!("{other} and {used} both lead {diff}; the latter is used"));
    }
}

fn stored(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut stored = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SMALL_FILE_BYTES + 1).read_to_end(&mut stored))
        .at("read", path)?;
    if stored.len() as u64 > SMALL_FILE_BYTES {
        let source = io::Error::new(
            io::ErrorKind::InvalidData,
            format!("expected at most {SMALL_FILE_BYTES} bytes, found more"),
        );
        return Err(source).at("read", path);
    }
    Ok(stored)
}

fn as_text(stored: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(stored)
        .map(str::trim_end)
        .map_err(|_| ParseError::new("content", &String::from_utf8_lossy(stored), "a line of text"))
}

/// The volumes kept in an archive's directory, by name. Directories that are nobody's, and those of volumes being made
/// or removed, are left out.
pub fn volumes(dir: &Path) -> Result<Vec<(VolumeName, VolumeFiles)>, FileError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let name = entry.file_name();
        let Some(volume) = name.to_str().and_then(|name| VolumeName::new(name).ok()) else {
            continue;
        };
        let files = VolumeFiles::new(entry.path());
        // One that cannot be listed may be a volume: whoever reads it is told why it cannot.
        if entry.path().is_dir() && !matches!(files.is_a_volume(), Ok(false)) {
            found.push((volume, files));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
