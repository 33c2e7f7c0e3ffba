//! A hash backup that has begun: what of it is durable, in the volume's directory.
//!
//! ```text
//!  hash_backup        the record: which log, from which snapshot, how far; replaced durably as it goes on
//!  hash_backup.part   what has come: the beginning of a sorted wdiff; only its first `bytes` count
//! ```
//! Order: the log is reset at the storage, the record, part and record in turns, the record with the snapshot. That last
//! one is the commit: from there on [`finish`] carries it through, now or at the next start, whatever is done already.
//! While there is a record no other diff is taken: what comes from the old log would move the latest snapshot on, past
//! the one that the backup is compared with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use walb_common::daemon::chain;
use walb_common::disk::{fault, remove_durable, rename_durable, replace_durable};
use walb_common::lineage::{DiffError, MetaDiff, Snapshot};
use walb_common::types::{Gid, Lb, Timestamp, Uuid};

use crate::error::{At, FileError};
use crate::volume::VolumeDir;

/// The record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pending {
    /// Life of the storage's log since its reset.
    pub uuid: Uuid,
    /// The snapshot that the device is compared with.
    pub from: Snapshot,
    /// The gid that the log began with.
    pub gid: Gid,
    /// Size of the volume.
    pub size: Lb,
    /// Size of the chunks compared.
    pub bulk: Lb,
    /// Time of the snapshot it leads to.
    pub timestamp: Timestamp,
    /// Everything below has come, and is in the part.
    pub address: Lb,
    /// Bytes of the part that count.
    pub bytes: u64,
    /// Whether the part is a whole wdiff, with its end.
    pub ended: bool,
    /// The snapshot it leads to: it is committed.
    pub snapshot: Option<Snapshot>,
}

impl Pending {
    /// The diff, once committed.
    pub fn diff(&self) -> Option<Result<MetaDiff, DiffError>> {
        let diff = MetaDiff::new(self.from, self.snapshot?);
        // The snapshot it starts from was explicit if it was one at all, so nothing is merged over it.
        Some(diff.map(|diff| {
            diff.with_mergeable(!self.from.is_clean())
                .with_timestamp(self.timestamp)
                .with_size(self.bytes)
        }))
    }

    /// Stores the record.
    pub fn store(&self, dir: &VolumeDir) -> Result<(), FileError> {
        let path = record(dir);
        let text = serde_json::to_string(self)
            .map_err(io::Error::other)
            .at("encode", &path)?;
        replace_durable(&path, format!("{text}\n").as_bytes()).at("write", &path)
    }
}

fn record(dir: &VolumeDir) -> PathBuf {
    dir.path().join("hash_backup")
}

/// Where what comes is gathered.
pub(super) fn part(dir: &VolumeDir) -> PathBuf {
    dir.path().join("hash_backup.part")
}

/// Reads the record, if there is one.
fn load(dir: &VolumeDir) -> Result<Option<Pending>, FileError> {
    let path = record(dir);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
            .at("read", &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", &path),
    }
}

/// Gives a backup up: record first, or it would stand for a part that is gone.
pub(super) fn drop_pending(dir: &VolumeDir) -> Result<(), FileError> {
    for path in [record(dir), part(dir)] {
        remove_durable(&path).at("remove", &path)?;
    }
    Ok(())
}

/// Carries a committed backup through: the part gets the diff's name, the volume the log's uuid, the record goes. Each
/// step may have been done already.
pub(super) fn finish(dir: &VolumeDir, pending: &Pending, diff: &MetaDiff) -> Result<(), FileError> {
    let (from, to) = (part(dir), dir.diff(diff));
    if exists(&from)? {
        rename_durable(&from, &to).at("rename to", &to)?;
    } else if !exists(&to)? {
        // Without it the log that follows would continue a snapshot that nobody has.
        return Err(io::Error::from(io::ErrorKind::NotFound))
            .at("find the diff of a committed hash backup in", &from);
    }
    fault::point("archive.hash.renamed").at("rename to", &to)?;
    dir.store_uuid(pending.uuid)?;
    fault::point("archive.hash.uuid_stored").at("write", dir.path())?;
    let path = record(dir);
    remove_durable(&path).at("remove", &path)?;
    fault::point("archive.hash.record_removed").at("remove", &path)
}

fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists().at("look at", path)
}

/// What a start finds: a committed backup is carried through, one that can go on is handed out, anything else is removed.
pub(crate) fn settle(dir: &VolumeDir) -> Result<Option<Pending>, String> {
    let told = |error: FileError| chain(&error);
    let Some(pending) = load(dir).map_err(told)? else {
        let path = part(dir);
        remove_durable(&path).at("remove", &path).map_err(told)?;
        return Ok(None);
    };
    if let Some(diff) = pending.diff() {
        let diff = diff.map_err(|e| format!("{}: {e}", record(dir).display()))?;
        finish(dir, &pending, &diff).map_err(told)?;
        return Ok(None);
    }
    let path = part(dir);
    let found = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            return Err(told(FileError {
                act: "look at",
                path,
                source: error,
            }));
        }
    };
    if found < pending.bytes {
        warn!(
            path = %path.display(),
            expected = pending.bytes,
            found,
            "the received part of a hash backup is shorter than recorded: it begins again"
        );
        drop_pending(dir).map_err(told)?;
        return Ok(None);
    }
    Ok(Some(pending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(bytes: u64) -> Pending {
        Pending {
            uuid: Uuid([7; 16]),
            from: Snapshot::clean(Gid(5)),
            gid: Gid(6),
            size: Lb(100),
            bulk: Lb(8),
            timestamp: Timestamp(1_795_359_114),
            address: Lb(16),
            bytes,
            ended: false,
            snapshot: None,
        }
    }

    fn volume() -> (tempfile::TempDir, VolumeDir) {
        let dir = tempfile::tempdir().unwrap();
        let volume = VolumeDir::new(dir.path().to_owned());
        (dir, volume)
    }

    #[test]
    fn a_part_without_a_record_goes_and_one_that_is_too_short_takes_its_record_along() {
        let (_keep, dir) = volume();
        fs::write(part(&dir), [0; 10]).unwrap();
        assert_eq!(settle(&dir), Ok(None));
        assert!(!part(&dir).exists());
        pending(10).store(&dir).unwrap();
        fs::write(part(&dir), [0; 9]).unwrap();
        assert_eq!(settle(&dir), Ok(None));
        assert!(!part(&dir).exists() && !record(&dir).exists());
        pending(10).store(&dir).unwrap();
        fs::write(part(&dir), [0; 11]).unwrap();
        assert_eq!(settle(&dir), Ok(Some(pending(10))));
    }

    #[test]
    fn a_committed_backup_is_carried_through_from_any_step() {
        let committed = Pending {
            snapshot: Some(Snapshot::new(Gid(6), Gid(9)).unwrap()),
            ..pending(10)
        };
        let diff = committed.diff().unwrap().unwrap();
        assert_eq!(diff.to_string(), "|5|-->|6,9|");
        assert!(!diff.is_mergeable() && !diff.is_compared());
        for renamed in [false, true] {
            let (_keep, dir) = volume();
            committed.store(&dir).unwrap();
            let at = if renamed { dir.diff(&diff) } else { part(&dir) };
            fs::write(at, [0; 10]).unwrap();
            assert_eq!(settle(&dir), Ok(None));
            assert!(dir.diff(&diff).exists() && !record(&dir).exists());
            assert_eq!(dir.files().read_uuid().unwrap(), committed.uuid);
            assert_eq!(settle(&dir), Ok(None), "again");
        }
    }

    #[test]
    fn a_committed_backup_whose_part_is_lost_is_told_and_not_taken_up() {
        let (_keep, dir) = volume();
        let committed = Pending {
            snapshot: Some(Snapshot::new(Gid(6), Gid(9)).unwrap()),
            ..pending(10)
        };
        committed.store(&dir).unwrap();
        let error = settle(&dir).unwrap_err();
        assert!(error.contains("hash_backup.part"), "{error}");
        assert!(record(&dir).exists() && dir.files().read_uuid().is_err());
    }

    #[test]
    fn a_damaged_record_is_told() {
        let (_keep, dir) = volume();
        fs::write(record(&dir), "nonsense").unwrap();
        assert!(settle(&dir).unwrap_err().contains("hash_backup"));
    }
}
