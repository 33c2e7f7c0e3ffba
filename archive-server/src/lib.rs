//! walb-archive: keeps a base image and the wdiffs since, and makes any snapshot's image of them.
//!
//! ```text
//!  proxy ---- sorted wdiff ----> receive_wdiff --> DATA/VOL/*.wdiff --+
//!                                                                     +--> restore --> IMAGES/wr_VOL_GID
//!  storage -- whole image -----> full_backup ----> IMAGES/wb_VOL -----+
//!                                            `---> DATA/VOL/{base,archive_uuid,uuid,state}
//!  storage -- what differs -----> hash_backup ----> DATA/VOL/*.wdiff, over a stretch of log that was lost
//! ```
//!
//! The files are the truth (`volume`); SQLite is the index over them (`metadata`) and is rebuilt from them at every
//! start, contradictions named. Every change makes files durable first, then rows, then memory, then tells the peer.
//! Merging diffs, moving the base forward and replication will come as flows of their own beside these.

pub mod config;
mod error;
pub mod fsck;
mod full_backup;
mod hash_backup;
mod images;
mod metadata;
mod receive_wdiff;
mod rest;
mod restore;
mod server;
mod volume;

pub use config::{ArchiveSection, Config, ConfigFile};
pub use server::{ArchiveServer, OpenError};
