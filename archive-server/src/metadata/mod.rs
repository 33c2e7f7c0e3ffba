//! The index over the volumes' files, in SQLite. What a file says counts; a row that says otherwise is a contradiction,
//! told in the log and put right. Only the times of the last transfers are kept nowhere else.

mod diff_table;
mod volume_table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::SqlitePool;
use walb_common::daemon::{chain, database};
use walb_common::lineage::MetaDiff;
use walb_common::state::archive::Static;
use walb_common::types::{Timestamp, VolumeName};

pub(crate) use volume_table::VolumeRow;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1000,
        "volume",
        "CREATE TABLE volume (
            name TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            base TEXT,
            archive_uuid TEXT,
            uuid TEXT,
            last_sync INTEGER NOT NULL DEFAULT 0,
            last_wdiff_received INTEGER NOT NULL DEFAULT 0
        ) STRICT",
    ),
    (
        1001,
        "diff",
        "CREATE TABLE diff (
            volume TEXT NOT NULL,
            file TEXT NOT NULL,
            size INTEGER NOT NULL,
            PRIMARY KEY (volume, file)
        ) STRICT, WITHOUT ROWID",
    ),
];

/// The tables.
#[derive(Clone)]
pub(crate) struct Metadata {
    pool: SqlitePool,
}

/// All rows of one volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeRows {
    /// Its own row; None if only diffs are known.
    pub volume: Option<VolumeRow>,
    /// Files of its diffs.
    pub diffs: BTreeSet<String>,
}

impl Metadata {
    /// Opens (or creates) the database.
    pub async fn open(path: &Path) -> Result<Self, database::OpenError> {
        Ok(Self {
            pool: database::open(path, MIGRATIONS).await?,
        })
    }

    /// The pool, for the tables every daemon has.
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Every row, by volume.
    pub async fn load(&self) -> Result<BTreeMap<String, VolumeRows>, sqlx::Error> {
        let mut all: BTreeMap<String, VolumeRows> = BTreeMap::new();
        for (name, row) in volume_table::all(&self.pool).await? {
            all.entry(name).or_default().volume = Some(row);
        }
        for (name, file) in diff_table::all(&self.pool).await? {
            all.entry(name).or_default().diffs.insert(file);
        }
        Ok(all)
    }

    /// Makes a volume's rows say what its files say.
    pub async fn replace(
        &self,
        name: &VolumeName,
        row: &VolumeRow,
        diffs: impl Iterator<Item = MetaDiff>,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        volume_table::put(&mut transaction, name.as_str(), row).await?;
        diff_table::remove_of(&mut transaction, name.as_str()).await?;
        for diff in diffs {
            diff_table::add(&mut transaction, name, &diff).await?;
        }
        transaction.commit().await
    }

    /// Removes every row of a volume.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), sqlx::Error> {
        self.remove_named(name.as_str()).await
    }

    /// The same, by a name that need not be one.
    pub async fn remove_named(&self, name: &str) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        diff_table::remove_of(&mut transaction, name).await?;
        volume_table::remove(&mut transaction, name).await?;
        transaction.commit().await
    }

    /// A diff was received; its file is durable. `replaced` has the same ends under another name.
    pub async fn add_diff(
        &self,
        name: &VolumeName,
        diff: &MetaDiff,
        replaced: Option<&MetaDiff>,
        received: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        if let Some(replaced) = replaced {
            diff_table::remove(&mut transaction, name, replaced).await?;
        }
        diff_table::add(&mut transaction, name, diff).await?;
        volume_table::set_received(&mut transaction, name, received).await?;
        transaction.commit().await
    }

    /// The state file says so; a row that cannot be written is only late, and put right at the next start.
    pub async fn set_state_logged(&self, name: &VolumeName, state: Static) {
        late(name, volume_table::set_state(&self.pool, name, state).await);
    }

    /// A reset was done.
    pub async fn reset_logged(&self, name: &VolumeName) {
        let row = VolumeRow {
            state: Static::SyncReady.to_string(),
            ..VolumeRow::default()
        };
        late(name, self.replace(name, &row, std::iter::empty()).await);
    }
}

fn late(name: &VolumeName, result: Result<(), sqlx::Error>) {
    if let Err(error) = result {
        let error = chain(&error);
        tracing::error!(volume = %name, %error, "the index is behind the files; it will be rebuilt at the next start");
    }
}
