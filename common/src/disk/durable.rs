use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::fault;

/// Files whose name ends so are half-written leftovers; a daemon removes them at its start.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Makes the entries of a directory durable: creations, renames and removals done before this call.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The temporary neighbour of `path` that a replacement is written to.
pub fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Replaces `path` by `content`, durably, readable by the owner only. A crash leaves the old content or the new.
pub fn replace_durable(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_path(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // A full disk must not keep the half file as well. The first error is the one worth telling.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    rename_durable(&temporary, path)
}

/// Renames a file whose content is already durable, then makes the new name durable. `to` is replaced if it exists.
pub fn rename_durable(from: &Path, to: &Path) -> io::Result<()> {
    fault::point("disk.rename.before")?;
    fs::rename(from, to)?;
    fault::point("disk.rename.before_dirsync")?;
    sync_dir(parent(to))
}

/// Removes a file for good; one that is not there is already removed.
pub fn remove_durable(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_leaves_the_new_content_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace_durable(&path, b"old").unwrap();
        replace_durable(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove_durable(&path).unwrap();
        remove_durable(&path).unwrap();
        assert!(!path.exists());
    }
}
