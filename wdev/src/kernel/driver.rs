//! The way to the driver: its device nodes, its sysfs directories, its ioctls. A stand-in for all three makes a driver.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::Arc;

use camino::Utf8PathBuf;
use zerocopy::IntoBytes as _;

use super::DEVICE_DIR;
use super::ctl::{CONTROL, Ctl, VERSION, WDEV};

/// Makes an ioctl, or answers like the driver.
pub trait Ioctl: Send + Sync + 'static {
    /// `argument` is what the request carries, and holds the answer afterwards. The two buffers are those whose sizes a
    /// [`Ctl`] names (`u2k`: read by the driver, `k2u`: written by it); their addresses are not in `argument`.
    fn ioctl(
        &self,
        node: BorrowedFd<'_>,
        request: u32,
        argument: &mut [u8],
        u2k: &[u8],
        k2u: &mut [u8],
    ) -> io::Result<()>;
}

/// The running kernel.
#[derive(Debug)]
struct System;

impl Ioctl for System {
    fn ioctl(
        &self,
        node: BorrowedFd<'_>,
        request: u32,
        argument: &mut [u8],
        u2k: &[u8],
        k2u: &mut [u8],
    ) -> io::Result<()> {
        let result = match (request, argument.len()) {
            (VERSION, size) if size == size_of::<u32>() => {
                // SAFETY: the driver writes the four bytes of `argument`, nothing else.
                unsafe { libc::ioctl(node.as_raw_fd(), request.into(), argument.as_mut_ptr()) }
            }
            (CONTROL | WDEV, size) if size == size_of::<Ctl>() => {
                let mut ctl: Ctl = zerocopy::transmute!(
                    *argument
                        .first_chunk::<{ size_of::<Ctl>() }>()
                        .ok_or(io::ErrorKind::InvalidInput)?
                );
                if ctl.u2k.buf_size != u2k.len() as u64 || ctl.k2u.buf_size != k2u.len() as u64 {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                // As numbers, which is how the struct carries them.
                ctl.u2k.buf = u2k.as_ptr().expose_provenance() as u64;
                ctl.k2u.buf = k2u.as_mut_ptr().expose_provenance() as u64;
                // SAFETY: the driver reads and writes the whole struct, reads `u2k` and writes `k2u` within the sizes
                // checked above (an empty one not at all), and keeps no address after the call.
                let result = unsafe { libc::ioctl(node.as_raw_fd(), request.into(), &raw mut ctl) };
                (ctl.u2k.buf, ctl.k2u.buf) = (0, 0);
                argument.copy_from_slice(ctl.as_bytes());
                result
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Where the driver is found.
#[derive(Clone)]
pub struct Driver {
    /// Device nodes: `control`, `NAME`, `LNAME`.
    pub dev: Utf8PathBuf,
    /// `walb!NAME/...`.
    pub sys: Utf8PathBuf,
    /// How it is called.
    pub ioctl: Arc<dyn Ioctl>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({}, {})", self.dev, self.sys)
    }
}

/// Why a call to the driver failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node cannot be opened.
    #[error("open {node}")]
    Open {
        /// Which.
        node: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a driver that we know.
    #[error("{node} answers as walb driver {found}, expected 1.x")]
    Version {
        /// Which node.
        node: Utf8PathBuf,
        /// Its version, or what it said instead.
        found: String,
    },
    /// The driver refuses the command.
    #[error("{node}: {command} failed")]
    Refused {
        /// Which node.
        node: Utf8PathBuf,
        /// The command's name.
        command: String,
        /// The struct as it came back.
        answer: Box<Ctl>,
        /// The error number.
        #[source]
        source: io::Error,
    },
}

/// Whether a call changes something: then the node is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Look,
    Change,
}

impl Driver {
    /// The running kernel's.
    pub fn system() -> Self {
        Self {
            dev: DEVICE_DIR.trim_end_matches('/').into(),
            sys: "/sys/block".into(),
            ioctl: Arc::new(System),
        }
    }

    /// The node through which devices are started and stopped.
    pub fn control_node(&self) -> Utf8PathBuf {
        self.dev.join("control")
    }

    /// The driver's version, `(major, minor, patch)`, as the control node says.
    pub fn version(&self) -> Result<(u32, u32, u32), CallError> {
        let node = self.control_node();
        let file = open(&node, Access::Look)?;
        self.version_of(&node, &file)
    }

    /// Opens a node for one call and closes it again: an open device cannot be stopped.
    pub(super) fn call(
        &self,
        node: &Utf8PathBuf,
        access: Access,
        request: u32,
        (name, mut ctl): (String, Ctl),
        u2k: &[u8],
        k2u: &mut [u8],
    ) -> Result<Ctl, CallError> {
        let file = open(node, access)?;
        self.version_of(node, &file)?;
        ctl.u2k.buf_size = u2k.len() as u64;
        ctl.k2u.buf_size = k2u.len() as u64;
        match self
            .ioctl
            .ioctl(file.as_fd(), request, ctl.as_mut_bytes(), u2k, k2u)
        {
            Ok(()) => Ok(ctl),
            Err(source) => Err(CallError::Refused {
                node: node.clone(),
                command: name,
                answer: Box::new(ctl),
                source,
            }),
        }
    }

    fn version_of(&self, node: &Utf8PathBuf, file: &File) -> Result<(u32, u32, u32), CallError> {
        let mut raw = [0; 4];
        let found = match self.ioctl.ioctl(file.as_fd(), VERSION, &mut raw, &[], &mut []) {
            Ok(()) => u32::from_ne_bytes(raw),
            Err(source) => {
                return Err(CallError::Version {
                    node: node.clone(),
                    found: source.to_string(),
                });
            }
        };
        let (major, minor, patch) = (found >> 16, found >> 8 & 0xff, found & 0xff);
        if major != 1 {
            return Err(CallError::Version {
                node: node.clone(),
                found: format!("{major}.{minor}.{patch}"),
            });
        }
        Ok((major, minor, patch))
    }
}

fn open(node: &Utf8PathBuf, access: Access) -> Result<File, CallError> {
    OpenOptions::new()
        .read(true)
        .write(access == Access::Change)
        .open(node)
        .map_err(|source| CallError::Open {
            node: node.clone(),
            source,
        })
}
