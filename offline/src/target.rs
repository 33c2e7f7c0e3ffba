//! Images and devices that a command changes in place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, OFlags, flock};
use walb_common::convert::ImageTarget;

/// A regular file or a block device, opened to be changed and locked against everybody who asks.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Target {
    /// Opens it. One that is mounted, or that another process holds, is refused.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let kind = fs::metadata(path)
            .with_context(|| format!("open {name}"))?
            .file_type();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if kind.is_block_device() {
            // Without O_CREAT this means: fail when mounted or claimed by anybody else.
            options.custom_flags(OFlags::EXCL.bits().cast_signed());
        } else if !kind.is_file() {
            bail!("{name} is neither a regular file nor a block device");
        }
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => bail!("{name} is in use"),
            result => result.with_context(|| format!("open {name}"))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!("{name} is in use: somebody has locked it"),
            Err(error) => return Err(error).with_context(|| format!("lock {name}")),
        }
        let size = file.size().with_context(|| format!("size {name}"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// Bytes, as of the opening.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its name for messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}
