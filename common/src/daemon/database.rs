//! SQLite as every daemon uses it: WAL mode, synchronous=FULL, one writer, migrations that are only ever added.
//!
//! The order between files and rows: a file is written, synced and renamed before its row is committed; a row is deleted
//! before its file. So a row never names a file that is not there, and a file without a row is a leftover or can be
//! taken up again from what it says of itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refuses.
    #[error("open database {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema is not one of ours, or newer than this program.
    #[error("migrate database {path}")]
    Migrate {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

/// Migrations of the tables in this module's keeping have versions below 1000; those of a daemon start at 1000.
const JOBS: (i64, &str, &str) = (
    1,
    "jobs",
    "CREATE TABLE job (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        volume TEXT,
        state TEXT NOT NULL,
        started INTEGER NOT NULL,
        ended INTEGER,
        result TEXT,
        error TEXT
    ) STRICT",
);

/// Opens (or creates) a database and brings its schema up to date. `migrations`: version (from 1000), name, SQL; a
/// migration that has once been released is never changed.
pub async fn open(
    path: &Path,
    migrations: &[(i64, &'static str, &'static str)],
) -> Result<SqlitePool, OpenError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(30));
    // One connection: SQLite has one writer anyway, and a queue in front of it is fairer than its busy loop.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })?;
    let list = std::iter::once(&JOBS)
        .chain(migrations)
        .map(|&(version, name, sql)| {
            let sql = sqlx::SqlSafeStr::into_sql_str(sql);
            Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql, false)
        });
    Migrator::with_migrations(list.collect())
        .run(&pool)
        .await
        .map_err(|source| OpenError::Migrate {
            path: path.to_owned(),
            source,
        })?;
    Ok(pool)
}
