//! Makes the image of a snapshot: the base image with the diffs on the way to the snapshot, synced, renamed to
//! `wr_VOL_GID`. Where the file system can share extents (XFS, Btrfs), they are, and the diffs applied; elsewhere base and
//! diffs are laid over each other in memory and written once. The base is never touched.

mod copy_image;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use walb_common::convert::{ApplyError, RestoreError, RestoreStream, apply_wdiffs, restore_to_image};
use walb_common::daemon::chain;
use walb_common::daemon::jobs::JobContext;
use walb_common::disk::{fault, remove_durable};
use walb_common::format::wdiff::{ReadWdiffError, WdiffFileError, WdiffReader};
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::{Action, Command};
use walb_common::types::{Gid, LB_SIZE, Lb};

use crate::ArchiveServer;
use crate::error::{At, blocking, not_now};
use crate::images::create_image;
use crate::volume::Volume;

/// Accepts a restore and answers with its job.
pub(crate) async fn start(server: &ArchiveServer, volume: &Arc<Volume>, gid: Gid) -> Result<u64, ApiError> {
    volume.usable()?;
    let name = volume.name().clone();
    let refused = |e| not_now(volume.name(), &volume.occupancy, e);
    let running = volume
        .occupancy
        .start_action(Command::Restore, Action::Restore)
        .map_err(refused)?;
    {
        let held = volume.held();
        if held.restored.contains(&gid) {
            let message = format!("already restored:{name}:{gid}");
            return Err(ApiError::new(ErrorCode::AlreadyExists, message).volume(&name));
        }
        let way = held
            .lineage
            .and_then(|l| held.diffs.materialise(&l.base, gid, true));
        way.ok_or_else(|| bad_gid(volume, gid))?;
    }
    let place = server.context().foreground()?;
    let (server, of) = (server.clone(), volume.clone());
    let jobs = server.context().jobs.clone();
    let work = |job: JobContext| async move {
        let began = Instant::now();
        let stop = Stop {
            force: of.occupancy.force_stop(),
            job,
        };
        let path = blocking(move || {
            let made = make(&server, &of, gid, &stop);
            // Over before the job is: whoever waits for the job finds the volume free.
            drop((running, place));
            made.map(|path| (path, of))
        });
        let (path, of) = path.await??;
        let seconds = began.elapsed().as_secs_f32();
        tracing::info!(volume = %of.name(), %gid, seconds, path = %path.display(), "restored");
        Ok(serde_json::json!({ "gid": gid, "path": path }))
    };
    jobs.start("restore", Some(&name), work).await
}

fn bad_gid(volume: &Volume, gid: Gid) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("bad gid to restore:{}:{gid}", volume.name()),
    )
    .volume(volume.name())
    .hint("restorable snapshots: get restorable VOL all")
}

/// Whoever may end a restore early.
struct Stop {
    job: JobContext,
    force: CancellationToken,
}

impl Stop {
    fn asked(&self) -> bool {
        self.job.cancel.is_cancelled() || self.force.is_cancelled()
    }

    fn error(&self) -> ApiError {
        let why = if self.force.is_cancelled() {
            "the volume was stopped by force"
        } else {
            "cancelled"
        };
        ApiError::new(ErrorCode::Cancelled, format!("restore: {why}"))
    }
}

/// Makes the image; on any failure nothing of it is left.
fn make(server: &ArchiveServer, volume: &Volume, gid: Gid, stop: &Stop) -> Result<PathBuf, ApiError> {
    let unfinished = server.images().unfinished(volume.name(), gid);
    let made = fill(server, volume, gid, stop, &unfinished).and_then(|()| {
        // Content durable first (it was synced), then the name; only a listed image is ever used.
        let path = server.images().finish_restored(volume.name(), gid)?;
        fault::point("archive.restore.renamed").at("list", &path)?;
        Ok(path)
    });
    match made {
        Ok(path) => {
            volume.held().restored.insert(gid);
            Ok(path)
        }
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            // A rename that was done although its directory could not be synced: not listed now, so not there later.
            let _ = fs::remove_file(server.images().restored(volume.name(), gid));
            Err(error.volume(volume.name()))
        }
    }
}

fn fill(
    server: &ArchiveServer,
    volume: &Volume,
    gid: Gid,
    stop: &Stop,
    target: &Path,
) -> Result<(), ApiError> {
    remove_durable(target).at("remove", target)?;
    let lineage = volume.held().lineage.ok_or_else(|| bad_gid(volume, gid))?;
    let base_path = server.images().base(volume.name());
    let base = fs::File::open(&base_path).at("open", &base_path)?;
    let found = base.metadata().at("look at", &base_path)?.len();
    // It may be growing just now.
    if let Some(expected) = volume.held().size.map(Lb::bytes)
        && found < expected
    {
        let message = format!(
            "base image {} has {found} bytes, expected {expected}",
            base_path.display()
        );
        return Err(ApiError::new(ErrorCode::Corrupt, message).volume(volume.name()));
    }
    let image = create_image(target)?;

    // How much there is to do: the data of the base, then the diffs; the latter are counted by what they come to.
    let allocated = copy_image::allocated(&base).at("look at", &base_path)?;
    let way = volume
        .held()
        .diffs
        .materialise(&lineage.base, gid, true)
        .ok_or_else(|| bad_gid(volume, gid))?;
    let total = allocated + way.iter().map(MetaDiff::size).sum::<u64>();
    stop.job.set_total(total);
    let told = |done: u64| {
        stop.job.set_done(done.min(total));
        if stop.asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };

    let mut has_base = copy_image::share(&base, &image);
    if has_base {
        fault::point("archive.restore.copied").at("write", target)?;
    } else {
        copy_image::check_room(allocated, &image)?;
        image.set_len(found).at("set the size of", target)?;
    }

    // The base is one snapshot when idle; after an interrupted apply it is anything up to its target, and the diffs
    // applied to it again from where it came make it whole: the final check sees to it that they were.
    let at_once = server.files_per_task();
    let (mut at, mut done) = (lineage.base.snapshot(), if has_base { allocated } else { 0 });
    loop {
        let round = volume.open_diffs(|held| {
            let mut list = held.diffs.chain_by_gid(at, gid);
            list.truncate(at_once);
            Ok(list)
        })?;
        if has_base && round.is_empty() {
            break;
        }
        let list: Vec<MetaDiff> = round.iter().map(|(diff, ..)| *diff).collect();
        let paths: Vec<PathBuf> = round.iter().map(|(_, path, _)| path.clone()).collect();
        let readers: Result<Vec<_>, _> = round
            .into_iter()
            .map(|(_, path, file)| WdiffReader::from_file(file, path.display().to_string()))
            .collect();
        let readers = readers.map_err(|error| unreadable(&error))?;
        let discard = server.config().discard.into();
        let mut to_do = list.iter().map(MetaDiff::size).sum::<u64>();
        if has_base {
            let applied = apply_wdiffs(readers, &image, discard, &mut |bytes| told(done + bytes));
            applied.map_err(|error| not_applied(&error, &paths, &image, stop))?;
        } else {
            to_do += allocated;
            // Of the job's measure, what the place reached in the image comes to.
            let share = |position: u64| {
                let share = u128::from(to_do) * u128::from(position) / u128::from(found.max(1));
                u64::try_from(share).unwrap_or(to_do)
            };
            let restored = RestoreStream::new(&base, readers, discard).and_then(|stream| {
                restore_to_image(stream, &image, true, &mut |position| told(share(position)))
            });
            restored.map_err(|error| not_restored(&error, &paths, &image, stop))?;
            has_base = true;
            fault::point("archive.restore.copied").at("write", target)?;
        }
        at = at.apply_all(&list).ok_or_else(|| bad_gid(volume, gid))?;
        done += to_do;
    }
    if at != Snapshot::clean(gid) {
        return Err(bad_gid(volume, gid));
    }
    fault::point("archive.restore.applied").at("write", target)?;
    image.sync_all().at("sync", target)?;
    // The last moment at which it can be ended: from the rename on the image is there.
    if stop.asked() {
        return Err(stop.error());
    }
    stop.job.set_done(total);
    fault::point("archive.restore.synced").at("sync", target)?;
    Ok(())
}

fn unreadable(error: &WdiffFileError) -> ApiError {
    let api = ApiError::internal(error);
    let code = if matches!(error.source, ReadWdiffError::Io { .. }) {
        api.code
    } else {
        ErrorCode::Corrupt
    };
    ApiError { code, ..api }
}

fn not_restored(error: &RestoreError, paths: &[PathBuf], image: &fs::File, stop: &Stop) -> ApiError {
    match error {
        RestoreError::Stopped => stop.error(),
        RestoreError::Overlay { source, .. } => not_applied(source, paths, image, stop),
        RestoreError::Base { .. }
        | RestoreError::Target { .. }
        | RestoreError::TargetTooSmall { .. }
        | RestoreError::FailedBefore { .. } => ApiError::internal(error),
    }
}

/// Names the damaged file: in a merge of several a record does not tell where it came from, so each is read through.
fn not_applied(error: &ApplyError, paths: &[PathBuf], image: &fs::File, stop: &Stop) -> ApiError {
    match error {
        ApplyError::Stopped => stop.error(),
        ApplyError::Read(error) => unreadable(error),
        ApplyError::Decompress { .. } | ApplyError::BeyondEnd { .. } => {
            let size = image.metadata().map_or(u64::MAX, |m| m.len() / LB_SIZE);
            let bad: BTreeSet<String> = paths
                .iter()
                .filter_map(
                    |path| match WdiffReader::open(path).and_then(WdiffReader::verify) {
                        Err(error) => Some(chain(&error)),
                        Ok(end) if end > Lb(size) => {
                            Some(format!("wdiff {} reaches beyond the image", path.display()))
                        }
                        Ok(_) => None,
                    },
                )
                .collect();
            let named = bad.into_iter().collect::<Vec<_>>().join("; ");
            ApiError::new(ErrorCode::Corrupt, format!("{}; {named}", chain(error)))
        }
        ApplyError::Image { .. } => ApiError::internal(error),
    }
}

/// Removes a restored image.
pub(crate) async fn delete(server: &ArchiveServer, volume: &Arc<Volume>, gid: Gid) -> Result<(), ApiError> {
    let refused = |e| not_now(volume.name(), &volume.occupancy, e);
    volume.occupancy.check(Command::DelRestored).map_err(refused)?;
    if !volume.held().restored.contains(&gid) {
        let message = format!("volume not found:{}:{gid}:restored", volume.name());
        return Err(ApiError::new(ErrorCode::NotFound, message).volume(volume.name()));
    }
    let (server, of) = (server.clone(), volume.clone());
    blocking(move || server.images().remove_restored(of.name(), gid)).await??;
    // Listed until it is gone: a restore of the same snapshot is refused so long, or it might be its image that goes.
    volume.held().restored.remove(&gid);
    tracing::info!(volume = %volume.name(), %gid, "restored image removed");
    Ok(())
}
