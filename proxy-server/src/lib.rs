//! walb-proxy: wlogs in, wdiffs out. Nothing is kept longer than until every archive has it.
//!
//! ```text
//!  storage --wlog--> receive_wlog: verify, convert      volume/: received/ -> sendto/ARCHIVE/ (one link per archive)
//!                                                              |
//!  archive <--wdiff-- send_wdiff: merge, compress, offer <-----'       one task per volume and archive
//! ```
//! A log is acknowledged when it is a durable file linked for every archive; a link goes when its archive has
//! acknowledged. rest/ are the routes, metadata/ which volumes and archives there are, reaction.rs what follows a refusal.

pub mod config;
mod lock;
mod metadata;
pub mod reaction;
mod receive_wlog;
mod rest;
mod send_wdiff;
mod start;
mod totals;
mod volume;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use tokio::sync::Semaphore;
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::proxy::Static;
use walb_common::types::{Lb, VolumeName};

use config::{Config, ProxyConfig};
use metadata::Metadata;
use volume::Volume;
use volume::directory::VolumeDirectory;

pub use start::OpenError;

/// A running proxy, but for its listener.
pub struct ProxyServer {
    shared: Arc<Shared>,
}

impl ProxyServer {
    /// Takes up the data directory: settles every volume, alone, and starts what was running. Nothing is served yet.
    pub async fn open(config: Config, lifecycle: Lifecycle) -> Result<Self, OpenError> {
        Ok(Self {
            shared: start::open(config, lifecycle).await?,
        })
    }

    /// What `daemon::server::serve` needs.
    pub fn context(&self) -> Arc<DaemonContext> {
        self.shared.context.clone()
    }

    /// Its routes.
    pub fn router(&self) -> Router {
        rest::router(&self.shared)
    }
}

/// What everything in the daemon shares.
struct Shared {
    context: Arc<DaemonContext>,
    config: ProxyConfig,
    metadata: Metadata,
    totals: totals::Totals,
    volumes_dir: PathBuf,
    volumes: Mutex<BTreeMap<VolumeName, Arc<Volume>>>,
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Held as long as the daemon lives.
    _lock: lock::DirectoryLock,
}

impl Shared {
    /// Every volume anything is known of.
    fn volumes(&self) -> Vec<Arc<Volume>> {
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.values().filter(|v| v.is_known()).cloned().collect()
    }

    /// A volume; one never heard of is Clear, and is not remembered for having been asked for.
    fn volume_or_clear(&self, name: &VolumeName) -> Arc<Volume> {
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes
            .get(name)
            .cloned()
            .unwrap_or_else(|| self.new_volume(name, Static::Clear, Lb(0)))
    }

    /// A volume that is about to be known.
    fn volume_to_be(&self, name: &VolumeName) -> Arc<Volume> {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes
            .entry(name.clone())
            .or_insert_with(|| self.new_volume(name, Static::Clear, Lb(0)))
            .clone()
    }

    fn insert_volume(&self, volume: &Arc<Volume>) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.insert(volume.name.clone(), volume.clone());
    }

    fn new_volume(&self, name: &VolumeName, state: Static, size: Lb) -> Arc<Volume> {
        let directory = VolumeDirectory::new(self.volumes_dir.join(name.as_str()));
        Arc::new(Volume::new(name.clone(), directory, state, size))
    }

    /// The places among the transfers to one address. One address that hangs fills its own places only.
    fn places(&self, address: &str) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let max = self.context.node.max_background_tasks.max(1);
        places
            .entry(address.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(max)))
            .clone()
    }

    /// Refuses what would not leave the configured room on the disk.
    fn check_free_space(&self, announced: u64) -> Result<(), ApiError> {
        const MIB: u64 = 1 << 20;
        let found = rustix::fs::statvfs(&self.volumes_dir)
            .map_err(|e| ApiError::internal(&std::io::Error::from(e)))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize) / MIB;
        let wanted = (announced / MIB)
            .saturating_add(1)
            .saturating_add(self.config.min_free_mb);
        if free < wanted {
            let message = format!(
                "no space for the log: {wanted} MiB expected, {free} MiB found free in {}",
                self.volumes_dir.display()
            );
            return Err(ApiError::new(ErrorCode::NoSpace, message));
        }
        Ok(())
    }
}
