//! A directory for the files of a bench, removed when it ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Makes an empty directory in `parent`, by default `bench/` in the target directory of the build.
pub fn create(parent: Option<&Path>) -> Result<TempDir> {
    let parent = match parent {
        Some(path) => path.to_owned(),
        None => beside_the_build()?,
    };
    std::fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
    let made = tempfile::Builder::new().prefix("walb-bench-").tempdir_in(&parent);
    made.with_context(|| format!("create a directory in {}", parent.display()))
}

fn beside_the_build() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("our own path")?;
    // target/PROFILE/walb-bench
    let target = exe.ancestors().nth(2).context("target directory")?;
    Ok(target.join("bench"))
}
