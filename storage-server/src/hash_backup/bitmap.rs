//! Whether the device's bitmap of changed chunks covers the gap, so that nothing else has to be read.
//!
//! The device says: outside of these chunks every block holds what it held at position P of log U. The archive has a
//! snapshot of log U whose every block shows an instant at or after P, because it has everything that was delivered and P
//! is not beyond that. So outside of the chunks nothing changed between that instant and now, and the archive has it. That
//! is all that is needed; a dirty snapshot is as good as a clean one.

use walb_common::daemon::chain;
use walb_common::lineage::Snapshot;
use walb_common::types::{Lb, Lsid, Uuid};
use walb_wdev::client::Changed;

use super::open::Going;
use crate::volume::{Shipped, Volume};

/// Runs of changed blocks `(first, count)`, by address.
pub(super) type Ranges = Vec<(Lb, Lb)>;

/// The blocks that may differ from the archive's snapshot, or why they are not known. Asked once the log is reset: what
/// changes from then on is in the new log.
pub(super) async fn choose(
    volume: &Volume,
    going: &Going,
    size: Lb,
    full_compare: bool,
) -> Result<Ranges, String> {
    if full_compare {
        return Err("a full comparison was asked for".to_owned());
    }
    let changed = match volume.device.changed().await {
        Ok(Changed::Known(changed)) => changed,
        Ok(Changed::Unknown { reason }) => {
            return Err(format!("the device does not know what changed: {reason}"));
        }
        Err(error) => {
            return Err(format!(
                "the device cannot be asked what changed: {}",
                chain(&error)
            ));
        }
    };
    if changed.device_size != size {
        return Err(format!(
            "the device has {} blocks now, {size} before",
            changed.device_size
        ));
    }
    let base = (changed.base_uuid, changed.base_lsid);
    let shipped = volume.records().await.shipped();
    covers(base, shipped, (going.uuid, going.from))?;
    Ok(changed.blocks().collect())
}

/// Whether the archive's snapshot `from`, reached by log `uuid`, has everything before the bitmap's base.
fn covers(
    base: (Uuid, Lsid),
    shipped: Option<Shipped>,
    (uuid, from): (Uuid, Snapshot),
) -> Result<(), String> {
    let Some(shipped) = shipped else {
        return Err("it is not known up to where the old log was delivered".to_owned());
    };
    if base.0 != shipped.uuid {
        return Err(format!(
            "the bitmap counts from log {}, delivered was log {}",
            base.0, shipped.uuid
        ));
    }
    if base.1 > shipped.lsid {
        return Err(format!(
            "the bitmap counts from lsid {}, delivered was only what is before {}",
            base.1, shipped.lsid
        ));
    }
    if uuid != shipped.uuid {
        return Err(format!(
            "the archive's snapshot is of log {uuid}, not of {}",
            shipped.uuid
        ));
    }
    if from.begin() < shipped.gid {
        return Err(format!(
            "the archive is at {from} only, delivered was gid {}",
            shipped.gid
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::types::Gid;

    const OLD: Uuid = Uuid([1; 16]);
    const OTHER: Uuid = Uuid([2; 16]);

    fn shipped() -> Shipped {
        Shipped {
            uuid: OLD,
            lsid: Lsid(100),
            gid: Gid(7),
        }
    }

    #[test]
    fn the_bitmap_counts_only_from_what_the_archive_has() {
        let dirty = Snapshot::new(Gid(7), Gid(9)).unwrap();
        for from in [Snapshot::clean(Gid(7)), Snapshot::clean(Gid(8)), dirty] {
            for lsid in [0, 99, 100] {
                assert_eq!(covers((OLD, Lsid(lsid)), Some(shipped()), (OLD, from)), Ok(()));
            }
        }
        let at = Snapshot::clean(Gid(7));
        let refused = |base, shipped, archive| covers(base, shipped, archive).unwrap_err();
        assert!(refused((OLD, Lsid(0)), None, (OLD, at)).contains("not known"));
        assert!(refused((OTHER, Lsid(0)), Some(shipped()), (OLD, at)).contains("counts from log"));
        assert!(refused((OLD, Lsid(101)), Some(shipped()), (OLD, at)).contains("counts from lsid"));
        assert!(refused((OLD, Lsid(0)), Some(shipped()), (OTHER, at)).contains("is of log"));
        let behind = Snapshot::new(Gid(6), Gid(9)).unwrap();
        assert!(refused((OLD, Lsid(0)), Some(shipped()), (OLD, behind)).contains("only"));
    }
}
