//! The files of one volume. All functions block: call them off the async threads.
//!
//! ```text
//! VOL/received/*.tmp            half received, removed at start
//! VOL/received/NAME.wdiff       received, not yet linked for every archive; linked at the next receive or start
//! VOL/sendto/ARCHIVE/NAME.wdiff waits for that archive; all links of one diff share their data on disk
//! VOL/sendto/ARCHIVE/*.bad      set aside: damaged
//! ```
//! The listing of a directory is the list of its diffs; there is no other index.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use walb_common::disk::FileError;
use walb_common::disk::{TEMPORARY_SUFFIX, fault, rename_durable, sync_dir, temporary_path};
use walb_common::format::wdiff::{ReadWdiffError, WDIFF_HEADER_SIZE, WdiffFileHeader};
use walb_common::lineage::MetaDiff;
use walb_common::types::Uuid;

/// What is behind a name that was set aside.
pub const BAD_SUFFIX: &str = ".bad";

/// Names the step and the place of an IO error.
pub(crate) fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { act, path, source }
}

/// A diff found in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDiff {
    /// What its name says, with its file's size.
    pub diff: MetaDiff,
    /// The life of the log it came from.
    pub uuid: Uuid,
    /// When it was written: links keep it, so the later received of two can be told.
    pub written: SystemTime,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its diffs, the one received first at the front.
    pub diffs: Vec<StoredDiff>,
    /// Names of what was set aside.
    pub bad: Vec<String>,
}

/// The place of one volume.
#[derive(Debug, Clone)]
pub struct VolumeDirectory {
    root: PathBuf,
}

impl VolumeDirectory {
    /// The volume whose files lie below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where diffs arrive.
    pub fn received(&self) -> PathBuf {
        self.root.join("received")
    }

    /// Where the diffs for an archive wait.
    pub fn send_to(&self, archive: &str) -> PathBuf {
        self.root.join("sendto").join(archive)
    }

    /// Makes the directories for an archive, durably; what is there stays.
    pub fn create(&self, archive: &str) -> Result<(), FileError> {
        create_durable(&self.root)?;
        create_durable(&self.received())?;
        create_durable(&self.root.join("sendto"))?;
        create_durable(&self.send_to(archive))
    }

    /// Names below `sendto/`.
    pub fn archives(&self) -> Result<Vec<String>, FileError> {
        let dir = self.root.join("sendto");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("list", &dir)(error)),
        };
        let names = entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
        names.collect::<io::Result<_>>().map_err(at("list", &dir))
    }

    /// Sets the files of an archive aside, durably: from here on they may be removed once its row is gone. Only files
    /// set aside so are ever removed, never those of an archive that merely has no row (the database was lost).
    pub fn set_archive_aside(&self, archive: &str) -> Result<(), FileError> {
        let (from, to) = (self.send_to(archive), self.aside(archive));
        if to.exists() {
            remove_tree(&to)?;
        }
        match rename_durable(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(at("set aside", &from)),
        }
    }

    /// Takes the files of an archive back: its deletion did not get as far as its row.
    pub fn take_archive_back(&self, archive: &str) -> Result<(), FileError> {
        let (from, to) = (self.aside(archive), self.send_to(archive));
        match rename_durable(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(at("take back", &from)),
        }
    }

    /// Removes the files of an archive that were set aside.
    pub fn remove_archive(&self, archive: &str) -> Result<(), FileError> {
        remove_tree(&self.aside(archive))
    }

    fn aside(&self, archive: &str) -> PathBuf {
        self.send_to(&format!("{ASIDE}{archive}"))
    }

    /// Removes everything.
    pub fn remove_all(&self) -> Result<(), FileError> {
        remove_tree(&self.root)
    }
}

/// No archive's name begins with a dot.
pub const ASIDE: &str = ".deleted-";

fn create_durable(dir: &Path) -> Result<(), FileError> {
    if !dir.is_dir() {
        fault::point("proxy.directory.create").map_err(at("create directory", dir))?;
        fs::create_dir(dir).map_err(at("create directory", dir))?;
    }
    // The entry is durable before anything is put below it.
    sync_parent(dir)
}

fn remove_tree(dir: &Path) -> Result<(), FileError> {
    fault::point("proxy.directory.remove").map_err(at("remove directory", dir))?;
    match fs::remove_dir_all(dir) {
        Ok(()) => sync_parent(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("remove directory", dir)(error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent()
        .map_or(Ok(()), sync_dir)
        .map_err(at("sync the directory of", path))
}

/// Lists a directory: removes temporaries, sets aside what is no readable wdiff.
pub fn settle(dir: &Path) -> Result<Listing, FileError> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(TEMPORARY_SUFFIX) {
            fs::remove_file(&path).map_err(at("remove the temporary", &path))?;
            tracing::info!(path = %path.display(), "half-written file removed");
        } else if name.ends_with(BAD_SUFFIX) {
            listing.bad.push(name);
        } else {
            match read_diff(&path, &name) {
                Ok(stored) => listing.diffs.push(stored),
                Err(ReadDiffError::Damaged(reason)) => listing.bad.push(set_aside(&path, &reason)?),
                Err(ReadDiffError::File(error)) => return Err(error),
            }
        }
    }
    listing
        .diffs
        .sort_by_key(|d| (d.written, d.diff.begin().begin(), d.diff.end().begin()));
    Ok(listing)
}

enum ReadDiffError {
    Damaged(String),
    File(FileError),
}

/// Name, size and file header; the rest is checked when it is sent.
fn read_diff(path: &Path, name: &str) -> Result<StoredDiff, ReadDiffError> {
    let io = |act| move |e| ReadDiffError::File(at(act, path)(e));
    let metadata = fs::metadata(path).map_err(io("look at"))?;
    let damaged = |reason: String| ReadDiffError::Damaged(reason);
    let diff = MetaDiff::from_file_name(name, metadata.len()).map_err(|e| damaged(e.to_string()))?;
    if !metadata.is_file() {
        return Err(damaged("expected a file".to_owned()));
    }
    let mut header = [0; WDIFF_HEADER_SIZE];
    let file = File::open(path).map_err(io("open"))?;
    let header = match std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0) {
        Ok(()) => WdiffFileHeader::decode(&header),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ReadWdiffError::Truncated {
            position: metadata.len(),
            part: "file header",
        }),
        Err(source) => Err(ReadWdiffError::Io { position: 0, source }),
    };
    let header = header.map_err(|e| damaged(walb_common::daemon::chain(&e)))?;
    let written = metadata.modified().map_err(io("look at"))?;
    Ok(StoredDiff {
        diff,
        uuid: header.uuid,
        written,
    })
}

/// Renames a file that cannot be sent, so that it is neither lost nor tried again. Answers its new name.
pub fn set_aside(path: &Path, reason: &str) -> Result<String, FileError> {
    let mut bad = path.as_os_str().to_owned();
    bad.push(BAD_SUFFIX);
    let bad = PathBuf::from(bad);
    fault::point("proxy.set_aside").map_err(at("set aside", path))?;
    rename_durable(path, &bad).map_err(at("set aside", path))?;
    tracing::error!(path = %bad.display(), reason, "damaged wdiff set aside: what it holds will not reach the archive");
    Ok(bad.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Links a diff in `received` for an archive, replacing what has its name. Not durable before the directory is synced.
pub fn link(received: &Path, to_dir: &Path, name: &str) -> Result<(), FileError> {
    let (from, to) = (received.join(name), to_dir.join(name));
    fault::point("proxy.distribute.link").map_err(at("link", &to))?;
    match fs::hard_link(&from, &to) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at("link", &to)(error)),
    }
    let inode = |path: &Path| {
        fs::metadata(path)
            .map(|m| (m.dev(), m.ino()))
            .map_err(at("look at", path))
    };
    if inode(&from)? == inode(&to)? {
        return Ok(());
    }
    // The same range came again. What came last is what its sender goes on from, so it takes the place.
    let temporary = temporary_path(&to);
    let replace = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(&from, &temporary)?;
        fs::rename(&temporary, &to)
    };
    replace().map_err(at("replace", &to))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
