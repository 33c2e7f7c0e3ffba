//! Building, and where the result is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Builds all binaries; the directory they are in. Always all: of a part, dependencies would be built anew with fewer features.
pub fn binaries(release: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--quiet", "--bins", "--workspace"];
    if release {
        arguments.push("--release");
    }
    std::env::set_current_dir(root()).context("enter the workspace")?;
    crate::run::visibly("cargo", &arguments)?;
    // We were built into the same target directory ourselves.
    let exe = std::env::current_exe().context("our own path")?;
    let profile = exe.parent().context("our own directory")?;
    let target = profile.parent().context("target directory")?;
    Ok(if release {
        target.join("release")
    } else {
        profile.to_owned()
    })
}
