//! Mounting and unmounting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::UnmountFlags;

use super::bytes_io::BytesIo;
use super::filesystem::DeviceFile;
use crate::block::BlockDevice;

/// Why a device could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The name cannot be a file's.
    #[error("FUSE file name {name:?}: expected 1 to 255 bytes without a slash")]
    Name {
        /// The name.
        name: String,
    },
    /// Something else is mounted there.
    #[error("FUSE mountpoint {}: already a mountpoint", mountpoint.display())]
    Occupied {
        /// The mountpoint.
        mountpoint: PathBuf,
    },
    /// Somebody has the file open, for example a loop device.
    #[error("FUSE mountpoint {}: still in use (a loop device? see losetup -l)", mountpoint.display())]
    Busy {
        /// The mountpoint.
        mountpoint: PathBuf,
    },
    /// A system call failed.
    #[error("FUSE mountpoint {}: {act}", mountpoint.display())]
    Io {
        /// The mountpoint.
        mountpoint: PathBuf,
        /// What was being done.
        act: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// The largest single read or write: what fits the kernel's default of 256 pages per request.
pub(super) const MAX_IO: u32 = 1 << 20;

/// A mounted device file. Dropping it unmounts: if somebody still uses the file, the mount disappears from the
/// directory tree at once, and the user gets EIO from then on.
#[derive(Debug)]
pub struct FuseHandle {
    mountpoint: PathBuf,
    file: PathBuf,
    io: Arc<BytesIo>,
    session: Option<BackgroundSession>,
}

/// Shows `device` as the file `mountpoint/name` (mode 0600, for root alone), and serves it until the handle is dropped.
///
/// The mountpoint is made if it is missing. A mount left there by a process that died is taken away first; any other
/// mount is left alone and refused.
pub fn mount(device: Arc<dyn BlockDevice>, name: &str, mountpoint: &Path) -> Result<FuseHandle, FuseError> {
    let failed = |act| {
        move |source| FuseError::Io {
            mountpoint: mountpoint.to_owned(),
            act,
            source,
        }
    };
    if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(FuseError::Name {
            name: name.chars().take(300).collect(),
        });
    }
    detach_dead_mounts(mountpoint).map_err(failed("take away the mount of a dead process"))?;
    std::fs::create_dir_all(mountpoint).map_err(failed("make the directory"))?;
    if is_mountpoint(mountpoint).map_err(failed("look at it"))? {
        return Err(FuseError::Occupied {
            mountpoint: mountpoint.to_owned(),
        });
    }
    let io = BytesIo::new(device);
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("walb-{name}")),
        MountOption::Subtype("walb".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    let session = Session::new(DeviceFile::new(name, io.clone()), mountpoint, &config)
        .and_then(Session::spawn)
        .map_err(failed("mount"))?;
    Ok(FuseHandle {
        mountpoint: mountpoint.to_owned(),
        file: mountpoint.join(name),
        io,
        session: Some(session),
    })
}

impl FuseHandle {
    /// The device file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Unmounts, or refuses, still serving, while somebody uses the file.
    pub fn unmount(&mut self) -> Result<(), FuseError> {
        match rustix::mount::unmount(&self.mountpoint, UnmountFlags::NOFOLLOW) {
            Err(rustix::io::Errno::BUSY) => Err(FuseError::Busy {
                mountpoint: self.mountpoint.clone(),
            }),
            // Somebody else has unmounted it: that is what was wanted.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
                self.io.close();
                self.end_session();
                Ok(())
            }
            Err(source) => Err(FuseError::Io {
                mountpoint: self.mountpoint.clone(),
                act: "unmount",
                source: source.into(),
            }),
        }
    }

    /// Waits for the session's thread, which ends when the file system is unmounted.
    fn end_session(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        // The thread first, the rest of the session after it: only then does the session see that it is unmounted, and
        // does not try to unmount whatever is at the mountpoint by then.
        match session.guard.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "FUSE session ended with an error");
            }
            Err(_) => tracing::error!(mountpoint = %self.mountpoint.display(), "FUSE session panicked"),
        }
    }
}

impl Drop for FuseHandle {
    fn drop(&mut self) {
        if self.session.is_none() {
            return;
        }
        let Err(error) = self.unmount() else { return };
        tracing::warn!(%error, "FUSE mount taken out of the tree; whoever uses the file gets EIO");
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = rustix::mount::unmount(&self.mountpoint, flags) {
            tracing::warn!(mountpoint = %self.mountpoint.display(), %error, "FUSE mount not taken out of the tree");
        }
        // After this no request reaches the device. The session's thread lives on, answering EIO, until the last user
        // closes the file: waiting for that could take for ever.
        self.io.close();
        drop(self.session.take());
    }
}

/// Takes away mounts whose process has died: everything in them answers "Transport endpoint is not connected".
fn detach_dead_mounts(mountpoint: &Path) -> io::Result<()> {
    const STACKED_MAX: usize = 16;
    for _ in 0..STACKED_MAX {
        match std::fs::metadata(mountpoint) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
                tracing::info!(mountpoint = %mountpoint.display(), "taking away the FUSE mount of a dead process");
                rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn is_mountpoint(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Tells the kernel that this thread, and every thread it starts later, serves block IO: when short of memory, its
/// allocations must not wait for write-back that would come to us. Needs `CAP_SYS_RESOURCE`; call it early in `main`.
pub fn mark_as_io_path() -> io::Result<()> {
    Ok(rustix::process::configure_io_flusher_behavior(true)?)
}
