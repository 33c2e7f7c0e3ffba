use std::collections::BTreeMap;

use sqlx::Row;
use walb_common::disk::fault;
use walb_common::rest::proxy::ArchiveInfo;
use walb_common::state::Named;
use walb_common::state::proxy::Static;
use walb_common::types::VolumeName;

use super::{Metadata, decode_error, signed};

pub(super) const CREATE: &str = "CREATE TABLE archive (
    volume TEXT NOT NULL REFERENCES volume (name),
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    compression TEXT NOT NULL,
    delay_seconds INTEGER NOT NULL,
    PRIMARY KEY (volume, name)
) STRICT";

impl Metadata {
    pub(super) async fn archives(
        &self,
        volume: &VolumeName,
    ) -> Result<BTreeMap<String, ArchiveInfo>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT name, address, compression, delay_seconds FROM archive WHERE volume = ?")
                .bind(volume.as_str())
                .fetch_all(&self.pool)
                .await?;
        let mut archives = BTreeMap::new();
        for row in rows {
            let info = ArchiveInfo {
                address: row.try_get("address")?,
                compression: row
                    .try_get::<&str, _>("compression")?
                    .parse()
                    .map_err(decode_error)?,
                delay_seconds: row.try_get::<i64, _>("delay_seconds")?.unsigned_abs(),
            };
            archives.insert(row.try_get("name")?, info);
        }
        Ok(archives)
    }

    /// Adds or replaces an archive; a volume unknown until now begins as Stopped.
    pub async fn put_archive(
        &self,
        volume: &VolumeName,
        name: &str,
        info: &ArchiveInfo,
    ) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.put_archive")?;
        let mut step = self.pool.begin().await?;
        // A Clear row is what an unfinished clear left: the volume lives again.
        sqlx::query("INSERT INTO volume (name, state, size) VALUES (?1, ?2, 0) ON CONFLICT (name) DO UPDATE SET state = ?2")
            .bind(volume.as_str())
            .bind(Static::Stopped.name())
            .execute(&mut *step)
            .await?;
        sqlx::query(
            "INSERT INTO archive (volume, name, address, compression, delay_seconds) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (volume, name) DO UPDATE SET address = ?3, compression = ?4, delay_seconds = ?5",
        )
        .bind(volume.as_str())
        .bind(name)
        .bind(&info.address)
        .bind(info.compression.to_string())
        .bind(signed(info.delay_seconds))
        .execute(&mut *step)
        .await?;
        step.commit().await
    }

    /// Forgets an archive that is not the only one.
    pub async fn delete_archive(&self, volume: &VolumeName, name: &str) -> Result<(), sqlx::Error> {
        fault::point("proxy.metadata.delete_archive")?;
        sqlx::query("DELETE FROM archive WHERE volume = ? AND name = ?")
            .bind(volume.as_str())
            .bind(name)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
