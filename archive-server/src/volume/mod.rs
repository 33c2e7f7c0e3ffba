//! One volume: what it holds, what it may do ([`Occupancy`]), and what each change makes durable in which order.

mod actions;
mod directory;
mod load;
mod warnings;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use walb_common::archive_files::Lineage;
use walb_common::daemon::occupancy::{Archive, Occupancy};
use walb_common::lineage::{BaseState, DiffSet, MetaDiff};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::archive::{Static, is_active};
use walb_common::types::{Gid, Lb, Timestamp, VolumeName};

use crate::hash_backup::Pending;
pub(crate) use actions::{clear, init, reset, start, stop};
pub(crate) use directory::{CLEAR_SUFFIX, INIT_SUFFIX, VolumeDir};
pub(crate) use load::{Loaded, load};

/// What a volume holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Why it cannot be used, if it cannot.
    pub failed: Option<String>,
    /// None without data.
    pub lineage: Option<Lineage>,
    /// The diffs, as their files are.
    pub diffs: DiffSet,
    /// Where they lead from the base; None without data.
    pub latest: Option<BaseState>,
    /// Size of the base image, if there is one.
    pub size: Option<Lb>,
    /// Restored images.
    pub restored: BTreeSet<Gid>,
    /// When the last full backup ended.
    pub last_sync: Timestamp,
    /// When the last diff arrived.
    pub last_wdiff_received: Timestamp,
    /// A hash backup that has begun and can go on.
    pub pending: Option<Pending>,
    /// The earliest diff refused for starting beyond the latest snapshot, and when that began.
    pub too_new: Option<(MetaDiff, Timestamp)>,
}

impl Held {
    /// Takes up a diff whose file is durable; returns the one it stands for, whose file has to go.
    pub fn register(&mut self, diff: MetaDiff, now: Timestamp) -> Option<MetaDiff> {
        self.last_wdiff_received = now;
        let replaced = self.diffs.insert(diff);
        self.latest = self.latest.map(|latest| match latest.end_applying(&[diff]) {
            Ok(next) if !self.leads_on(&next) => next,
            // It did not lead on from the latest state, or closed a gap; the chain says where to.
            reached => self
                .lineage
                .and_then(|l| self.diffs.latest(&l.base).ok())
                .unwrap_or(reached.unwrap_or(latest)),
        });
        if let (Some((refused, _)), Some(latest)) = (self.too_new, self.latest)
            && refused.begin().begin() <= latest.snapshot().begin()
        {
            self.too_new = None;
        }
        replaced
    }

    /// Whether anything here starts at or beyond a state: only where diffs were lost and some of them came again.
    fn leads_on(&self, from: &BaseState) -> bool {
        let last = self.diffs.iter().next_back();
        last.is_some_and(|last| last.begin().begin() >= from.snapshot().begin())
    }
}

/// A volume. One that nothing is known of is in state Clear.
pub(crate) struct Volume {
    name: VolumeName,
    dir: VolumeDir,
    /// Who works on it.
    pub occupancy: Occupancy<Archive>,
    held: Mutex<Held>,
    progress: AtomicU64,
}

/// Files that vanish between choice and open are looked for again so often.
const OPEN_ATTEMPTS: usize = 10;

impl Volume {
    pub fn new(name: VolumeName, dir: VolumeDir, state: Static, held: Held) -> Self {
        let occupancy = Occupancy::new(state);
        Self {
            name,
            dir,
            occupancy,
            held: Mutex::new(held),
            progress: AtomicU64::new(0),
        }
    }

    pub fn name(&self) -> &VolumeName {
        &self.name
    }

    pub fn dir(&self) -> &VolumeDir {
        &self.dir
    }

    /// What it holds, locked: for short looks and changes only, never across IO.
    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a volume that failed to load.
    pub fn usable(&self) -> Result<(), ApiError> {
        match &self.held().failed {
            None => Ok(()),
            Some(reason) => Err(ApiError::new(
                ErrorCode::Corrupt,
                format!("volume {} failed: {reason}", self.name),
            )
            .volume(&self.name)
            .state(self.occupancy.state())
            .hint("repair what is named and restart, or reset-vol and run a full backup")),
        }
    }

    /// Whether it takes and serves diffs.
    pub fn is_active(&self) -> bool {
        is_active(self.occupancy.state()) && self.held().failed.is_none()
    }

    /// Whether anything is known of it.
    pub fn is_known(&self) -> bool {
        self.occupancy.state() != Static::Clear.into()
    }

    /// Position of a running full or hash backup.
    pub fn progress(&self) -> Lb {
        Lb(self.progress.load(Ordering::Relaxed))
    }

    pub fn set_progress(&self, position: Lb) {
        self.progress.store(position.0, Ordering::Relaxed);
    }

    /// Chooses diffs and opens all of them. Once open, later deletion does not matter. `choose` is asked again when a
    /// file has gone in between.
    pub fn open_diffs(
        &self,
        mut choose: impl FnMut(&Held) -> Result<Vec<MetaDiff>, ApiError>,
    ) -> Result<Vec<(MetaDiff, PathBuf, File)>, ApiError> {
        let mut attempt = 1;
        loop {
            let list = choose(&self.held())?;
            let opened: Result<Vec<_>, _> = list
                .iter()
                .map(|diff| {
                    let path = self.dir.diff(diff);
                    File::open(&path)
                        .map(|file| (*diff, path.clone(), file))
                        .map_err(|e| (path, e))
                })
                .collect();
            match opened {
                Ok(files) => return Ok(files),
                Err((_, error))
                    if error.kind() == std::io::ErrorKind::NotFound && attempt < OPEN_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err((path, source)) => {
                    return Err(crate::error::FileError {
                        act: "open",
                        path,
                        source,
                    }
                    .into());
                }
            }
        }
    }
}
