//! What other tools need for the same bytes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::table::{Case, Output};

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Length of a file.
pub fn bytes(path: &Path) -> Result<u64> {
    Ok(path.metadata().with_context(|| path.display().to_string())?.len())
}

/// lz4's fastest level in blocks of 64 KiB, one core, result thrown away.
pub fn lz4(file: &Path) -> Result<Case> {
    Ok(Case::new(
        "`lz4 -1 -B4`",
        &["lz4", "-q", "-1", "-B4", "-c", text(file)?],
        bytes(file)?,
    ))
}

/// A copy that is not synced, byte for byte also where the file system could share blocks.
pub fn cp(file: &Path, to: PathBuf) -> Result<Case> {
    let command = ["cp", "--reflink=never", "--sparse=never", text(file)?, text(&to)?];
    Ok(Case {
        output: Output::File(to.clone()),
        ..Case::new("`cp`", &command, bytes(file)?)
    })
}

/// A copy that is synced.
pub fn synced_copy(file: &Path, to: PathBuf) -> Result<Case> {
    let (from, out) = (format!("if={}", text(file)?), format!("of={}", text(&to)?));
    let command = ["dd", "bs=1M", "conv=fdatasync", "status=none", &from, &out];
    Ok(Case {
        output: Output::File(to.clone()),
        ..Case::new("`dd bs=1M conv=fdatasync`", &command, bytes(file)?)
    })
}

/// XXH64, one core.
pub fn xxh64(file: &Path) -> Result<Case> {
    Ok(Case::new(
        "`xxhsum -H1`",
        &["xxhsum", "-q", "-H1", text(file)?],
        bytes(file)?,
    ))
}

/// One file of all, for yardsticks that take one.
pub fn concatenated(files: &[PathBuf], to: &Path) -> Result<()> {
    let mut out = File::create(to)?;
    for file in files {
        let mut file = File::open(file).with_context(|| file.display().to_string())?;
        io::copy(&mut file, &mut out)?;
    }
    Ok(out.sync_all()?)
}

/// The first `length` bytes of a file.
pub fn prefix(file: &Path, length: u64, to: &Path) -> Result<()> {
    use io::Read;
    let mut out = File::create(to)?;
    io::copy(&mut File::open(file)?.take(length), &mut out)?;
    Ok(out.sync_all()?)
}
