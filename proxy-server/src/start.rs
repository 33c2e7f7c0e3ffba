//! Opening: what is found in the data directory, settled volume by volume.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{chain, database};
use walb_common::disk::sync_dir;
use walb_common::rest::ApiError;
use walb_common::state::proxy::Static;
use walb_common::types::VolumeName;
use walb_common::wire::tls::{TlsContext, TlsError};

use crate::Shared;
use crate::config::Config;
use crate::lock::DirectoryLock;
use crate::metadata::{Metadata, VolumeRow};
use crate::send_wdiff;
use crate::totals::Totals;
use crate::volume::Volume;
use crate::volume::destination::Destination;
use crate::volume::waiting::Waiting;

/// The daemon cannot start. Trouble with one volume is not among this.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No identity.
    #[error("load the TLS identity")]
    Tls(#[from] TlsError),
    /// The data directory cannot be used.
    #[error("use data directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] database::OpenError),
    /// The database cannot be read.
    #[error("read the database")]
    Read(#[from] sqlx::Error),
}

pub(crate) async fn open(config: Config, lifecycle: Lifecycle) -> Result<Arc<Shared>, OpenError> {
    let Config { node, proxy } = config;
    let tls = TlsContext::load(&node.tls)?;
    let in_directory = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Directory { path, source }
    };
    let volumes_dir = node.data_dir.join("volumes");
    fs::create_dir_all(&volumes_dir).map_err(in_directory(&volumes_dir))?;
    sync_dir(&node.data_dir).map_err(in_directory(&node.data_dir))?;
    let lock = DirectoryLock::take(&node.data_dir.join("lock")).map_err(in_directory(&node.data_dir))?;
    let metadata = Metadata::open(&node.data_dir.join("metadata.sqlite")).await?;
    let context = DaemonContext::new(node, tls, lifecycle, metadata.pool()).await?;
    let shared = Arc::new(Shared {
        context,
        config: proxy,
        metadata,
        totals: Totals::default(),
        volumes_dir,
        volumes: Mutex::new(BTreeMap::new()),
        places: Mutex::new(HashMap::new()),
        _lock: lock,
    });
    let rows = shared.metadata.volumes().await?;
    let mut known = BTreeSet::new();
    for row in rows {
        known.insert(row.name.clone());
        take_up(&shared, row).await;
    }
    for name in directories(&shared.volumes_dir).map_err(in_directory(&shared.volumes_dir))? {
        if !known.contains(&name) {
            let volume = shared.volume_to_be(&name);
            tracing::error!(volume = %name, "files of a volume that is not registered: add its archives to take them up");
            volume.set_failed(Some(
                "there are files, but no archive is registered: add its archives".to_owned(),
            ));
        }
    }
    Ok(shared)
}

/// Brings one volume back to where it was. Whatever is wrong with it stays its own trouble.
async fn take_up(shared: &Arc<Shared>, row: VolumeRow) {
    let volume = shared.new_volume(&row.name, row.state, row.size);
    shared.insert_volume(&volume);
    if row.state == Static::Clear {
        volume.set_unfinished_clear(true);
        if let Err(error) = finish_clear(shared, &volume).await {
            tracing::error!(volume = %row.name, %error, "clear-vol could not be finished");
            volume.set_failed(Some(error.to_string()));
        }
        return;
    }
    for (name, info) in row.archives {
        let dir = volume.directory.send_to(&name);
        volume.put_archive(Arc::new(Destination::new(
            name,
            dir,
            info,
            Waiting::default(),
            Vec::new(),
        )));
    }
    settle(&volume).await;
    for archive in volume.archives() {
        send_wdiff::spawn(shared, volume.clone(), archive);
    }
    if volume.failed().is_none() {
        tracing::info!(volume = %volume.name, state = %volume.occupancy.state(), archives = volume.archives().len(), "volume taken up");
        volume.kick();
    }
}

/// Brings the files of a volume in order and says whether it can be used.
pub(crate) async fn settle(volume: &Arc<Volume>) {
    let lock = volume.files.clone().lock_owned().await;
    let work = {
        let volume = volume.clone();
        tokio::task::spawn_blocking(move || {
            let _lock = lock;
            volume.settle()
        })
    };
    let failed = match work.await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = &failed {
        tracing::error!(volume = %volume.name, reason, "volume cannot be used");
    }
    volume.set_failed(failed);
}

/// The second half of clear-vol: the files, then the row.
pub(crate) async fn finish_clear(shared: &Shared, volume: &Arc<Volume>) -> Result<(), ApiError> {
    let lock = volume.files.clone().lock_owned().await;
    let directory = volume.directory.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _lock = lock;
        directory.remove_all()
    });
    work.await
        .map_err(|e| ApiError::internal(&e))?
        .map_err(|e| ApiError::internal(&e))?;
    shared
        .metadata
        .end_clear(&volume.name)
        .await
        .map_err(|e| ApiError::internal(&e))?;
    volume.set_unfinished_clear(false);
    volume.set_failed(None);
    Ok(())
}

fn directories(dir: &Path) -> io::Result<Vec<VolumeName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        match VolumeName::new(&entry?.file_name().to_string_lossy()) {
            Ok(name) => names.push(name),
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "not a volume's directory"),
        }
    }
    Ok(names)
}
