//! The archive as a whole: opened once, shared by every handler.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::database;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::open_files;
use walb_common::state::archive::Static;
use walb_common::types::VolumeName;
use walb_common::wire::tls::{TlsContext, TlsError};

use crate::config::Config;
use crate::error::{At, FileError};
use crate::fsck;
use crate::images::Images;
use crate::metadata::Metadata;
use crate::volume::{Held, Volume, VolumeDir};

/// The archive cannot be opened. One bad volume is no reason; it is shown as failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory of the daemon itself.
    #[error("{act} {path}")]
    File {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon has the directory.
    #[error("data directory {path} is in use by another walb-archive")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Our identity.
    #[error("load the TLS identity")]
    Tls(#[from] TlsError),
    /// The database cannot be opened.
    #[error("open the metadata")]
    Database(#[from] database::OpenError),
    /// The database cannot be read or written.
    #[error("use the metadata")]
    Metadata(#[from] sqlx::Error),
    /// A task of the start itself.
    #[error("a task of the start ended")]
    Task(#[from] tokio::task::JoinError),
}

impl From<FileError> for OpenError {
    fn from(FileError { act, path, source }: FileError) -> Self {
        Self::File { act, path, source }
    }
}

/// An archive. Cheap to clone.
#[derive(Clone)]
pub struct ArchiveServer(Arc<Inner>);

struct Inner {
    config: Config,
    context: Arc<DaemonContext>,
    metadata: Metadata,
    images: Images,
    volumes: Mutex<BTreeMap<VolumeName, Arc<Volume>>>,
    _lock: File,
}

/// Takes the directory for this process. Two daemons on one directory would each believe its own memory.
pub(crate) fn lock_data_dir(dir: &Path) -> Result<File, OpenError> {
    fs::create_dir_all(dir).at("create", dir)?;
    let path = dir.join("lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .at("open", &path)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: dir.to_owned() }),
        Err(error) => Err(OpenError::File {
            act: "lock",
            path,
            source: error.into(),
        }),
    }
}

impl ArchiveServer {
    /// Opens the data directory: settles what a crash left, reads every volume, brings the index up to date.
    pub async fn open(config: Config, lifecycle: Lifecycle) -> Result<Self, OpenError> {
        let lock = lock_data_dir(&config.node.data_dir)?;
        let tls = TlsContext::load(&config.node.tls)?;
        let metadata = Metadata::open(&config.node.data_dir.join("metadata.sqlite")).await?;
        let context =
            DaemonContext::new(config.node.clone(), tls, lifecycle, metadata.pool().clone()).await?;
        let mut survey = fsck::survey(&config).await?;
        fsck::reconcile(&metadata, &mut survey).await?;
        let (images, found) = fsck::settle(survey).await?;
        let mut volumes = BTreeMap::new();
        for (name, dir, loaded) in found {
            if let Some(reason) = &loaded.held.failed {
                tracing::error!(volume = %name, reason, "the volume cannot be used; the others go on");
            } else {
                tracing::info!(volume = %name, state = %loaded.state, diffs = loaded.held.diffs.len(), "opened");
            }
            let volume = Volume::new(name.clone(), dir, loaded.state, loaded.held);
            volumes.insert(name, Arc::new(volume));
        }
        Ok(Self(Arc::new(Inner {
            config,
            context,
            metadata,
            images,
            volumes: Mutex::new(volumes),
            _lock: lock,
        })))
    }

    /// The routes, to be served by [`walb_common::daemon::server::serve`].
    pub fn router(&self) -> axum::Router {
        crate::rest::router(self)
    }

    /// The frame it runs in.
    pub fn context(&self) -> &Arc<DaemonContext> {
        &self.0.context
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Diffs that one task may have open at once.
    pub(crate) fn files_per_task(&self) -> usize {
        let node = &self.0.config.node;
        open_files::per_task(node.max_connections, node.max_foreground_tasks)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn images(&self) -> &Images {
        &self.0.images
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<Volume>>> {
        self.0.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, name: &VolumeName) -> Arc<Volume> {
        let dir = VolumeDir::new(self.0.config.node.data_dir.join(name.as_str()));
        Arc::new(Volume::new(name.clone(), dir, Static::Clear, Held::default()))
    }

    /// A volume; one that nothing is known of is in state Clear.
    pub(crate) fn volume(&self, name: &VolumeName) -> Arc<Volume> {
        self.map()
            .get(name)
            .cloned()
            .unwrap_or_else(|| self.unknown(name))
    }

    /// The same, from now on kept, so that two commands on it meet.
    pub(crate) fn volume_to_init(&self, name: &VolumeName) -> Arc<Volume> {
        self.map()
            .entry(name.clone())
            .or_insert_with(|| self.unknown(name))
            .clone()
    }

    /// All volumes that something is known of, by name.
    pub(crate) fn volumes(&self) -> Vec<Arc<Volume>> {
        self.map().values().filter(|v| v.is_known()).cloned().collect()
    }
}
