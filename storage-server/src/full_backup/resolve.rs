//! A backup that was cut between the archive's commit and ours.
//!
//! The archive commits first, so after a crash or a broken connection it may hold a complete image while we are still in
//! SyncReady. Whether it does is asked there: the uuid of our log is new with every backup, so an archive that is
//! Archived under it has committed exactly this one. Then we go on to Target as if nothing had happened.

use std::sync::Arc;
use std::time::Duration;

use walb_common::daemon::chain;
use walb_common::rest::archive::VolumeStatus;
use walb_common::state::storage::{Command, Static};
use walb_common::types::{Gid, Uuid};
use walb_common::wire::identity::Role;

use super::settle;
use crate::volume::{Records, Volume};

/// What the archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The image of this backup.
    Committed,
    /// Not this image.
    NotCommitted,
    /// It cannot be told now.
    Unknown,
}

fn judge(status: &VolumeStatus, uuid: Uuid) -> Verdict {
    match status.state.as_str() {
        // It may be just about to commit.
        "FullSync" => Verdict::Unknown,
        "Clear" | "SyncReady" | "InitVol" | "ClearVol" | "ResetVol" => Verdict::NotCommitted,
        _ if status.uuid == uuid => Verdict::Committed,
        _ => Verdict::NotCommitted,
    }
}

/// Asks the archive once.
pub(super) async fn ask(volume: &Volume, uuid: Uuid) -> Verdict {
    let shared = &volume.shared;
    let path = format!("/v1/volumes/{}", volume.name);
    match shared
        .context
        .client
        .get::<VolumeStatus>(&shared.settings.archive, &[Role::Archive], &path)
        .await
    {
        Ok(status) => judge(&status, uuid),
        Err(error) => {
            tracing::debug!(volume = %volume.name, error = %chain(&error), "the archive cannot be asked about the backup");
            Verdict::Unknown
        }
    }
}

/// Whether these are the records of a backup that got as far as its snapshot, and no further.
fn is_cut(records: &Records) -> bool {
    let marked = |gid: Gid, mergeable: bool| gid > Gid(0) && gid != Gid::MAX && !mergeable;
    records.state == Static::SyncReady
        && records.uuid != Uuid::NIL
        // A hash backup finds its own way back.
        && records.backup.is_none()
        && records
            .queue
            .iter()
            .chain([&records.done])
            .any(|record| marked(record.gid, record.mergeable))
}

/// Clears the matter up in the background, if there is something to clear up.
pub async fn begin(volume: &Arc<Volume>) {
    let records = volume.records().await;
    if is_cut(&records) {
        let (volume, life) = (volume.clone(), volume.shared.context.lifecycle.clone());
        let stopping = life.stopping();
        life.spawn(async move {
            tokio::select! {
                () = clear_up(&volume, records.uuid) => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

async fn clear_up(volume: &Arc<Volume>, uuid: Uuid) {
    let mut delay = Duration::from_millis(200);
    loop {
        let now = volume.records().await;
        if now.uuid != uuid || !is_cut(&now) {
            return;
        }
        match ask(volume, uuid).await {
            Verdict::NotCommitted => return,
            Verdict::Committed => return adopt(volume).await,
            Verdict::Unknown => tokio::time::sleep(delay).await,
        }
        delay = (delay * 2).min(Duration::from_secs(10));
    }
}

async fn adopt(volume: &Arc<Volume>) {
    // Somebody may have begun something else meanwhile: then it is theirs to decide.
    let Ok(work) = volume.occupancy.begin(Command::FullBackup) else {
        return;
    };
    volume.watch().await;
    match settle(volume, work, None).await {
        Ok(state) => {
            volume.set_error(None);
            tracing::info!(volume = %volume.name, state, "the archive had committed the backup that was cut: going on");
        }
        Err(error) => {
            volume.unwatch().await;
            tracing::error!(volume = %volume.name, error = %chain(&error), "cannot go on after a backup that was cut");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LsidGid;
    use walb_common::types::{Lsid, Timestamp};

    #[test]
    fn only_records_with_the_backups_own_snapshot_are_asked_about() {
        let mut records = Records::initial("wdev:vol0".into(), Timestamp(1));
        assert!(!is_cut(&records), "just made known");
        records.reset(Uuid([1; 16]), Gid(0), Timestamp(1));
        assert!(!is_cut(&records), "the scan was not complete");
        records.queue.push(LsidGid {
            lsid: Lsid(9),
            gid: Gid(1),
            mergeable: true,
            timestamp: Timestamp(2),
        });
        assert!(
            !is_cut(&records),
            "an implicit snapshot of the wlogs that flow during the scan"
        );
        records.queue.push(LsidGid {
            lsid: Lsid(9),
            gid: Gid(2),
            mergeable: false,
            timestamp: Timestamp(2),
        });
        assert!(is_cut(&records));
        records.state = Static::Target;
        assert!(!is_cut(&records));
    }
}
