//! The user-space WalB device: a block device whose every write goes to a log device first.
//!
//! ```text
//!  nbd, fuse, ublk    block::BlockDevice            engine                                  log device (ring)
//!  front-ends ------> submit(IoRequest) ----------> gather, logpacks, one write per batch ----> sync -> permanent
//!                                                     |  pending set (reads look here first)
//!                                                     +--- write behind, sorted --------------> data device
//!  walb-storage       client::WalDevice             control (unix socket)
//!  wdevc ------------ status, read_log, ... ------> engine: log tail, ring, super sector
//! ```
//!
//! - [`block`]: what a front-end needs of a device.
//! - [`client`]: what `walb-storage` and `wdevc` need of a device: [`client::WalDevice`], for our own device and for those of the
//!   kernel driver ([`kernel`]).
//! - [`engine`]: the device itself: log writing, write-behind, redo, checkpoint, overflow.
//! - [`disk`]: the only place that touches the two underlying files or block devices.
//! - [`control`]: the protocol of the control socket.

pub mod block;
mod chunk_set;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod fuse;
pub mod kernel;
mod log_packs;
pub mod nbd;
pub mod ublk;
