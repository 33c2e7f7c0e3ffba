//! The volume: log and data device as files, a WalB device, the kernel's block device over it, ext4 on that.
//!
//! ```text
//! ext4 -> /dev/loopN -> DIR/fuse/vol0 (FUSE) -> walb-wdev -> vol0.ldev, vol0.ddev
//! ```
//! FUSE and loop are there on every kernel; nbd and ublk are not.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::cleanup::Cleanup;
use super::daemons::Daemons;
use super::{VOLUME, text};
use crate::run;

/// The mounted volume.
pub struct Disk {
    device: String,
    mount_point: PathBuf,
    size: u64,
}

impl Disk {
    /// Makes everything up to the mounted file system.
    pub fn create(daemons: &Daemons, dir: &Path, size: u64, cleanup: &mut Cleanup) -> Result<Self> {
        let (log, data) = (dir.join("vol0.ldev"), dir.join("vol0.ddev"));
        File::create(&log)?.set_len((size / 2).clamp(128 << 20, 1 << 30))?;
        File::create(&data)?.set_len(size)?;
        let (fuse, nbd) = (dir.join("fuse"), dir.join("vol0.nbd"));
        std::fs::create_dir_all(&fuse)?;
        daemons.wdevc(&[
            "format-ldev",
            text(&log)?,
            text(&data)?,
            "-n",
            VOLUME,
            "-pbs",
            "4096",
        ])?;
        #[rustfmt::skip]
        daemons.wdevc(&[
            "create-wdev", text(&log)?, text(&data)?, "-n", VOLUME, "-nbd", text(&nbd)?, "-fuse", text(&fuse)?,
        ])?;
        let file = fuse.join(VOLUME);
        let device = run::quietly("losetup", &["--find", "--show", text(&file)?])?;
        cleanup.add(format!("losetup -d {device}"))?;
        run::quietly("mkfs.ext4", &["-q", "-F", &device])?;
        let mount_point = dir.join("mnt");
        std::fs::create_dir_all(&mount_point)?;
        run::quietly("mount", &[&device, text(&mount_point)?])?;
        // A failure between freeze and thaw must not leave it frozen: nothing could be unmounted then.
        let point = mount_point.display();
        cleanup.add(format!(
            "fsfreeze -u {point} 2>/dev/null; umount {point} || umount -l {point}"
        ))?;
        Ok(Self {
            device,
            mount_point,
            size,
        })
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Copies a real tree onto it, as much as a quarter of the volume takes; number of files and bytes.
    pub fn fill(&self) -> Result<(u64, u64)> {
        let target = self.mount_point.join("tree");
        std::fs::create_dir_all(&target)?;
        let mut room = self.size / 4;
        let mut files = 0;
        let sources = [
            crate::build::root(),
            "/usr/include".into(),
            "/usr/lib/python3".into(),
            "/usr/share".into(),
        ];
        for source in sources.iter().filter(|s| s.is_dir()) {
            let name = source.file_name().unwrap_or_default();
            copy_tree(source, &target.join(name), &mut room, &mut files)?;
        }
        Ok((files, self.size / 4 - room))
    }

    /// Freezes the file system until the guard is dropped.
    pub fn freeze(&self) -> Result<Frozen<'_>> {
        run::quietly("fsfreeze", &["-f", text(&self.mount_point)?])?;
        Ok(Frozen(&self.mount_point))
    }

    /// SHA-256 of the whole device, read past every cache.
    pub fn digest(&self) -> Result<String> {
        let input = format!("if={}", self.device);
        let mut dd = Command::new("dd")
            .args([&input, "bs=1M", "iflag=direct", "status=none"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run dd")?;
        let output = dd.stdout.take().context("output of dd")?;
        let (digest, size) = digest(output)?;
        ensure!(dd.wait()?.success(), "dd of {} failed", self.device);
        ensure!(
            size == self.size,
            "{} has {size} bytes: expected {}",
            self.device,
            self.size
        );
        Ok(digest)
    }
}

/// Thaws when dropped.
pub struct Frozen<'a>(&'a Path);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = text(self.0).and_then(|point| run::quietly("fsfreeze", &["-u", point]));
        if let Err(error) = thawed {
            eprintln!("{error:#}");
        }
    }
}

/// Regular files, directories and links; stops quietly when there is no more room.
fn copy_tree(from: &Path, to: &Path, room: &mut u64, files: &mut u64) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let mut entries: Vec<_> = std::fs::read_dir(from)?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        crate::interrupt::check()?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        // Build output would fill the volume with what nobody looks at.
        if name.to_string_lossy().starts_with("target") {
            continue;
        }
        let target = to.join(&name);
        if kind.is_dir() {
            copy_tree(&entry.path(), &target, room, files)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            let size = entry.metadata()?.len();
            if size > *room {
                continue;
            }
            // A file that vanishes or cannot be read meanwhile is no reason to fail.
            if std::fs::copy(entry.path(), &target).is_ok() {
                *room -= size;
                *files += 1;
            }
        }
    }
    Ok(())
}

/// SHA-256 of a file.
pub fn digest_file(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(digest(file)?.0)
}

fn digest(mut input: impl Read) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        write!(hex, "{byte:02x}")?;
    }
    Ok((hex, size))
}

/// An image mounted read-only until dropped.
pub struct ReadOnlyMount(PathBuf);

impl ReadOnlyMount {
    /// Mounts `image` at `point`.
    pub fn of(image: &Path, point: &Path) -> Result<Self> {
        std::fs::create_dir_all(point)?;
        run::quietly("mount", &["-o", "loop,ro,noload", text(image)?, text(point)?])?;
        Ok(Self(point.to_owned()))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        if let Err(error) = text(&self.0).and_then(|point| run::quietly("umount", &[point])) {
            eprintln!("{error:#}");
        }
    }
}
