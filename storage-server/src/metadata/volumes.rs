//! Tables `volume` (one row per volume) and `queued` (its snapshots that are not delivered yet).

use std::collections::HashSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};
use walb_common::disk::fault;
use walb_common::state::storage::State;
use walb_common::types::{Gid, Lsid, Timestamp, VolumeName};

use super::MetadataError;
use crate::plan::LsidGid;
use crate::volume::Records;

pub(super) const SCHEMA: &str = "
    CREATE TABLE volume (
        name TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        device TEXT NOT NULL UNIQUE,
        uuid TEXT NOT NULL,
        done_lsid INTEGER NOT NULL,
        done_gid INTEGER NOT NULL,
        done_mergeable INTEGER NOT NULL,
        done_timestamp INTEGER NOT NULL,
        failed TEXT
    ) STRICT;
    CREATE TABLE queued (
        volume TEXT NOT NULL REFERENCES volume(name) ON DELETE CASCADE,
        gid INTEGER NOT NULL,
        lsid INTEGER NOT NULL,
        mergeable INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        PRIMARY KEY (volume, gid)
    ) STRICT, WITHOUT ROWID;";

/// What concerns hash backups, as JSON: nobody searches by it.
pub(super) const HASH_BACKUPS: &str = "
    ALTER TABLE volume ADD COLUMN backup TEXT;
    ALTER TABLE volume ADD COLUMN shipped TEXT;
    ALTER TABLE volume ADD COLUMN last_backup TEXT;";

// Columns by name: a later migration may add some.
const INSERT_VOLUME: &str = "INSERT INTO volume
    (name, state, device, uuid, done_lsid, done_gid, done_mergeable, done_timestamp, failed)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
const INSERT_QUEUED: &str =
    "INSERT INTO queued (volume, gid, lsid, mergeable, timestamp) VALUES (?, ?, ?, ?, ?)";

/// One stored volume: its records, or why they cannot be understood. A bad one keeps no other from being loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Its name as stored.
    pub name: String,
    /// Its records.
    pub records: Result<Records, String>,
}

/// The volumes' tables.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    pool: SqlitePool,
}

impl VolumeStore {
    /// Over a database that has the tables.
    pub fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Every volume.
    pub async fn load(&self) -> Result<Vec<Loaded>, MetadataError> {
        let failed = |source| MetadataError::Database {
            act: "read",
            volume: "*".to_owned(),
            source,
        };
        let rows = sqlx::query("SELECT * FROM volume ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(failed)?;
        let mut volumes = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: String = row.try_get("name").map_err(failed)?;
            let queue = sqlx::query("SELECT * FROM queued WHERE volume = ?")
                .bind(&name)
                .fetch_all(&self.pool);
            let queue = queue.await.map_err(failed)?;
            volumes.push(Loaded {
                name,
                records: decode(row, &queue),
            });
        }
        Ok(volumes)
    }

    /// A new volume.
    pub async fn insert(&self, name: &VolumeName, records: &Records) -> Result<(), MetadataError> {
        fault::point("storage.init.storing").map_err(|source| MetadataError::Fault {
            volume: name.clone(),
            source,
        })?;
        let done = &records.done;
        let result = sqlx::query(INSERT_VOLUME)
            .bind(name.as_str())
            .bind(State::from(records.state).name())
            .bind(&records.device)
            .bind(records.uuid.to_string())
            .bind(done.lsid.0.cast_signed())
            .bind(done.gid.0.cast_signed())
            .bind(done.mergeable)
            .bind(done.timestamp.0.cast_signed())
            .bind(&records.failed)
            .execute(&self.pool)
            .await;
        match result {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Err(MetadataError::DeviceUsed {
                device: records.device.clone(),
            }),
            Err(source) => Err(MetadataError::Database {
                act: "store",
                volume: name.to_string(),
                source,
            }),
        }
    }

    /// Forgets a volume.
    pub async fn delete(&self, name: &VolumeName) -> Result<(), MetadataError> {
        fault::point("storage.clear.storing").map_err(|source| MetadataError::Fault {
            volume: name.clone(),
            source,
        })?;
        sqlx::query("DELETE FROM volume WHERE name = ?")
            .bind(name.as_str())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(|source| MetadataError::Database {
                act: "delete",
                volume: name.to_string(),
                source,
            })
    }

    /// Replaces a volume's records, all or nothing; only what differs is written.
    pub async fn replace(
        &self,
        name: &VolumeName,
        old: &Records,
        new: &Records,
    ) -> Result<(), MetadataError> {
        let failed = |source| MetadataError::Database {
            act: "store",
            volume: name.to_string(),
            source,
        };
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let changed = update(&mut transaction, name, new).await.map_err(failed)?;
        if changed != 1 {
            return Err(MetadataError::Missing {
                volume: name.clone(),
                changed,
            });
        }
        update_queue(&mut transaction, name, &old.queue, &new.queue)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }
}

async fn update(db: &mut SqliteConnection, name: &VolumeName, new: &Records) -> Result<u64, sqlx::Error> {
    let done = &new.done;
    sqlx::query(
        "UPDATE volume SET state = ?, uuid = ?, done_lsid = ?, done_gid = ?, done_mergeable = ?, done_timestamp = ?,
         failed = ?, backup = ?, shipped = ?, last_backup = ? WHERE name = ?",
    )
    .bind(State::from(new.state).name())
    .bind(new.uuid.to_string())
    .bind(done.lsid.0.cast_signed())
    .bind(done.gid.0.cast_signed())
    .bind(done.mergeable)
    .bind(done.timestamp.0.cast_signed())
    .bind(&new.failed)
    .bind(encode(new.backup.as_ref())?)
    .bind(encode(new.shipped.as_ref())?)
    .bind(encode(new.last_backup.as_ref())?)
    .bind(name.as_str())
    .execute(db)
    .await
    .map(|result| result.rows_affected())
}

async fn update_queue(
    db: &mut SqliteConnection,
    name: &VolumeName,
    old: &[LsidGid],
    new: &[LsidGid],
) -> Result<(), sqlx::Error> {
    // A gid names one record for as long as the log lives; after a reset the same gid may mean another.
    let kept: HashSet<(Gid, Lsid)> = new.iter().map(|r| (r.gid, r.lsid)).collect();
    for record in old.iter().filter(|r| !kept.contains(&(r.gid, r.lsid))) {
        sqlx::query("DELETE FROM queued WHERE volume = ? AND gid = ?")
            .bind(name.as_str())
            .bind(record.gid.0.cast_signed())
            .execute(&mut *db)
            .await?;
    }
    let known: HashSet<(Gid, Lsid)> = old.iter().map(|r| (r.gid, r.lsid)).collect();
    for record in new.iter().filter(|r| !known.contains(&(r.gid, r.lsid))) {
        sqlx::query(INSERT_QUEUED)
            .bind(name.as_str())
            .bind(record.gid.0.cast_signed())
            .bind(record.lsid.0.cast_signed())
            .bind(record.mergeable)
            .bind(record.timestamp.0.cast_signed())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

fn encode<T: Serialize>(value: Option<&T>) -> Result<Option<String>, sqlx::Error> {
    value
        .map(serde_json::to_string)
        .transpose()
        .map_err(|e| sqlx::Error::Encode(e.into()))
}

fn json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>, String> {
    let text: Option<String> = row.try_get(column).map_err(|e| format!("column {column}: {e}"))?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|e| format!("column {column}: {e}"))
}

fn decode(row: &SqliteRow, queue: &[SqliteRow]) -> Result<Records, String> {
    let text = |column: &str| {
        row.try_get::<String, _>(column)
            .map_err(|e| format!("column {column}: {e}"))
    };
    let state: State = text("state")?.parse().map_err(|e| format!("{e}"))?;
    let state = state
        .at_rest()
        .ok_or_else(|| format!("state {state} is stored: expected one at rest"))?;
    let uuid = text("uuid")?.parse().map_err(|e| format!("{e}"))?;
    let done = record(row, "done_lsid", "done_gid", "done_mergeable", "done_timestamp")?;
    let mut queue = queue
        .iter()
        .map(|row| record(row, "lsid", "gid", "mergeable", "timestamp"))
        .collect::<Result<Vec<_>, _>>()?;
    queue.sort_by_key(|r| r.gid);
    if let Some(pair) = queue.windows(2).find(|p| p[0].lsid > p[1].lsid) {
        let (a, b) = (pair[0], pair[1]);
        return Err(format!(
            "snapshot {} at lsid {} is followed by snapshot {} at lsid {}: expected lsids to grow with gids",
            a.gid, a.lsid, b.gid, b.lsid
        ));
    }
    let failed = row.try_get("failed").map_err(|e| format!("column failed: {e}"))?;
    Ok(Records {
        state,
        device: text("device")?,
        uuid,
        done,
        queue,
        failed,
        backup: json(row, "backup")?,
        shipped: json(row, "shipped")?,
        // Only shown; one of another version is no reason to fail.
        last_backup: json(row, "last_backup").unwrap_or_default(),
    })
}

fn record(
    row: &SqliteRow,
    lsid: &str,
    gid: &str,
    mergeable: &str,
    timestamp: &str,
) -> Result<LsidGid, String> {
    let number = |column: &str| {
        row.try_get::<i64, _>(column)
            .map_err(|e| format!("column {column}: {e}"))
            .map(i64::cast_unsigned)
    };
    Ok(LsidGid {
        lsid: Lsid(number(lsid)?),
        gid: Gid(number(gid)?),
        mergeable: number(mergeable)? != 0,
        timestamp: Timestamp(number(timestamp)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Intent, Shipped};
    use walb_common::daemon::database;
    use walb_common::state::storage::Static;
    use walb_common::types::{Lb, Uuid};

    fn record(lsid: u64, gid: u64) -> LsidGid {
        LsidGid {
            lsid: Lsid(lsid),
            gid: Gid(gid),
            mergeable: gid.is_multiple_of(2),
            timestamp: Timestamp(gid),
        }
    }

    fn records() -> Records {
        Records::initial("wdev:d0".to_owned(), Timestamp(7))
    }

    async fn store(dir: &std::path::Path) -> VolumeStore {
        let pool = database::open(&dir.join("metadata.sqlite"), super::super::MIGRATIONS)
            .await
            .unwrap();
        VolumeStore::new(pool)
    }

    #[tokio::test]
    async fn records_come_back_as_they_were_stored() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("vol0").unwrap();
        let first = records();
        let second = Records {
            state: Static::Target,
            uuid: Uuid([9; 16]),
            done: record(5, 1),
            queue: vec![record(6, 2), record(u64::MAX - 1, 3)],
            failed: Some("why".to_owned()),
            backup: Some(Intent {
                gid: Gid(9),
                old: Uuid([4; 16]),
                reset: true,
                bulk: Lb(512),
                full_compare: false,
                why: "asked for".to_owned(),
            }),
            shipped: Some(Shipped {
                uuid: Uuid([5; 16]),
                lsid: Lsid(8),
                gid: Gid(7),
            }),
            ..first.clone()
        };
        let third = Records {
            queue: vec![record(u64::MAX - 1, 3), record(u64::MAX - 1, 4)],
            ..second.clone()
        };
        {
            let store = store(dir.path()).await;
            store.insert(&name, &first).await.unwrap();
            assert_eq!(store.load().await.unwrap()[0].records, Ok(first.clone()));
            store.replace(&name, &first, &second).await.unwrap();
            store.replace(&name, &second, &third).await.unwrap();
        }
        let store = store(dir.path()).await;
        let loaded = store.load().await.unwrap();
        assert_eq!((loaded.len(), loaded[0].name.as_str()), (1, "vol0"));
        assert_eq!(loaded[0].records, Ok(third));
        store.delete(&name).await.unwrap();
        assert!(store.load().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_queue_that_is_replaced_after_a_reset_may_use_the_same_gids() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("vol0").unwrap();
        let store = store(dir.path()).await;
        let old = Records {
            queue: vec![record(50, 1)],
            ..records()
        };
        store.insert(&name, &records()).await.unwrap();
        store.replace(&name, &records(), &old).await.unwrap();
        let new = Records {
            queue: vec![record(2, 1)],
            ..records()
        };
        store.replace(&name, &old, &new).await.unwrap();
        assert_eq!(store.load().await.unwrap()[0].records, Ok(new));
    }

    #[tokio::test]
    async fn a_device_is_stored_for_one_volume_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        store
            .insert(&VolumeName::new("vol0").unwrap(), &records())
            .await
            .unwrap();
        let error = store
            .insert(&VolumeName::new("vol1").unwrap(), &records())
            .await
            .unwrap_err();
        assert!(matches!(error, MetadataError::DeviceUsed { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_row_that_makes_no_sense_spoils_only_its_own_volume() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        store
            .insert(&VolumeName::new("vol0").unwrap(), &records())
            .await
            .unwrap();
        let other = Records {
            device: "wdev:d1".to_owned(),
            ..records()
        };
        store
            .insert(&VolumeName::new("vol1").unwrap(), &other)
            .await
            .unwrap();
        sqlx::query("UPDATE volume SET state = 'FullSync' WHERE name = 'vol0'")
            .execute(&store.pool)
            .await
            .unwrap();
        let loaded = store.load().await.unwrap();
        assert!(
            loaded[0]
                .records
                .as_ref()
                .unwrap_err()
                .contains("expected one at rest")
        );
        assert_eq!(loaded[1].records, Ok(other));
    }
}
