//! Front-end: a block device `/dev/ublkbN` of this host, through the kernel's `ublk_drv` (Linux 6.12 or later).
//!
//! ```text
//!  /dev/ublk-control   control commands, each with a bounded wait            control
//!  /dev/ublkcN         requests come and go as io_uring commands,            queue (one thread)
//!                      their data by pread and pwrite
//!  /dev/ublkbN         what users mount
//! ```
//! The device outlives the process. When walb-wdev ends, asked or not, the kernel keeps `/dev/ublkbN` and holds requests
//! back; the next walb-wdev takes the device over under the same number, and the kernel gives it again what the last one
//! had not answered. So a restart only pauses IO. The device goes away with `wdevc delete-wdev`, or with the system.
//!
//! What a crash leaves, and who settles it (`device`):
//!
//! 1. device added, not started (`wdev.ublk.added`): nobody has seen it; the next start removes it and adds it anew;
//! 2. started (`wdev.ublk.started`): the next start takes it over;
//! 3. taking over has begun (`wdev.ublk.recovery_begun`): the next start goes on where the last one was;
//! 4. the new queue is ready, requests still held back (`wdev.ublk.recovery_ready`): as 2.
//!
//! No request is lost in any of these: the kernel has answered none that we have not.

mod control;
mod device;
mod queue;
mod uapi;

pub use control::CommandError;
pub use device::{UblkDevice, UblkError, remove_left};
