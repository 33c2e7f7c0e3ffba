//! A file system on a file, through a loop device, as a guest has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a tool that must succeed; its standard output.
pub fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{out}{err}",
        output.status
    );
    Ok(out.trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// Makes an ext4 on a file.
pub fn make_ext4(file: &Path) -> Result<()> {
    tool("mkfs.ext4", &["-q", "-F", text(file)?]).map(drop)
}

/// A mounted ext4. It is taken away when dropped, whatever became of what is below.
pub struct Mounted {
    device: String,
    place: PathBuf,
    gone: bool,
}

impl Mounted {
    /// Has the journal replayed and everything checked, then mounts it at `place`, which is made if missing.
    ///
    /// Needs root.
    pub fn ext4(file: &Path, place: &Path) -> Result<Self> {
        std::fs::create_dir_all(place)?;
        let device = tool("losetup", &["--find", "--show", text(file)?])?;
        let mounted = Self {
            device,
            place: place.to_owned(),
            gone: false,
        };
        // 1: the journal was replayed, or something like a count of free blocks set right.
        let replayed = Command::new("e2fsck")
            .args(["-p", &mounted.device])
            .output()
            .context("run e2fsck")?;
        ensure!(
            matches!(replayed.status.code(), Some(0 | 1)),
            "e2fsck -p: {}\n{}{}",
            replayed.status,
            String::from_utf8_lossy(&replayed.stdout),
            String::from_utf8_lossy(&replayed.stderr)
        );
        tool("e2fsck", &["-fn", &mounted.device])?;
        tool("mount", &[&mounted.device, text(place)?])?;
        Ok(mounted)
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// A clean unmount.
    pub fn unmount(mut self) -> Result<()> {
        tool("umount", &[text(&self.place)?])?;
        self.gone = true;
        tool("losetup", &["-d", &self.device]).map(drop)
    }

    /// Takes it away when what is below is dead.
    pub fn abandon(self) {
        drop(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // It may not be mounted yet, or any more.
        let _ = Command::new("umount").arg("-l").arg(&self.place).output();
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}
