//! Devices of the kernel driver, `/dev/walb/NAME`: the second kind of [`WalDevice`](crate::client::WalDevice). Installations
//! that have them can be followed and backed up as they are.
//!
//! ```text
//!  /sys/block/walb!NAME/walb/   positions of the log, uuid, state      sysfs
//!  /dev/walb/LNAME              super sector and ring, read-only       direct_file, the ring by crate::log_packs
//!  /dev/walb/NAME               data; ioctls that change things        direct_file, driver + ctl
//!  /dev/walb/control            version                                driver + ctl
//! ```
//!
//! - No node stays open between calls: the driver does not stop a device that somebody has open.
//! - The log and the data are read beside the page cache, which nobody keeps up to date there.
//! - The driver wakes a follower only when all log had been released before. Log is released up to the last checkpoint, hence
//!   mostly some is left, hence a follower looks at regular intervals ([`KernelDevice`] does) and the event is not used.

pub mod ctl;
mod device;
mod direct_file;
mod driver;
mod sysfs;

pub use device::KernelDevice;
pub use driver::{CallError, Driver, Ioctl};

/// Where the driver makes its device nodes.
pub const DEVICE_DIR: &str = "/dev/walb/";
