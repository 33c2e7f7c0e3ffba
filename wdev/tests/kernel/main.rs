//! Goal: devices of the kernel driver are followed as they are. Method: a stand-in that answers the driver's ioctls in this
//! process and keeps its sysfs files; log and data devices are images that the real driver wrote.
#![allow(clippy::unwrap_used, reason = "tests")]

mod images;
mod log;
mod requests;
mod stand_in;
