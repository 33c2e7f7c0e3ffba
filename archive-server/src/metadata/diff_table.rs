//! Table `diff`.

use sqlx::{Row, SqliteConnection, SqlitePool};
use walb_common::lineage::MetaDiff;
use walb_common::types::VolumeName;

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query("SELECT volume, file FROM diff")
        .fetch_all(pool)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("volume")?, row.try_get("file")?)))
        .collect()
}

pub(super) async fn add(
    db: &mut SqliteConnection,
    name: &VolumeName,
    diff: &MetaDiff,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT OR REPLACE INTO diff (volume, file, size) VALUES (?, ?, ?)")
        .bind(name.as_str())
        .bind(diff.file_name())
        .bind(i64::try_from(diff.size()).unwrap_or(i64::MAX))
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn remove(
    db: &mut SqliteConnection,
    name: &VolumeName,
    diff: &MetaDiff,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM diff WHERE volume = ? AND file = ?")
        .bind(name.as_str())
        .bind(diff.file_name())
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn remove_of(db: &mut SqliteConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM diff WHERE volume = ?")
        .bind(name)
        .execute(db)
        .await?;
    Ok(())
}
