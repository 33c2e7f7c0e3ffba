//! One volume's directory, `DATA/VOL/`: the truth about it.
//!
//! What is in it, and how it is read: [`walb_common::archive_files`]. Here is what changes it.
//!
//! Each is replaced whole and durably. A directory appears whole (`VOL.init` until then) and disappears by a rename to
//! `VOL.clear`; neither suffix can be part of a volume's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walb_common::archive_files::{Lineage, VolumeFiles};
use walb_common::disk::{fault, remove_durable, rename_durable, replace_durable, sync_dir};
use walb_common::lineage::{DiffSet, MetaDiff};
use walb_common::state::archive::Static;
use walb_common::types::{Lb, Uuid};

use crate::error::{At, FileError};

/// A directory becoming a volume's.
pub(crate) const INIT_SUFFIX: &str = ".init";
/// A directory whose volume has been cleared, with its images still to be removed.
pub(crate) const CLEAR_SUFFIX: &str = ".clear";

/// A volume's directory.
#[derive(Debug, Clone)]
pub(crate) struct VolumeDir {
    files: VolumeFiles,
}

impl VolumeDir {
    pub fn new(path: PathBuf) -> Self {
        Self {
            files: VolumeFiles::new(path),
        }
    }

    /// To read it.
    pub fn files(&self) -> &VolumeFiles {
        &self.files
    }

    pub fn path(&self) -> &Path {
        self.files.path()
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut name = self.path().as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Makes the directory of a new volume, in state SyncReady. It is there whole or not at all.
    pub fn create(&self) -> Result<(), FileError> {
        if self.path().symlink_metadata().is_ok() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "something else has this name here");
            return Err(FileError {
                act: "create",
                path: self.path().to_owned(),
                source,
            });
        }
        let new = self.with_suffix(INIT_SUFFIX);
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new).at("create", &new)?;
        let made = replace_durable(&new.join("state"), line(Static::SyncReady).as_bytes())
            .and_then(|()| fault::point("archive.init.made"))
            .and_then(|()| rename_durable(&new, self.path()));
        if made.is_err() {
            // A leftover would be removed at the next start; now is better.
            let _ = fs::remove_dir_all(&new);
        }
        made.at("create", self.path())
    }

    /// What a clear put aside and could not remove, if there is something.
    pub fn cleared(&self) -> Option<PathBuf> {
        Some(self.with_suffix(CLEAR_SUFFIX)).filter(|path| path.exists())
    }

    /// The point of no return of a clear: from here on the volume is not known any more, also after a crash.
    pub fn begin_clear(&self) -> Result<PathBuf, FileError> {
        let gone = self.with_suffix(CLEAR_SUFFIX);
        let _ = fs::remove_dir_all(&gone);
        rename_durable(self.path(), &gone).at("rename away", self.path())?;
        fault::point("archive.clear.renamed").at("rename away", self.path())?;
        Ok(gone)
    }

    /// Removes what `begin_clear` has put aside; the images are gone already.
    pub fn end_clear(gone: &Path) -> Result<(), FileError> {
        fault::point("archive.clear.images_removed").at("remove", gone)?;
        fs::remove_dir_all(gone).at("remove", gone)?;
        sync_dir(gone.parent().unwrap_or(Path::new("."))).at("sync", gone)
    }

    fn replace(&self, name: &str, value: &impl ToString) -> Result<(), FileError> {
        let path = self.path().join(name);
        replace_durable(&path, line(value.to_string()).as_bytes()).at("write", &path)
    }

    /// Stores the state; the caller shows it only afterwards.
    pub fn store_state(&self, state: Static) -> Result<(), FileError> {
        self.replace("state", &state)
    }

    /// Stores the life of the log that the diffs come from.
    pub fn store_uuid(&self, uuid: Uuid) -> Result<(), FileError> {
        self.replace("uuid", &uuid)
    }

    /// Stores the size that the base image has to have, once it has.
    pub fn store_size(&self, size: Lb) -> Result<(), FileError> {
        self.replace("size", &size)?;
        fault::point("archive.grow.size_stored").at("write", self.path())
    }

    /// Stores the end of a full backup. The image is durable before; `state` comes last and makes the rest believed:
    /// a crash before it leaves SyncReady, and with it nothing that anybody reads.
    pub fn store_lineage(&self, lineage: &Lineage, size: Lb) -> Result<(), FileError> {
        self.replace("size", &size)?;
        self.replace("base", &lineage.base.with_time())?;
        fault::point("archive.full.base_stored").at("write", self.path())?;
        self.replace("archive_uuid", &lineage.archive_uuid)?;
        fault::point("archive.full.archive_uuid_stored").at("write", self.path())?;
        self.replace("uuid", &lineage.uuid)?;
        fault::point("archive.full.uuid_stored").at("write", self.path())?;
        self.store_state(Static::Archived)?;
        fault::point("archive.full.state_stored").at("write", self.path())
    }

    /// Where a diff is stored.
    pub fn diff(&self, diff: &MetaDiff) -> PathBuf {
        self.files.diff(diff)
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
        sync_dir(self.path()).at("sync", self.path())
    }

    /// Removes everything but the state: what a reset, or a full backup that did not end, leaves.
    pub fn remove_data(&self) -> Result<(), FileError> {
        for entry in fs::read_dir(self.path()).at("list", self.path())? {
            let entry = entry.at("list", self.path())?;
            if entry.file_name() != "state" {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        sync_dir(self.path()).at("sync", self.path())
    }

    /// Lists the diffs; removes temporary files. Names that are nobody's come back as notes.
    pub fn list_diffs(&self) -> Result<(DiffSet, Vec<String>), FileError> {
        let found = self.files.list()?;
        for path in &found.temporary {
            remove_durable(path).at("remove", path)?;
        }
        Ok((found.diffs, found.odd))
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
