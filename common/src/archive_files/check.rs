//! Whether what an archive keeps is sound: shared by the archive's own check and the one without a daemon.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::VolumeFiles;
use crate::daemon::chain;
use crate::format::wdiff::{ReadWdiffError, WdiffFileError, WdiffReader};
use crate::lineage::{BaseState, DiffSet, MetaDiff, Snapshot};
use crate::types::Lb;

/// What reading one wdiff through found.
#[derive(Debug)]
pub enum WdiffFinding {
    /// Every checksum is right and every record lies within the image.
    Sound,
    /// It is not there any more: merged, applied or replaced since it was listed.
    Gone,
    /// What is wrong, in a line that names the file.
    Wrong(String),
}

/// Reads a wdiff through: every checksum, every record's data, and that none reaches beyond an image of `size`.
pub fn wdiff(files: &VolumeFiles, diff: &MetaDiff, size: Option<Lb>) -> WdiffFinding {
    let path = files.diff(diff);
    match WdiffReader::open(&path).and_then(WdiffReader::verify) {
        Ok(end) => match size {
            Some(size) if end > size => WdiffFinding::Wrong(format!(
                "read wdiff {}: a record ends at block {end}, but the base image has {size} blocks",
                path.display()
            )),
            _ => WdiffFinding::Sound,
        },
        Err(error) if is_gone(&error) => WdiffFinding::Gone,
        Err(error) => WdiffFinding::Wrong(chain(&error)),
    }
}

fn is_gone(error: &WdiffFileError) -> bool {
    matches!(&error.source, ReadWdiffError::Io { position: 0, source } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Reads many wdiffs through, on all cores; the findings are in their order. `told` is called with each one's size.
pub fn wdiffs(
    files: &VolumeFiles,
    diffs: &[MetaDiff],
    size: Option<Lb>,
    told: &(dyn Fn(u64) + Sync),
) -> Vec<WdiffFinding> {
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::with_capacity(diffs.len()));
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(diffs.len());
    let work = || {
        while let Some((n, diff)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, diffs.get(n)?)))
        {
            let found = wdiff(files, diff, size);
            told(diff.size());
            findings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((n, found));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.sort_by_key(|(n, _)| *n);
    findings.into_iter().map(|(_, found)| found).collect()
}

/// What is wrong with how the diffs lead on from the base, a line each: without reading any.
pub fn chain_of(base: &BaseState, diffs: &DiffSet) -> Vec<String> {
    let latest = match diffs.latest(base) {
        Ok(latest) => latest.snapshot(),
        Err(error) => {
            return vec![format!(
                "the base image is {base}, and what was being applied is not complete: {error}"
            )];
        }
    };
    gap(latest, diffs).into_iter().collect()
}

/// The gap after the latest snapshot that the diffs lead to, if there are diffs beyond it: a line.
pub fn gap(latest: Snapshot, diffs: &DiffSet) -> Option<String> {
    let mut beyond = diffs.iter().filter(|d| d.begin().begin() > latest.begin());
    let first = beyond.next()?;
    Some(format!(
        "gap: no diff leads from gid {} to gid {}; {} diffs beyond it cannot be used",
        latest.begin(),
        first.begin().begin(),
        1 + beyond.count(),
    ))
}
