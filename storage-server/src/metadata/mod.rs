//! What survives a restart: SQLite, one transaction per step.

mod volumes;

use walb_common::types::VolumeName;

pub use volumes::{Loaded, VolumeStore};

/// Migrations; those of a daemon start at version 1000. Never changed once released.
pub const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1000, "volumes", volumes::SCHEMA),
    (1001, "hash backups", volumes::HASH_BACKUPS),
];

/// The database could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// SQLite failed.
    #[error("{act} the records of {volume}")]
    Database {
        /// What we were doing.
        act: &'static str,
        /// Which volume; `*` for all.
        volume: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A test made the step fail.
    #[error("store the records of {volume}")]
    Fault {
        /// Which volume.
        volume: VolumeName,
        /// The error asked for.
        #[source]
        source: std::io::Error,
    },
    /// A device belongs to one volume only.
    #[error("{device} is already used by another volume")]
    DeviceUsed {
        /// Which device.
        device: String,
    },
    /// The row is gone.
    #[error("the records of {volume} are gone: expected one row, changed {changed}")]
    Missing {
        /// Which volume.
        volume: VolumeName,
        /// Rows changed.
        changed: u64,
    },
    /// The task that stored them died.
    #[error("storing the records ended early: {0}")]
    Task(tokio::task::JoinError),
}
