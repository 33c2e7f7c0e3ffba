//! What a guest does with a disk: a file system, checked writes, discards, and a check at the end.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::tools::{MOUNTPOINT, fio, mount_at, run, unmount_it};

/// A file system.
#[derive(Clone, Copy)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Makes one.
    pub fn make(self, device: &str) -> Result<()> {
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-F", device]),
            Self::Xfs => run("mkfs.xfs", &["-q", "-f", device]),
        }
        .map(drop)
    }

    /// Looks for damage; changes nothing.
    pub fn check(self, device: &str) -> Result<()> {
        match self {
            Self::Ext4 => run("e2fsck", &["-f", "-n", device]),
            Self::Xfs => run("xfs_repair", &["-n", device]),
        }
        .map(drop)
    }
}

/// Makes a file system, writes files and checks them, deletes and discards, and has it checked in the end.
pub fn exercise(device: &str, kind: Kind) -> Result<()> {
    kind.make(device)?;
    mount_at(device, kind.name())?;
    let kept = format!("{MOUNTPOINT}/kept");
    fs::write(&kept, content(3)).with_context(|| format!("write {kept}"))?;
    fio(&format!("{MOUNTPOINT}/fio"), 12)?;
    fs::remove_file(format!("{MOUNTPOINT}/fio")).context("remove fio's file")?;
    rustix::fs::sync();
    run("fstrim", &["-v", MOUNTPOINT])?;
    unmount_it()?;
    kind.check(device)?;
    mount_at(device, kind.name())?;
    let found = fs::read(&kept).with_context(|| format!("read {kept}"))?;
    ensure!(found == content(3), "{kept} has changed");
    unmount_it()
}

/// Bytes that look like no other.
fn content(seed: u32) -> Vec<u8> {
    let mut n = seed;
    let mut bytes = Vec::with_capacity(3 << 20);
    while bytes.len() < 3 << 20 {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push(n.to_le_bytes()[3]);
    }
    bytes
}
