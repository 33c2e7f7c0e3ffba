//! What a proxy stores beside its wdiff files: which volumes it serves and where their diffs go (SQLite).
//!
//! The diffs themselves have no rows: a directory listing is their only index, so there is nothing that could contradict
//! the files.

mod archive;
mod volume;

pub use volume::VolumeRow;

use std::path::Path;

use sqlx::SqlitePool;
use walb_common::daemon::database::{self, OpenError};

/// Only ever added to.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1000, "volume", volume::CREATE),
    (1001, "archive", archive::CREATE),
];

/// The daemon's tables.
#[derive(Clone)]
pub struct Metadata {
    pool: SqlitePool,
}

impl Metadata {
    /// Opens or creates the database.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            pool: database::open(path, MIGRATIONS).await?,
        })
    }

    /// For the tables that every daemon has.
    pub fn pool(&self) -> SqlitePool {
        self.pool.clone()
    }
}

/// SQLite stores signed numbers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A stored text that does not mean what it should.
fn decode_error(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

#[cfg(test)]
mod tests;
