//! walb-storage: follows the logs of the WalB devices of one host and gives every write away.
//!
//! ```text
//!  WalB device                      walb-storage                                      peers
//!  log device --wait_for_log--> watch_log_device --step--> send_wlog --wlog--> first available proxy
//!             <--set_oldest---- erase            <-ack, done record durable-
//!  data       --read_data-----> full_backup ------------------- bulks -------> primary archive
//! ```
//!
//! - [`plan`]: what to mark, send, remember and erase next; values only.
//! - [`continuity`]: whether the device's log is still the one that the records are about.
//! - [`metadata`]: what survives: one row per volume, its queue of snapshots, in SQLite.
//! - [`volume`]: one volume: its records, its device, its commands.
//! - [`watch_log_device`], [`send_wlog`], [`full_backup`]: the flows.
//! - [`hash_backup`]: a new beginning for a log that was lost, without sending what the archive has.
//! - [`rest`]: the routes.
//!
//! Only what a proxy has acknowledged is ever erased from a log. The order of durability, always: acknowledged by the
//! proxy, done record, queue, erased.

pub mod config;
pub mod continuity;
mod device;
pub mod full_backup;
pub mod hash_backup;
mod heal;
pub mod metadata;
pub mod plan;
pub mod rest;
pub mod send_wlog;
mod server;
pub mod volume;
pub mod watch_log_device;

pub use config::Config;
pub use server::{OpenError, StorageServer};
