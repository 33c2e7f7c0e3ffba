//! What every role shares: the values, formats and rules of WalB, and the plumbing to carry them.
//!
//! The flow, and where each part of it is defined:
//!
//! ```text
//!  device log --------> wlog ---------> wdiff --------> base image      format::{log_device, wlog, wdiff, base_image}
//!      convert::log_device_to_wlog  wlog_to_wdiff   merge, apply        convert
//!
//!  snapshots, diffs, what follows what                                  lineage
//!  an archive's directory, read without its daemon                      archive_files
//!  what a volume may do next, per role                                  state
//!  frames between daemons, TLS identity                                 wire
//!  requests and answers of the control plane                            rest
//!  durable files, fault points                                          disk
//!  the frame every daemon runs in                                       daemon
//! ```
//!
//! This crate knows none of the roles' decisions; nothing here depends on another crate of the workspace.

pub mod archive_files;
pub mod convert;
pub mod daemon;
pub mod disk;
pub mod format;
pub mod lineage;
pub mod rest;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;
pub mod wire;
