//! FUSE front-end: a block device as one file, for kernels without NBD or ublk. The file can be loop-mounted.
//!
//! ```text
//!  guest file system --> /dev/loopN --> MOUNTPOINT/NAME --> kernel's fuse --> this process --> BlockDevice::submit
//! ```
//!
//! - The file is opened with `FOPEN_DIRECT_IO`: the kernel keeps no pages of it, so a write through the loop device has
//!   reached the device when the loop device reports it done, and `fsync` (which is what a guest's flush becomes)
//!   becomes [`IoOp::Flush`](crate::block::IoOp::Flush) after them. `losetup` works on it both with and without
//!   `--direct-io=on`; both were checked on Linux 6.18.
//! - Punching a hole (a loop device's discard) becomes a discard, zeroing a range becomes zeroes. A loop device also
//!   punches holes where its user asked for zeroes, so a device must read zeroes after a discard.
//! - Requests are answered from the device's callbacks, many at a time. Those that do not cover whole blocks of 512 bytes
//!   (never a loop device's) are read, changed and written back, alone in their range: see `range_lock`.
//!
//! **Memory.** When the kernel is short of memory it writes a guest's dirty pages through this process. If this process
//! then waits for memory that only that write-back can free, both wait for ever. So a daemon that serves a file for
//! loop devices on its own host must lock its pages (`mlockall`), keep its buffers bounded, and should be marked with
//! `PR_SET_IO_FLUSHER` (see [`mark_as_io_path`]); its log and data files should be block devices or opened with
//! `O_DIRECT`. For heavy production use prefer NBD or ublk.

mod bytes_io;
mod filesystem;
mod handle;
mod range_lock;

pub use handle::{FuseError, FuseHandle, mark_as_io_path, mount};
