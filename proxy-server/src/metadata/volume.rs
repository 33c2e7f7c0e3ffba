use std::collections::BTreeMap;

use sqlx::Row;
use walb_common::disk::fault;
use walb_common::rest::proxy::ArchiveInfo;
use walb_common::state::Named;
use walb_common::state::proxy::Static;
use walb_common::types::{Lb, VolumeName};

use super::{Metadata, decode_error, signed};

pub(super) const CREATE: &str = "CREATE TABLE volume (
    name TEXT PRIMARY KEY,
    -- Stopped, Started; Clear while its files are being removed
    state TEXT NOT NULL,
    size INTEGER NOT NULL
) STRICT";

/// A volume as it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRow {
    /// Its name.
    pub name: VolumeName,
    /// Its state at rest. `Clear`: it was being cleared, and its files have still to go.
    pub state: Static,
    /// The largest size announced.
    pub size: Lb,
    /// Where its diffs go.
    pub archives: BTreeMap<String, ArchiveInfo>,
}

impl Metadata {
    /// Every volume.
    pub async fn volumes(&self) -> Result<Vec<VolumeRow>, sqlx::Error> {
        let rows = sqlx::query("SELECT name, state, size FROM volume ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        let mut volumes = Vec::with_capacity(rows.len());
        for row in rows {
            let name = VolumeName::new(row.try_get("name")?).map_err(decode_error)?;
            let state: &str = row.try_get("state")?;
            let state = Static::ALL
                .iter()
                .copied()
                .find(|s| s.name() == state)
                .ok_or_else(|| {
                    decode_error(walb_common::types::ParseError::new(
                        "stored state",
                        state,
                        "Clear, Stopped or Started",
                    ))
                })?;
            let size = Lb(row.try_get::<i64, _>("size")?.unsigned_abs());
            let archives = self.archives(&name).await?;
            volumes.push(VolumeRow {
                name,
                state,
                size,
                archives,
            });
        }
        Ok(volumes)
    }

    /// Stores a state at rest of a known volume.
    pub async fn set_state(&self, volume: &VolumeName, state: Static) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.state")?;
        sqlx::query("UPDATE volume SET state = ? WHERE name = ?")
            .bind(state.name())
            .bind(volume.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Stores the largest size announced.
    pub async fn set_size(&self, volume: &VolumeName, size: Lb) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.size")?;
        sqlx::query("UPDATE volume SET size = ? WHERE name = ?")
            .bind(signed(size.0))
            .bind(volume.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets where the diffs of a volume go and marks it as being cleared, in one step.
    pub async fn begin_clear(&self, volume: &VolumeName) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.begin_clear")?;
        let mut step = self.pool.begin().await?;
        sqlx::query("DELETE FROM archive WHERE volume = ?")
            .bind(volume.as_str())
            .execute(&mut *step)
            .await?;
        sqlx::query("UPDATE volume SET state = ?, size = 0 WHERE name = ?")
            .bind(Static::Clear.name())
            .bind(volume.as_str())
            .execute(&mut *step)
            .await?;
        step.commit().await
    }

    /// Forgets a volume whose files are gone.
    pub async fn end_clear(&self, volume: &VolumeName) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.end_clear")?;
        sqlx::query("DELETE FROM volume WHERE name = ? AND state = ?")
            .bind(volume.as_str())
            .bind(Static::Clear.name())
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
