//! One volume's directory, `DATA/VOL/`: the truth about it.
//!
//! ```text
//!  state          SyncReady, Archived or Stopped
//!  base           what the base image shows, e.g. <|0,1|>-20261122140000      } only with Archived and Stopped
//!  archive_uuid   this lineage of archive data                                } is any of these believed
//!  uuid           life of the log that the diffs come from                    }
//!  size           of the base image in logical blocks                         }
//!  *.wdiff        the diffs; each name carries its metadata
//! ```
//! Each is replaced whole and durably. A directory appears whole (`VOL.init` until then) and disappears by a rename to
//! `VOL.clear`; neither suffix can be part of a volume's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use walb_common::disk::{TEMPORARY_SUFFIX, fault, remove_durable, rename_durable, replace_durable, sync_dir};
use walb_common::lineage::{BaseState, DiffSet, MetaDiff};
use walb_common::state::archive::Static;
use walb_common::types::{Lb, Uuid, parse_size};

use super::Lineage;
use crate::error::{At, FileError};

/// A directory becoming a volume's.
pub(crate) const INIT_SUFFIX: &str = ".init";
/// A directory whose volume has been cleared, with its images still to be removed.
pub(crate) const CLEAR_SUFFIX: &str = ".clear";

/// A volume's directory.
#[derive(Debug, Clone)]
pub(crate) struct VolumeDir {
    path: PathBuf,
}

/// A small file does not say what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{path}")]
    Content {
        path: PathBuf,
        #[source]
        source: walb_common::types::ParseError,
    },
}

impl VolumeDir {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Makes the directory of a new volume, in state SyncReady. It is there whole or not at all.
    pub fn create(&self) -> Result<(), FileError> {
        if self.path.symlink_metadata().is_ok() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "something else has this name here");
            return Err(FileError {
                act: "create",
                path: self.path.clone(),
                source,
            });
        }
        let new = self.with_suffix(INIT_SUFFIX);
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new).at("create", &new)?;
        let made = replace_durable(&new.join("state"), line(Static::SyncReady).as_bytes())
            .and_then(|()| fault::point("archive.init.made"))
            .and_then(|()| rename_durable(&new, &self.path));
        if made.is_err() {
            // A leftover would be removed at the next start; now is better.
            let _ = fs::remove_dir_all(&new);
        }
        made.at("create", &self.path)
    }

    /// What a clear put aside and could not remove, if there is something.
    pub fn cleared(&self) -> Option<PathBuf> {
        Some(self.with_suffix(CLEAR_SUFFIX)).filter(|path| path.exists())
    }

    /// The point of no return of a clear: from here on the volume is not known any more, also after a crash.
    pub fn begin_clear(&self) -> Result<PathBuf, FileError> {
        let gone = self.with_suffix(CLEAR_SUFFIX);
        let _ = fs::remove_dir_all(&gone);
        rename_durable(&self.path, &gone).at("rename away", &self.path)?;
        fault::point("archive.clear.renamed").at("rename away", &self.path)?;
        Ok(gone)
    }

    /// Removes what `begin_clear` has put aside; the images are gone already.
    pub fn end_clear(gone: &Path) -> Result<(), FileError> {
        fault::point("archive.clear.images_removed").at("remove", gone)?;
        fs::remove_dir_all(gone).at("remove", gone)?;
        sync_dir(gone.parent().unwrap_or(Path::new("."))).at("sync", gone)
    }

    /// Whether anything here is a volume's. A stranger's directory is not shown as a broken volume, or somebody might
    /// clear it.
    pub fn is_a_volume(&self) -> Result<bool, FileError> {
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let name = entry.at("list", &self.path)?.file_name();
            let name = name.to_string_lossy();
            if ["state", "base", "archive_uuid", "uuid", "size"].contains(&&*name) || name.ends_with(".wdiff")
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn replace(&self, name: &str, value: &impl ToString) -> Result<(), FileError> {
        let path = self.path.join(name);
        replace_durable(&path, line(value.to_string()).as_bytes()).at("write", &path)
    }

    fn read<T: FromStr<Err = walb_common::types::ParseError>>(&self, name: &str) -> Result<T, ReadError> {
        let path = self.path.join(name);
        let text = fs::read_to_string(&path).at("read", &path)?;
        text.trim_end()
            .parse()
            .map_err(|source| ReadError::Content { path, source })
    }

    /// Stores the state; the caller shows it only afterwards.
    pub fn store_state(&self, state: Static) -> Result<(), FileError> {
        self.replace("state", &state)
    }

    /// Reads the state.
    pub fn read_state(&self) -> Result<Static, ReadError> {
        self.read("state")
    }

    /// Stores the end of a full backup. The image is durable before; `state` comes last and makes the rest believed:
    /// a crash before it leaves SyncReady, and with it nothing that anybody reads.
    pub fn store_lineage(&self, lineage: &Lineage, size: Lb) -> Result<(), FileError> {
        self.replace("size", &size)?;
        self.replace("base", &lineage.base.with_time())?;
        fault::point("archive.full.base_stored").at("write", &self.path)?;
        self.replace("archive_uuid", &lineage.archive_uuid)?;
        fault::point("archive.full.archive_uuid_stored").at("write", &self.path)?;
        self.replace("uuid", &lineage.uuid)?;
        fault::point("archive.full.uuid_stored").at("write", &self.path)?;
        self.store_state(Static::Archived)?;
        fault::point("archive.full.state_stored").at("write", &self.path)
    }

    /// Reads base and uuids.
    pub fn read_lineage(&self) -> Result<Lineage, ReadError> {
        let base: BaseState = self.read("base")?;
        Ok(Lineage {
            base,
            archive_uuid: self.read::<Uuid>("archive_uuid")?,
            uuid: self.read::<Uuid>("uuid")?,
        })
    }

    /// Reads the size the base image has to have; none in a directory of the existing archive, which does not store it.
    pub fn read_size(&self) -> Result<Option<Lb>, ReadError> {
        let path = self.path.join("size");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.at("read", &path)?,
        };
        match parse_size(text.trim_end()) {
            Ok(size) => Ok(Some(Lb(size))),
            Err(source) => Err(ReadError::Content { path, source }),
        }
    }

    /// Where a diff is stored.
    pub fn diff(&self, diff: &MetaDiff) -> PathBuf {
        self.path.join(diff.file_name())
    }

    /// Removes diffs for good.
    pub fn remove_diffs(&self, diffs: &[MetaDiff]) -> Result<(), FileError> {
        for diff in diffs {
            let path = self.diff(diff);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at("remove", &path);
                }
                _ => {}
            }
        }
        sync_dir(&self.path).at("sync", &self.path)
    }

    /// Removes everything but the state: what a reset, or a full backup that did not end, leaves.
    pub fn remove_data(&self) -> Result<(), FileError> {
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let entry = entry.at("list", &self.path)?;
            if entry.file_name() != "state" {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        sync_dir(&self.path).at("sync", &self.path)
    }

    /// Lists the diffs; removes temporary files. Names that are nobody's come back as notes.
    pub fn list_diffs(&self) -> Result<(DiffSet, Vec<String>), FileError> {
        let (mut diffs, mut notes) = (DiffSet::new(), Vec::new());
        for entry in fs::read_dir(&self.path).at("list", &self.path)? {
            let entry = entry.at("list", &self.path)?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.ends_with(TEMPORARY_SUFFIX) {
                remove_durable(&path).at("remove", &path)?;
            } else if name.ends_with(".wdiff") {
                let size = entry.metadata().at("look at", &path)?.len();
                match MetaDiff::from_file_name(&name, size) {
                    Ok(diff) => match diffs.insert(diff) {
                        None => {}
                        Some(other) => notes.push(format!(
                            "{} and {name} both lead {diff}; the latter is used",
                            other.file_name()
                        )),
                    },
                    Err(error) => notes.push(format!("{} is left alone: {error}", path.display())),
                }
            }
        }
        Ok((diffs, notes))
    }

    /// Removes an unfinished or cleared neighbour's remains: a directory without meaning.
    pub fn remove_leftover(path: &Path) -> Result<(), FileError> {
        fs::remove_dir_all(path).at("remove", path)
    }
}

fn line(value: impl ToString) -> String {
    let mut text = value.to_string();
    text.push('\n');
    text
}
