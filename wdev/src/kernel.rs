//! The place of the kernel driver's devices, `/dev/walb/NAME`.
//!
//! What will live here: `KernelDevice`, a second implementation of [`crate::client::WalDevice`] over the driver's interface:
//! lsids from `/sys/block/walb!NAME/walb/lsids` (with its poll events, which come only when the log was empty before), the log
//! read from `/dev/walb/LNAME`, everything else by the WDEV and CONTROL ioctls. Until then [`crate::client::DeviceSpec`]
//! recognises such a path and `open` says that it is not supported yet.

/// Where the driver makes its device nodes.
pub const DEVICE_DIR: &str = "/dev/walb/";
