//! Whether a device's log is still the one that the records are about, without a gap after what was delivered.
//!
//! Checked by uuid and lsids on every step: the overflow flag alone can vanish when a device restarts.

use walb_common::types::{Lsid, Uuid};
use walb_wdev::client::DeviceStatus;

use crate::plan::LsidGid;

/// Writes are missing between what was delivered and what can be read; only a new backup closes the gap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The log was formatted or reset by somebody else.
    #[error(
        "log continuity lost: the device's log has uuid {found}, expected {expected}; a hash backup goes on from here"
    )]
    OtherLog {
        /// As stored at the last reset by us.
        expected: Uuid,
        /// As the device says.
        found: Uuid,
    },
    /// The ring was too small for the time nothing was delivered.
    #[error("log continuity lost: the log has overflowed; a hash backup goes on from here")]
    Overflowed,
    /// The log was erased beyond what was delivered.
    #[error(
        "log continuity lost: the log begins at lsid {oldest}, delivered is only what is before {done}; a hash backup goes on from here"
    )]
    Erased {
        /// Where the log begins.
        oldest: Lsid,
        /// What was delivered ends here.
        done: Lsid,
    },
    /// Log that was permanent once is not there any more.
    #[error(
        "log continuity lost: the log ends at lsid {latest}, expected at least {marked}; a hash backup goes on from here"
    )]
    WentBack {
        /// Where the log ends.
        latest: Lsid,
        /// Where the last snapshot was marked, when this was permanent.
        marked: Lsid,
    },
}

/// Checks the records of a volume against its device. `queue` is oldest first.
pub fn check(uuid: Uuid, done: &LsidGid, queue: &[LsidGid], status: &DeviceStatus) -> Result<(), Lost> {
    if status.uuid != uuid {
        return Err(Lost::OtherLog {
            expected: uuid,
            found: status.uuid,
        });
    }
    if status.overflow {
        return Err(Lost::Overflowed);
    }
    if status.lsids.oldest > done.lsid {
        return Err(Lost::Erased {
            oldest: status.lsids.oldest,
            done: done.lsid,
        });
    }
    let marked = queue.last().unwrap_or(done).lsid;
    if status.lsids.latest < marked {
        return Err(Lost::WentBack {
            latest: status.lsids.latest,
            marked,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::types::{Gid, Lb, PhysicalBlockSize, Timestamp};
    use walb_wdev::client::Lsids;

    fn status(oldest: u64, latest: u64) -> DeviceStatus {
        let at = Lsid(latest);
        DeviceStatus {
            name: "d".to_owned(),
            uuid: Uuid([1; 16]),
            salt: 0,
            pbs: PhysicalBlockSize::B512,
            size: Lb(8),
            lsids: Lsids {
                oldest: Lsid(oldest),
                prev_written: Lsid(oldest),
                written: Lsid(oldest),
                permanent: at,
                flush: at,
                completed: at,
                latest: at,
            },
            log_capacity_pb: 100,
            log_usage_pb: latest - oldest,
            overflow: false,
            frozen: false,
            read_only: false,
            pending_bytes: 0,
            on_ring_full: walb_wdev::config::OnRingFull::GoOn,
            waits_for_ring: false,
            changed_bytes: Some(0),
            changed_problem: None,
            checkpoint_interval_ms: 0,
            ldev: String::new(),
            ddev: String::new(),
            node: None,
        }
    }

    fn record(lsid: u64) -> LsidGid {
        LsidGid {
            lsid: Lsid(lsid),
            gid: Gid(1),
            mergeable: true,
            timestamp: Timestamp(1),
        }
    }

    #[test]
    fn a_log_that_goes_on_from_what_was_delivered_is_continuous() {
        let uuid = Uuid([1; 16]);
        assert_eq!(check(uuid, &record(10), &[record(20)], &status(10, 20)), Ok(()));
        assert_eq!(check(uuid, &record(10), &[], &status(0, 10)), Ok(()));
    }

    #[test]
    fn every_break_is_named() {
        let uuid = Uuid([1; 16]);
        let erased = check(uuid, &record(10), &[], &status(11, 20)).unwrap_err();
        assert!(erased.to_string().contains("begins at lsid 11"), "{erased}");
        let back = check(uuid, &record(10), &[record(21)], &status(5, 20)).unwrap_err();
        assert!(back.to_string().contains("expected at least 21"), "{back}");
        let other = check(Uuid([2; 16]), &record(10), &[], &status(5, 20)).unwrap_err();
        assert!(matches!(other, Lost::OtherLog { .. }));
        let overflowed = DeviceStatus {
            overflow: true,
            ..status(5, 20)
        };
        assert_eq!(check(uuid, &record(10), &[], &overflowed), Err(Lost::Overflowed));
    }
}
