//! Lines of the `get` targets, from the REST types. LTSV: fields separated by one tab, label and value by a colon.

use walb_common::lineage::{BaseState, MetaDiff, Snapshot};
use walb_common::rest::{archive, proxy, storage};
use walb_common::state::Named;
use walb_common::state::archive::Action;
use walb_common::types::{Gid, Timestamp};

use crate::answer::bit;
use crate::error::CommandError;

/// `name usage_pb capacity_pb pbs`.
pub fn log_usage(name: &str, log: &storage::DeviceLog) -> String {
    format!(
        "name:{name}\tusage_pb:{}\tcapacity_pb:{}\tpbs:{}",
        log.usage_pb, log.capacity_pb, log.pbs
    )
}

/// The newest snapshot a storage has taken, delivered or not; only while it is the target of a volume.
pub fn latest_at_storage(volume: &storage::VolumeStatus) -> Option<String> {
    if volume.state != "Target" {
        return None;
    }
    let point = volume.queue.first().copied().or(volume.done)?;
    let storage::LogPoint {
        lsid, gid, timestamp, ..
    } = point;
    Some(format!(
        "name:{}\tkind:storage\tgid:{gid}\tlsid:{lsid}\ttimestamp:{timestamp}",
        volume.name
    ))
}

/// One line per archive; gid and timestamp are empty when nothing waits for it.
pub fn latest_at_proxy(volume: &proxy::VolumeStatus) -> Vec<String> {
    let line = |archive: &proxy::ArchiveStatus| {
        let head = format!("name:{}\tkind:proxy\tarchive:{}", volume.name, archive.name);
        match archive.max_gid {
            Some(gid) => format!("{head}\tgid:{gid}\ttimestamp:{}", archive.newest),
            None => format!("{head}\tgid:\ttimestamp:"),
        }
    };
    volume.archives.iter().map(line).collect()
}

/// The begin gid of the latest snapshot, which may be dirty.
pub fn latest_at_archive(volume: &archive::VolumeStatus) -> Option<String> {
    let gid = volume.latest?.begin();
    let timestamp = volume.latest_timestamp;
    Some(format!(
        "name:{}\tkind:archive\tgid:{gid}\ttimestamp:{timestamp}",
        volume.name
    ))
}

/// `GID TIME FLAG`.
pub fn restorable(snapshot: &archive::Restorable) -> String {
    format!(
        "{} {} {}",
        snapshot.gid,
        snapshot.timestamp,
        bit(snapshot.explicit)
    )
}

/// How many actions of that name run.
pub fn running(volume: &archive::VolumeStatus, action: &str) -> u32 {
    volume
        .actions
        .iter()
        .find(|a| a.name == action)
        .map_or(0, |a| a.running)
}

/// The volume, then name, number running and time of the last begin of each action.
pub fn actions(volume: &archive::VolumeStatus) -> String {
    let fields = Action::ALL.iter().map(|action| {
        let found = volume.actions.iter().find(|a| a.name == action.name());
        let (running, began) = found.map_or((0, Timestamp::NONE), |a| (a.running, a.last_began));
        format!(" {} {running} {began}", action.name())
    });
    format!("{}{}", volume.name, fields.collect::<String>())
}

/// `name metastate`.
pub fn base(volume: &archive::VolumeStatus) -> String {
    format!("name:{}\tmetastate:{}", volume.name, volume.base)
}

/// Where the chain leads. It was asked for after the base, so a merge or an apply may have come between: then as far as
/// it fits.
pub fn reached(base: &BaseState, chain: &[MetaDiff]) -> Snapshot {
    chain
        .iter()
        .fold(base.snapshot(), |at, diff| at.apply(diff).unwrap_or(at))
}

/// The diff from `|bb,be|` to `|eb,ee|`.
pub fn diff_between(bb: Gid, be: Gid, eb: Gid, ee: Gid) -> Result<MetaDiff, CommandError> {
    let bad = |error: &dyn std::fmt::Display| CommandError::local(error.to_string());
    let begin = Snapshot::new(bb, be).map_err(|e| bad(&e))?;
    let end = Snapshot::new(eb, ee).map_err(|e| bad(&e))?;
    MetaDiff::new(begin, end).map_err(|e| bad(&e))
}
