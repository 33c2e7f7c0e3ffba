//! Table `volume`.

use sqlx::{Row, SqliteConnection, SqlitePool};
use walb_common::state::archive::Static;
use walb_common::types::{Timestamp, VolumeName};

use crate::volume::Held;

/// A row; texts are those of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeRow {
    pub state: String,
    pub base: Option<String>,
    pub archive_uuid: Option<String>,
    pub uuid: Option<String>,
    pub last_sync: Timestamp,
    pub last_wdiff_received: Timestamp,
}

impl VolumeRow {
    /// What the row of a volume says.
    pub fn of(state: Static, held: &Held) -> Self {
        let lineage = held.lineage.as_ref();
        Self {
            state: state.to_string(),
            base: lineage.map(|l| l.base.with_time()),
            archive_uuid: lineage.map(|l| l.archive_uuid.to_string()),
            uuid: lineage.map(|l| l.uuid.to_string()),
            last_sync: held.last_sync,
            last_wdiff_received: held.last_wdiff_received,
        }
    }
}

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<(String, VolumeRow)>, sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM volume").fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let time = |column: &str| row.try_get::<i64, _>(column).map(|t| Timestamp(t.unsigned_abs()));
            let found = VolumeRow {
                state: row.try_get("state")?,
                base: row.try_get("base")?,
                archive_uuid: row.try_get("archive_uuid")?,
                uuid: row.try_get("uuid")?,
                last_sync: time("last_sync")?,
                last_wdiff_received: time("last_wdiff_received")?,
            };
            Ok((row.try_get("name")?, found))
        })
        .collect()
}

pub(super) async fn put(db: &mut SqliteConnection, name: &str, row: &VolumeRow) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR REPLACE INTO volume VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(name)
        .bind(&row.state)
        .bind(&row.base)
        .bind(&row.archive_uuid)
        .bind(&row.uuid)
        .bind(signed(row.last_sync))
        .bind(signed(row.last_wdiff_received))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn set_state(
    pool: &SqlitePool,
    name: &VolumeName,
    state: Static,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO volume (name, state) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET state = excluded.state";
    sqlx::query(sql)
        .bind(name.as_str())
        .bind(state.to_string())
        .execute(pool)
        .await?;
    Ok(())
}

pub(super) async fn set_received(
    db: &mut SqliteConnection,
    name: &VolumeName,
    received: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE volume SET last_wdiff_received = ? WHERE name = ?")
        .bind(signed(received))
        .bind(name.as_str())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn remove(db: &mut SqliteConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM volume WHERE name = ?")
        .bind(name)
        .execute(db)
        .await?;
    Ok(())
}

fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}
