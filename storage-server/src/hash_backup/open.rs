//! Where a hash backup stands, on both sides: asked at its beginning and after every cut, by one question.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use walb_common::daemon::chain;
use walb_common::lineage::Snapshot;
use walb_common::rest::archive::VolumeStatus;
use walb_common::types::{Gid, Lb, Lsid, Timestamp, Uuid};
use walb_common::wire::client::ClientError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{HashAnswer, HashBegin, StreamKind};
use walb_common::wire::stream::{Stream, StreamError};
use walb_wdev::client::DeviceStatus;

use super::{HashError, Wanted};
use crate::continuity;
use crate::metadata::MetadataError;
use crate::volume::{Intent, Records, ResetError, Volume};

/// A stream on which the archive has answered.
pub(super) struct Opened {
    pub stream: Stream,
    pub step: Step,
    /// The device as it was before we asked.
    pub status: DeviceStatus,
}

pub(super) enum Step {
    /// The archive has taken it up.
    Committed,
    /// It begins, or goes on.
    Go(Going),
}

/// What is settled of a backup.
pub(super) struct Going {
    /// The archive's snapshot that it starts from.
    pub from: Snapshot,
    /// Life of the log that leads there.
    pub uuid: Uuid,
    /// The gid our log begins with, or is to begin with.
    pub gid: Gid,
    /// It does already.
    pub reset: bool,
    /// Everything below is stored at the archive.
    pub address: Lb,
    pub bulk: Lb,
}

pub(super) async fn open(volume: &Arc<Volume>, wanted: &Wanted) -> Result<Opened, HashError> {
    let status = volume.device.status().await.map_err(HashError::Device)?;
    let reset = standing(volume, &status).await?;
    let records = volume.records().await;
    let archive = volume.shared.settings.archive.clone();
    let client = &volume.shared.context.client;
    let opened = client
        .open_stream(&archive, Role::Archive, StreamKind::HashBackup, &volume.name)
        .await;
    let mut stream = opened.map_err(|error| unreachable(&archive, &error))?;
    let begin = HashBegin {
        size: status.size,
        timestamp: Timestamp::now(),
        bulk: wanted.bulk,
        reset,
    };
    let answer = ask(&mut stream, &begin)
        .await
        .map_err(|source| HashError::Stream {
            archive: archive.clone(),
            source,
        })?;
    let step = match answer {
        HashAnswer::Committed => Step::Committed,
        HashAnswer::GoOn {
            from,
            uuid,
            address,
            bulk,
        } => {
            let Some((_, gid)) = reset else {
                return Err(HashError::Protocol(
                    "the archive goes on with what was not begun".to_owned(),
                ));
            };
            Step::Go(Going {
                from,
                uuid,
                gid,
                reset: true,
                address,
                bulk,
            })
        }
        HashAnswer::Ready { latest, uuid } => {
            // A reset that the archive has not heard of is still good, if nothing came there meanwhile that is newer.
            let kept = reset.map(|(_, gid)| gid).filter(|gid| *gid > latest.end());
            let gid = match kept {
                Some(gid) => gid,
                None => begin_with(&records, latest)?,
            };
            Step::Go(Going {
                from: latest,
                uuid,
                gid,
                reset: kept.is_some(),
                address: Lb(0),
                bulk: wanted.bulk,
            })
        }
        HashAnswer::Refuse(refusal) => {
            let archive = stream.peer().to_owned();
            stream.close().await;
            return Err(HashError::Refused { archive, refusal });
        }
    };
    Ok(Opened { stream, step, status })
}

async fn ask(stream: &mut Stream, begin: &HashBegin) -> Result<HashAnswer, StreamError> {
    stream.send(begin).await?;
    stream.recv().await
}

fn unreachable(archive: &str, error: &ClientError) -> HashError {
    HashError::Unreachable {
        archive: archive.to_owned(),
        reason: chain(error),
    }
}

/// The gid of a new life of the log: beyond the snapshot it starts from, and beyond everything that was ever sent of the
/// old log, so that nothing still under way can reach it.
fn begin_with(records: &Records, latest: Snapshot) -> Result<Gid, HashError> {
    let newest = records.newest_gid().unwrap_or(Gid(0)).max(latest.end());
    match newest.0.checked_add(1) {
        Some(gid) if Gid(gid) != Gid::MAX => Ok(Gid(gid)),
        _ => Err(HashError::Protocol(format!("no gid is left after {newest}"))),
    }
}

/// The log as reset for this backup, if it was and goes on without a gap. A reset that the device made and we did not
/// record any more is recorded here.
async fn standing(volume: &Arc<Volume>, status: &DeviceStatus) -> Result<Option<(Uuid, Gid)>, HashError> {
    let records = volume.records().await;
    let Some(intent) = records.backup.clone() else {
        return Ok(None);
    };
    if intent.reset {
        let whole = continuity::check(records.uuid, &records.done, &records.queue, status);
        return Ok(whole.is_ok().then_some((records.uuid, intent.gid)));
    }
    if !is_fresh(&intent, status) {
        return Ok(None);
    }
    let gid = intent.gid;
    store_reset(volume, status.uuid, intent).await?;
    tracing::info!(volume = %volume.name, uuid = %status.uuid, %gid, "the log was reset for a backup before the end");
    Ok(Some((status.uuid, gid)))
}

/// Whether the device's log is a new one since the intent, whole from its beginning.
fn is_fresh(intent: &Intent, status: &DeviceStatus) -> bool {
    status.uuid != intent.old && status.lsids.oldest == Lsid(0) && !status.overflow
}

/// The log has been reset: its uuid, and that nothing of it is delivered.
pub(super) async fn store_reset(volume: &Arc<Volume>, uuid: Uuid, intent: Intent) -> Result<(), ResetError> {
    let (gid, now) = (intent.gid, Timestamp::now());
    volume
        .change("hash-reset", move |records| {
            records.reset(uuid, gid, now);
            records.backup = Some(Intent {
                reset: true,
                ..intent
            });
            Ok::<_, MetadataError>(())
        })
        .await?;
    volume.set_error(None);
    tracing::info!(volume = %volume.name, %uuid, %gid, "log reset");
    Ok(())
}

/// Waits, so long at most, until the archive has what the proxies still have of the old log: afterwards they drop it, and
/// only with it the device's bitmap is of use.
pub(super) async fn wait_for_archive(volume: &Volume, within: Duration) {
    let until = Instant::now() + within;
    while let Some(behind) = behind(volume).await
        && Instant::now() < until
    {
        volume
            .healing
            .say(format!("waiting for what the proxies have: {behind}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the archive lacks of the log that was delivered to proxies.
async fn behind(volume: &Volume) -> Option<String> {
    let records = volume.records().await;
    if records.backup.is_some() {
        return None;
    }
    let shipped = records.shipped()?;
    let shared = &volume.shared;
    let path = format!("/v1/volumes/{}", volume.name);
    let client = &shared.context.client;
    let status: VolumeStatus = client
        .get(&shared.settings.archive, &[Role::Archive], &path)
        .await
        .ok()?;
    let latest = status.latest.filter(|_| status.uuid == shipped.uuid)?;
    (latest.begin() < shipped.gid)
        .then(|| format!("the archive is at {latest}, delivered is gid {}", shipped.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use walb_common::state::storage::Static;

    #[test]
    fn a_new_log_begins_beyond_everything_that_may_still_be_under_way() {
        let mut records = Records::initial("wdev:vol0".into(), Timestamp(1));
        let latest = Snapshot::new(Gid(3), Gid(7)).unwrap();
        assert_eq!(begin_with(&records, latest).unwrap(), Gid(8));
        records.reset(Uuid([1; 16]), Gid(20), Timestamp(1));
        // Gid 21 may have been sent, as a part of what would be marked next.
        assert_eq!(begin_with(&records, latest).unwrap(), Gid(22));
        assert!(begin_with(&records, Snapshot::clean(Gid(u64::MAX - 1))).is_err());
    }

    #[test]
    fn what_was_shipped_is_that_of_the_last_log_the_archive_has_anything_of() {
        let mut records = Records::initial("wdev:vol0".into(), Timestamp(1));
        records.reset(Uuid([1; 16]), Gid(0), Timestamp(1));
        assert_eq!(records.shipped(), None, "a backup that is not done");
        records.state = Static::Target;
        records.done.lsid = Lsid(9);
        records.done.gid = Gid(5);
        let shipped = records.shipped().unwrap();
        assert_eq!(
            (shipped.uuid, shipped.lsid, shipped.gid),
            (Uuid([1; 16]), Lsid(9), Gid(5))
        );
        records.reset(Uuid([2; 16]), Gid(6), Timestamp(1));
        records.state = Static::SyncReady;
        assert_eq!(records.shipped(), Some(shipped), "kept over the reset");
        records.reset(Uuid([3; 16]), Gid(7), Timestamp(1));
        assert_eq!(
            records.shipped(),
            Some(shipped),
            "and over another before the backup is done"
        );
    }
}
