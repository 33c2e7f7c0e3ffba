//! One volume on a proxy: its state, its archives, its files.
//!
//! The volume lock ([`Volume::files`]) is held by whoever links, renames or removes diffs, so that the lists in memory
//! and the directories change together. What is only in memory has its own small locks, never held across IO.

pub mod destination;
pub mod directory;
pub mod registry;
mod settle;
mod stop;
pub mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walb_common::daemon::occupancy::{NotNow, Occupancy, Proxy};
use walb_common::lineage::MetaDiff;
use walb_common::rest::proxy::VolumeStatus;
use walb_common::rest::{ApiError, ErrorCode, StopMode};
use walb_common::state::Refused;
use walb_common::state::proxy::{Dynamic, State, Static};
use walb_common::types::{Lb, Timestamp, VolumeName};

use destination::Destination;
use directory::VolumeDirectory;

pub use settle::distribute;

/// A volume. It exists in memory from the first command that may create it; a Clear one is not listed.
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its files.
    pub directory: VolumeDirectory,
    /// Its state and what runs.
    pub occupancy: Occupancy<Proxy>,
    /// The volume lock.
    pub files: Arc<tokio::sync::Mutex<()>>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    archives: BTreeMap<String, Arc<Destination>>,
    size: Lb,
    last_received: Option<Timestamp>,
    /// In `received/`: not linked for every archive yet.
    undistributed: Vec<MetaDiff>,
    failed: Option<String>,
    unfinished_clear: bool,
}

impl Volume {
    /// A volume at rest, of which nothing is loaded yet.
    pub fn new(name: VolumeName, directory: VolumeDirectory, state: Static, size: Lb) -> Self {
        let facts = Mutex::new(Facts {
            size,
            ..Facts::default()
        });
        Self {
            name,
            directory,
            occupancy: Occupancy::new(state),
            files: Arc::default(),
            facts,
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its archives, by name.
    pub fn archives(&self) -> Vec<Arc<Destination>> {
        self.facts().archives.values().cloned().collect()
    }

    /// One of its archives.
    pub fn archive(&self, name: &str) -> Option<Arc<Destination>> {
        self.facts().archives.get(name).cloned()
    }

    /// Registers an archive in memory.
    pub fn put_archive(&self, archive: Arc<Destination>) {
        self.facts().archives.insert(archive.name.clone(), archive);
    }

    /// Unregisters an archive in memory; its task ends.
    pub fn drop_archive(&self, name: &str) {
        if let Some(archive) = self.facts().archives.remove(name) {
            archive.gone.cancel();
        }
    }

    /// Unregisters every archive in memory, and forgets what was known beside.
    pub fn drop_everything(&self) {
        let facts = std::mem::take(&mut *self.facts());
        for archive in facts.archives.values() {
            archive.gone.cancel();
        }
    }

    /// The largest size announced.
    pub fn size(&self) -> Lb {
        self.facts().size
    }

    /// Sets the size that was stored.
    pub fn set_size(&self, size: Lb) {
        self.facts().size = size;
    }

    /// When the last wlog came in, since the process started.
    pub fn last_received(&self) -> Option<Timestamp> {
        self.facts().last_received
    }

    /// A wlog came in.
    pub fn set_last_received(&self, now: Timestamp) {
        self.facts().last_received = Some(now);
    }

    /// Diffs received and not yet linked for every archive.
    pub fn undistributed(&self) -> Vec<MetaDiff> {
        self.facts().undistributed.clone()
    }

    /// Says which those are.
    pub fn set_undistributed(&self, diffs: Vec<MetaDiff>) {
        self.facts().undistributed = diffs;
    }

    /// Why it cannot be used.
    pub fn failed(&self) -> Option<String> {
        self.facts().failed.clone()
    }

    /// Says whether it can be used.
    pub fn set_failed(&self, reason: Option<String>) {
        self.facts().failed = reason;
    }

    /// Whether files of a clear-vol that did not end are still there.
    pub fn has_unfinished_clear(&self) -> bool {
        self.facts().unfinished_clear
    }

    /// Says so.
    pub fn set_unfinished_clear(&self, yes: bool) {
        self.facts().unfinished_clear = yes;
    }

    /// Whether there is anything to tell of it.
    pub fn is_known(&self) -> bool {
        self.occupancy.state() != State::Static(Static::Clear) || self.facts().failed.is_some()
    }

    /// Whether everything was sent to everybody.
    pub fn is_empty(&self) -> bool {
        let facts = self.facts();
        facts.undistributed.is_empty() && facts.archives.values().all(|a| a.with_waiting(|w| w.is_empty()))
    }

    /// Makes every archive's task try now.
    pub fn kick(&self) {
        self.archives().iter().for_each(|archive| archive.kick());
    }

    /// Refuses work on a volume that could not be loaded.
    pub fn usable(&self) -> Result<(), ApiError> {
        match self.failed() {
            None => Ok(()),
            Some(reason) => {
                let hint = format!("mend it, then: start {}", self.name);
                Err(
                    ApiError::new(ErrorCode::Internal, format!("volume cannot be used: {reason}"))
                        .volume(&self.name)
                        .hint(hint),
                )
            }
        }
    }

    /// A refusal of the state tables as an answer.
    pub fn not_now(&self, error: NotNow) -> ApiError {
        let clear = matches!(&error, NotNow::Refused(Refused::State { state, .. }) if *state == "Clear");
        let api = ApiError::from(error).volume(&self.name);
        if clear {
            api.hint(format!("no volume {} here", self.name))
        } else {
            api
        }
    }

    /// For `status`.
    pub fn status(&self) -> VolumeStatus {
        let view = self.occupancy.view();
        let waits = view.state == State::Dynamic(Dynamic::WaitForEmpty);
        let stop_state = match view.stopping {
            None => "NotStopping",
            Some(StopMode::Force) => "ForceStopping",
            Some(StopMode::Empty) if waits => "WaitingForEmpty",
            Some(_) => "Stopping",
        };
        let destinations = self.archives();
        let archives = destinations.iter().map(|a| a.status()).collect();
        let warnings = destinations.iter().filter_map(|a| a.warning()).collect();
        let facts = self.facts();
        VolumeStatus {
            name: self.name.to_string(),
            state: view.state.to_string(),
            failed: facts.failed.clone(),
            stop_state: stop_state.to_owned(),
            size: facts.size,
            num_diff: facts.undistributed.len() as u64,
            total_size: facts.undistributed.iter().map(MetaDiff::size).sum(),
            last_wlog_received: facts.last_received.unwrap_or(Timestamp::NONE),
            archives,
            warnings,
        }
    }
}
