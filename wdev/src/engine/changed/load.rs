//! What has changed, at a start: the stored file first, the log behind it for the rest.

use walb_common::daemon::chain;
use walb_common::format::log_device::SuperSector;
use walb_common::types::{Lb, Lsid, Uuid};

use super::file::{ChangedFile, FileError, Found};
use super::log_scan::scan;
use super::tracker::{Part, Tracker};
use super::{ChangedState, Kept};
use crate::chunk_set::ChunkSet;
use crate::disk::Disk;

/// What a start knows of the log: all of it from `oldest` to `end` is permanent.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct LogFacts {
    pub uuid: Uuid,
    pub oldest: Lsid,
    pub end: Lsid,
    pub device_size: Lb,
    /// Blocks in the ring.
    pub ring: u64,
}

/// The changes of the device whose log goes from the super sector's oldest lsid to `end`, all of it permanent.
pub(in crate::engine) fn load(
    name: &str,
    file: ChangedFile,
    log: &Disk,
    sector: &SuperSector,
    end: Lsid,
) -> ChangedState {
    let (ring, device_size) = (sector.ring(), sector.device_size());
    let facts = LogFacts {
        uuid: sector.uuid(),
        oldest: sector.oldest(),
        end,
        device_size,
        ring: ring.size(),
    };
    let found = file.load(ring.size());
    if let Err(error) = &found {
        tracing::warn!(device = name, "{} is not usable: {}", file.path(), chain(error));
    }
    let geometry = (ring, sector.salt());
    let (tracker, durable) = resume(file.path().as_str(), found, &facts, |stretch, chunk| {
        scan(log, geometry, stretch, device_size, chunk).map_err(|e| e.to_string())
    });
    if let Some(reason) = tracker.lost() {
        tracing::warn!(device = name, "what has changed is not known: {reason}");
    }
    ChangedState {
        tracker,
        kept: Kept::at(durable),
        file: file.into(),
    }
}

/// What is known, and how far the file covers the log.
///
/// The file may be of the log before a reset, or of the one that a reset would have made; a file of any other log says
/// nothing. Where it and the log leave a gap, the changes are lost, with the reason, and never taken for none.
pub(in crate::engine) fn resume(
    path: &str,
    found: Result<Option<Found>, FileError>,
    log: &LogFacts,
    scan: impl FnOnce((Lsid, Lsid), Lb) -> Result<ChunkSet, String>,
) -> (Tracker, Lsid) {
    let mut tracker = Tracker::new(log.uuid, log.oldest, log.device_size, log.ring);
    let (mut durable, mut excuse) = (Lsid(0), None);
    match fitting(found, log) {
        Ok(Some(found)) => {
            tracker = found;
            durable = tracker.end;
        }
        Ok(None) => {}
        Err(error) => {
            let reason = format!("{path} is not usable: {}", chain(&error));
            if log.oldest == Lsid(0) {
                // A log reset may have carried something on, and only the file knew.
                tracker.lose_carried(reason.clone());
            }
            excuse = Some(reason);
        }
    }
    if tracker.oldest < log.oldest {
        tracker.set_oldest(log.oldest);
        durable = durable.min(log.oldest);
    }
    if tracker.device_size != log.device_size {
        tracker.resize(log.device_size);
    }
    if tracker.end < log.end {
        let part = match scan((tracker.end, log.end), tracker.chunk()) {
            Ok(set) => set.into(),
            Err(fault) => Part::Lost {
                reason: excuse.map_or(fault.clone(), |excuse| format!("{excuse}; and {fault}")),
            },
        };
        tracker.push(log.end, part);
    }
    (tracker, durable)
}

/// The stored tracker, if it is one of this log.
fn fitting(found: Result<Option<Found>, FileError>, log: &LogFacts) -> Result<Option<Tracker>, FileError> {
    let Some(Found { tracker, next_uuid }) = found? else {
        return Ok(None);
    };
    if next_uuid == Some(log.uuid) {
        return Ok(Some(tracker.after_reset(log.uuid, log.ring)));
    }
    if tracker.uuid != log.uuid {
        return Ok(None);
    }
    if tracker.end > log.end || tracker.oldest > log.oldest {
        return Err(FileError::Positions);
    }
    Ok(Some(tracker))
}
