//! Whether a hash backup can go through, settled before the storage gives its log up for it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use walb_common::daemon::chain;
use walb_common::daemon::occupancy::{Archive, NotNow, Work};
use walb_common::lineage::Snapshot;
use walb_common::state::Refused;
use walb_common::state::archive::{Command, State};
use walb_common::types::Lb;
use walb_common::wire::message::{HashAnswer, HashBegin, Refusal, RefusalReason};

use super::source::{Room, Source};
use super::{Pending, take_up};
use crate::ArchiveServer;
use crate::error::{At, FileError, not_now};
use crate::volume::{Held, Volume};

/// Largest chunk a storage may announce.
const BULK_MAX: Lb = Lb((4 << 20) / 512);

/// What becomes of a request.
pub(super) enum Accepted {
    /// It has been done.
    Committed,
    /// It begins, or goes on.
    Go(Box<Going>),
}

/// A backup under way; the volume is in HashSync.
pub(super) struct Going {
    pub work: Work<Archive>,
    pub answer: HashAnswer,
    pub source: Source,
    /// The one that goes on.
    pub begun: Option<Pending>,
    /// The snapshot it starts from.
    pub from: Snapshot,
}

fn refuse<T>(reason: RefusalReason, message: impl Into<String>) -> Result<T, Refusal> {
    let message = message.into();
    Err(Refusal { reason, message })
}

/// The checks; nothing has changed when one fails.
pub(super) async fn accept(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    begin: &HashBegin,
) -> Result<Accepted, Refusal> {
    if begin.bulk == Lb(0) || begin.bulk > BULK_MAX {
        let message = format!("bulk of {} blocks: expected 1 to {BULK_MAX}", begin.bulk);
        return refuse(RefusalReason::Other, message);
    }
    if let Err(failed) = volume.usable() {
        return refuse(RefusalReason::Other, failed.message);
    }
    let work = match volume.occupancy.begin(Command::HashSync) {
        Ok(work) => work,
        Err(error) => return Err(busy_or_refused(volume, error)),
    };
    let committed = volume.held().pending.filter(|pending| pending.snapshot.is_some());
    if let Some(pending) = committed
        && let Err(error) = take_up(server, volume, pending).await
    {
        let text = format!("an earlier hash backup could not be taken up: {}", chain(&error));
        return refuse(RefusalReason::Other, text);
    }
    grow(server, volume, begin.size).await?;
    let known = {
        let held = volume.held();
        look(&held, begin)
    };
    let Some((answer, begun, from)) = known? else {
        return Ok(Accepted::Committed);
    };
    let (of, from_server) = (volume.clone(), server.clone());
    let opened = tokio::task::spawn_blocking(move || open(&from_server, &of)).await;
    let source = opened.unwrap_or_else(|e| refuse(RefusalReason::Other, chain(&e)))?;
    Ok(Accepted::Go(Box::new(Going {
        work,
        answer,
        source,
        begun,
        from,
    })))
}

/// Makes the base image as large as the volume, with zeros, as it is where the volume was never written. Only here, where
/// all of the new part is compared, or named by the device's bitmap: a volume that grew may hold anything there.
async fn grow(server: &ArchiveServer, volume: &Arc<Volume>, size: Lb) -> Result<(), Refusal> {
    let Some(found) = volume.held().size.filter(|found| *found < size) else {
        return Ok(());
    };
    let (of, images) = (volume.clone(), server.clone());
    let grown = tokio::task::spawn_blocking(move || {
        images.images().grow_base(of.name(), size)?;
        of.dir().store_size(size)
    });
    let text = match grown.await {
        Ok(Ok(())) => {
            volume.held().size = Some(size);
            tracing::info!(volume = %volume.name(), from = %found, to = %size, "the base image has grown with the volume");
            return Ok(());
        }
        Ok(Err(error)) => chain(&error),
        Err(error) => chain(&error),
    };
    let text = format!("smaller-lv-size: the base image has {found} blocks, the volume {size}: {text}");
    refuse(RefusalReason::SmallerSize, text)
}

type Stand = (HashAnswer, Option<Pending>, Snapshot);

/// What the data say. None: this backup has been taken up.
fn look(held: &Held, begin: &HashBegin) -> Result<Option<Stand>, Refusal> {
    let (Some(lineage), Some(latest), Some(size)) = (held.lineage, held.latest, held.size) else {
        return refuse(RefusalReason::ArchiveNotFound, "no data of the volume here");
    };
    if begin.reset.is_some_and(|(uuid, _)| uuid == lineage.uuid) {
        return Ok(None);
    }
    debug_assert!(size >= begin.size, "it has grown");
    let latest = latest.snapshot();
    let begun = held.pending.filter(|pending| {
        let same = begin.reset == Some((pending.uuid, pending.gid));
        same && pending.from == latest && pending.size == begin.size
    });
    let answer = match begun {
        Some(pending) => HashAnswer::GoOn {
            from: pending.from,
            uuid: lineage.uuid,
            address: pending.address,
            bulk: pending.bulk,
        },
        None => HashAnswer::Ready {
            latest,
            uuid: lineage.uuid,
        },
    };
    Ok(Some((answer, begun, latest)))
}

/// Opens the base, finds everything on the way to the latest snapshot, and takes the room that merging it needs.
fn open(server: &ArchiveServer, volume: &Volume) -> Result<Source, Refusal> {
    let other = |error: FileError| Refusal {
        reason: if error.source.kind() == std::io::ErrorKind::StorageFull {
            RefusalReason::NoSpace
        } else {
            RefusalReason::Other
        },
        message: chain(&error),
    };
    let path = server.images().base(volume.name());
    let base = File::open(&path).at("open", &path).map_err(other)?;
    let chain_of = |held: &Held| held.lineage.map(|l| held.diffs.chain(l.base.snapshot()));
    let diffs = chain_of(&volume.held()).unwrap_or_default();
    let at_once = server.files_per_task();
    let room = Room::take(volume.dir(), &diffs, at_once).map_err(other)?;
    let diffs: Vec<PathBuf> = diffs.iter().map(|diff| volume.dir().diff(diff)).collect();
    for path in &diffs {
        // One that is gone is found now.
        path.metadata().at("look at", path).map_err(other)?;
    }
    Ok(Source {
        base,
        diffs,
        at_once,
        room,
        discard: server.config().discard.into(),
    })
}

/// A volume that something passing works on will be free again; any other state needs somebody.
fn busy_or_refused(volume: &Volume, error: NotNow) -> Refusal {
    let passing = match &error {
        NotNow::Refused(Refused::Action { .. }) => true,
        NotNow::Refused(Refused::State { .. }) => matches!(volume.occupancy.state(), State::Dynamic(_)),
        _ => false,
    };
    let reason = if passing {
        RefusalReason::Syncing
    } else {
        RefusalReason::BadState
    };
    Refusal {
        reason,
        message: not_now(volume.name(), &volume.occupancy, error).message,
    }
}
