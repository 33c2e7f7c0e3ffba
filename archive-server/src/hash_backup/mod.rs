//! A storage sends what differs from the latest snapshot: a diff over a stretch of log that is lost.
//!
//! ```text
//!  HashBegin -> checks, base and diffs opened -> HashAnswer      (here the storage resets its log)
//!            -> HashStart -> record -> Done
//!            -> sections: hashes out, one ahead; chunks that differ in -> part, record, part, record ... -> end
//!            -> part synced, record -> Done
//!            -> HashCommit (g0, gE) -> record with the snapshot -> diff's name, uuid, record gone -> rows -> memory -> Done
//! ```
//! Everything that can stand against it is settled before the answer, because going on costs the storage its log. What has
//! come when the connection breaks is kept: the storage comes back and goes on from there ([`pending`]). The diff is
//! `latest-->(g0, gE)`; as long as it runs or waits, other diffs are told `syncing`.

mod accept;
mod pending;
mod source;
mod spool;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use walb_common::daemon::chain;
use walb_common::daemon::occupancy::{Archive, Work};
use walb_common::disk::fault;
use walb_common::lineage::{DiffError, MetaDiff, Snapshot};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::types::{Lb, Timestamp, Uuid, VolumeName};
use walb_common::wire::message::{
    Done, HashAnswer, HashBegin, HashCommit, HashMethod, HashStart, Refusal, RefusalReason,
};
use walb_common::wire::stream::{Bulk, Received, Stream, StreamError};

use crate::ArchiveServer;
use crate::error::{At, FileError};
use crate::metadata::VolumeRow;
use crate::volume::Volume;
use accept::{Accepted, accept};
pub(crate) use pending::{Pending, settle};
use source::{Section, SourceError};
use spool::{Piece, SpoolError};

/// Chunks between the stream and the disk; each is at most 4 MiB.
const QUEUE: usize = 4;
/// Sections hashed ahead of the comparison.
const AHEAD: usize = 2;

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("receive the diff")]
    Stream(#[from] StreamError),
    #[error("receive the diff")]
    Spool(#[from] SpoolError),
    #[error("read what it is compared with")]
    Source(#[from] SourceError),
    #[error("store")]
    File(#[from] FileError),
    #[error("the diff")]
    Diff(#[from] DiffError),
    #[error("{what}: expected {expected}, found {found}")]
    Protocol {
        what: &'static str,
        expected: String,
        found: String,
    },
    #[error("the volume was stopped by force")]
    Stopped,
    #[error("the task that hashes ended early")]
    NoHashes,
    #[error("a task ended")]
    Task(#[from] tokio::task::JoinError),
}

impl From<&BackupError> for ApiError {
    fn from(error: &BackupError) -> Self {
        let api = ApiError::internal(error);
        let code = match error {
            BackupError::Spool(SpoolError::Place { .. } | SpoolError::Section)
            | BackupError::Protocol { .. }
            | BackupError::Diff(_) => ErrorCode::BadRequest,
            BackupError::Spool(SpoolError::Decompress { .. }) => ErrorCode::Corrupt,
            BackupError::Stopped => ErrorCode::Cancelled,
            _ => api.code,
        };
        Self { code, ..api }
    }
}

enum Outcome {
    Stored(MetaDiff),
    Before,
    Refused(Refusal),
}

/// Serves one stream. Errors are logged here, once; the peer is told.
pub(crate) async fn serve(server: ArchiveServer, name: VolumeName, mut stream: Stream) {
    let began = Instant::now();
    let volume = server.volume(&name);
    match receive(&server, &volume, &mut stream).await {
        Ok(outcome) => {
            let peer = stream.peer();
            match outcome {
                Outcome::Stored(diff) => tracing::info!(
                    volume = %name, %diff, bytes = diff.size(), received = stream.bytes_received(),
                    sent = stream.bytes_sent(), seconds = began.elapsed().as_secs_f32(), peer, "hash backup received"
                ),
                Outcome::Before => {
                    tracing::info!(volume = %name, peer, "hash backup asked about, it is stored");
                }
                Outcome::Refused(refusal) => {
                    tracing::warn!(volume = %name, peer, reason = refusal.message, "hash backup refused");
                }
            }
            stream.close().await;
        }
        Err(error) => {
            tracing::error!(volume = %name, peer = stream.peer(), error = %chain(&error), "hash backup failed");
            stream.fail(&ApiError::from(&error).volume(&name)).await;
        }
    }
}

async fn receive(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    stream: &mut Stream,
) -> Result<Outcome, BackupError> {
    let begin: HashBegin = stream.recv().await?;
    let accepted = match server.context().foreground() {
        Ok(place) => stream
            .working(accept(server, volume, &begin))
            .await?
            .map(|accepted| (accepted, place)),
        Err(limit) => Err(Refusal {
            reason: RefusalReason::Limit,
            message: limit.message,
        }),
    };
    let (accepted, _place) = match accepted {
        Ok((Accepted::Committed, _)) => {
            stream.send(&HashAnswer::Committed).await?;
            return Ok(Outcome::Before);
        }
        Ok((Accepted::Go(going), place)) => (going, place),
        Err(refusal) => {
            stream.send(&HashAnswer::Refuse(refusal.clone())).await?;
            return Ok(Outcome::Refused(refusal));
        }
    };
    let force = volume.occupancy.force_stop();
    stream.send(&accepted.answer).await?;
    let start: HashStart = stream.recv().await?;
    let accept::Going {
        work,
        source,
        begun,
        from,
        ..
    } = *accepted;
    let pending = begin_record(volume, &begin, &start, begun, from).await?;
    stream.send(&Done {}).await?;

    let (pieces, queue) = mpsc::channel(QUEUE);
    let of = volume.clone();
    // The work goes along: the volume stays HashSync until the part is at rest.
    let spooling = tokio::task::spawn_blocking(move || {
        let (result, pending) = spool::run(of.dir(), pending, queue, |at| of.set_progress(at));
        of.set_progress(Lb(0));
        of.held().pending = Some(pending);
        (result, pending, work)
    });
    let mut hashing = None;
    let fed = async {
        let sections = (start.method == HashMethod::Hashes && !pending.ended).then(|| {
            let (out, sections) = mpsc::channel(AHEAD);
            let of = volume.clone();
            hashing = Some(tokio::task::spawn_blocking(move || {
                source.run(of.dir(), pending.address, pending.size, pending.bulk, &out)
            }));
            sections
        });
        tokio::select! {
            fed = feed(stream, &pending, sections, pieces) => fed,
            () = force.cancelled() => Err(BackupError::Stopped),
        }
    }
    .await;
    // The hashing thread ends by itself: its channel is closed. Its own error is the reason, where there is one.
    let hashed = match hashing {
        Some(hashing) => stream.working(hashing).await.ok().transpose()?.transpose(),
        None => Ok(None),
    };
    let (spooled, pending, work) = match &fed {
        Ok(()) => stream.working(spooling).await??,
        Err(_) => spooling.await?,
    };
    match (hashed, fed, spooled) {
        (Err(error), ..) => return Err(error.into()),
        // What the disk said is the reason; the stream's complaint only follows from it.
        (_, _, Err(error)) if !error.is_aborted() => return Err(error.into()),
        (_, Err(error), _) => return Err(error),
        (_, Ok(()), Err(error)) => return Err(error.into()),
        (Ok(_), Ok(()), Ok(())) => {}
    }
    stream.send(&Done {}).await?;
    let HashCommit { snapshot } = stream.recv().await?;
    let diff = commit(server, volume, pending, snapshot, work).await?;
    stream.send(&Done {}).await?;
    Ok(Outcome::Stored(diff))
}

/// The log has been reset: the record says so, durably, before anything is received.
async fn begin_record(
    volume: &Arc<Volume>,
    begin: &HashBegin,
    start: &HashStart,
    begun: Option<Pending>,
    from: Snapshot,
) -> Result<Pending, BackupError> {
    if let Some(pending) = begun {
        if (start.uuid, start.gid) == (pending.uuid, pending.gid) {
            return Ok(pending);
        }
        return Err(BackupError::Protocol {
            what: "the log of a backup that goes on",
            expected: format!("{} from gid {}", pending.uuid, pending.gid),
            found: format!("{} from gid {}", start.uuid, start.gid),
        });
    }
    if start.gid <= from.end() {
        return Err(BackupError::Protocol {
            what: "the gid the log begins with",
            expected: format!("one beyond {from}"),
            found: start.gid.to_string(),
        });
    }
    let pending = Pending {
        uuid: start.uuid,
        from,
        gid: start.gid,
        size: begin.size,
        bulk: begin.bulk,
        timestamp: begin.timestamp,
        address: Lb(0),
        bytes: 0,
        ended: false,
        snapshot: None,
    };
    let of = volume.clone();
    let stored = tokio::task::spawn_blocking(move || {
        // What an earlier one left has to be gone before the record says that nothing has come.
        pending::drop_pending(of.dir())?;
        pending.store(of.dir())?;
        of.held().pending = Some(pending);
        fault::point("archive.hash.started").at("write", of.dir().path())
    });
    stored.await??;
    Ok(pending)
}

/// Passes what comes on to the spooling thread, and with hashes sends those of each section before what comes back for
/// the one before it is taken: both sides read at the same time.
async fn feed(
    stream: &mut Stream,
    pending: &Pending,
    mut sections: Option<mpsc::Receiver<Section>>,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), BackupError> {
    if let Some(sections) = &mut sections {
        let mut at = pending.address;
        let mut ahead = if at < pending.size {
            Some(send_section(stream, sections).await?)
        } else {
            None
        };
        while let Some(end) = ahead.take() {
            if end < pending.size {
                ahead = Some(send_section(stream, sections).await?);
            }
            if !take_section(stream, &pieces, None).await? {
                return Ok(());
            }
            at = end;
            if pieces.send(Piece::Section(at)).await.is_err() {
                return Ok(());
            }
        }
    } else if !pending.ended && take_section(stream, &pieces, Some(pending.size)).await? {
        let _ = pieces.send(Piece::Section(pending.size)).await;
    }
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

async fn send_section(
    stream: &mut Stream,
    sections: &mut mpsc::Receiver<Section>,
) -> Result<Lb, BackupError> {
    let section = stream
        .working(sections.recv())
        .await?
        .ok_or(BackupError::NoHashes)?;
    let hashes = if section.hashes.is_empty() {
        Bulk::zeros(section.at.0, section.bulks)
    } else {
        Bulk::raw(section.at.0, section.hashes)
    };
    stream.send_bulk(hashes).await?;
    Ok(section.end)
}

/// Takes chunks up to the end frame. False: the spooling thread has ended, with an error that is found when it is joined.
/// `each`: without sections every chunk ends one.
async fn take_section(
    stream: &mut Stream,
    pieces: &mpsc::Sender<Piece>,
    each: Option<Lb>,
) -> Result<bool, BackupError> {
    loop {
        let received = tokio::select! {
            received = stream.recv_bulk() => received?,
            () = pieces.closed() => return Ok(false),
        };
        let Received::Bulk(bulk) = received else {
            return Ok(true);
        };
        let end = Lb(bulk.tag.saturating_add(u64::from(bulk.raw_len) / 512));
        if stream
            .working(pieces.send(Piece::Bulk(bulk.clone())))
            .await?
            .is_err()
        {
            return Ok(false);
        }
        if let Some(size) = each
            && pieces.send(Piece::Section(end.min(size))).await.is_err()
        {
            return Ok(false);
        }
        stream.consumed(&bulk).await?;
    }
}

/// The record with the snapshot decides; the rest follows from it, now or at the next start.
async fn commit(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    pending: Pending,
    snapshot: Snapshot,
    work: Work<Archive>,
) -> Result<MetaDiff, BackupError> {
    if snapshot.begin() != pending.gid {
        return Err(BackupError::Protocol {
            what: "the snapshot of the backup",
            expected: format!("one that begins with gid {}", pending.gid),
            found: snapshot.to_string(),
        });
    }
    let pending = Pending {
        snapshot: Some(snapshot),
        ..pending
    };
    // Checked before anything is decided.
    MetaDiff::new(pending.from, snapshot)?;
    let of = volume.clone();
    let stored = tokio::task::spawn_blocking(move || {
        pending.store(of.dir())?;
        of.held().pending = Some(pending);
        fault::point("archive.hash.committed").at("write", of.dir().path())
    });
    stored.await??;
    let diff = take_up(server, volume, pending).await?;
    work.commit();
    fault::point("archive.hash.taken_up").at("take up", volume.dir().path())?;
    Ok(diff)
}

/// Carries a committed backup through: files, rows, memory.
async fn take_up(
    server: &ArchiveServer,
    volume: &Arc<Volume>,
    pending: Pending,
) -> Result<MetaDiff, BackupError> {
    let Some(diff) = pending.diff() else {
        return Err(BackupError::Protocol {
            what: "a backup to be taken up",
            expected: "a committed one".to_owned(),
            found: "one that is not".to_owned(),
        });
    };
    let (diff, of) = (diff?, volume.clone());
    tokio::task::spawn_blocking(move || pending::finish(of.dir(), &pending, &diff)).await??;
    let now = Timestamp::now();
    let row = {
        let mut held = volume.held();
        held.pending = None;
        set_uuid(&mut held.lineage, pending.uuid);
        held.last_sync = now;
        held.register(diff, now);
        VolumeRow::of(walb_common::state::archive::Static::Archived, &held)
    };
    let diffs: Vec<MetaDiff> = volume.held().diffs.iter().copied().collect();
    if let Err(error) = server
        .metadata()
        .replace(volume.name(), &row, diffs.into_iter())
        .await
    {
        let error = chain(&error);
        tracing::error!(volume = %volume.name(), %error, "the index is behind the files; it will be rebuilt at the next start");
    }
    Ok(diff)
}

fn set_uuid(lineage: &mut Option<crate::volume::Lineage>, uuid: Uuid) {
    if let Some(lineage) = lineage {
        lineage.uuid = uuid;
    }
}
