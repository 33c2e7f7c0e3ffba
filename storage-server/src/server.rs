//! The daemon in-process: opens everything, settles every volume alone, keeps the list of volumes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use camino::Utf8PathBuf;
use tokio::sync::{Semaphore, watch};
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::lifecycle::Lifecycle;
use walb_common::daemon::{chain, database};
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::{Command, Static, find_move};
use walb_common::types::{Timestamp, VolumeName};
use walb_common::wire::tls::{TlsContext, TlsError};
use walb_wdev::client::{DeviceError, DeviceSpec, default_socket};

use crate::Config;
use crate::config::BadValue;
use crate::device::{CallError, Device};
use crate::metadata::{Loaded, MIGRATIONS, MetadataError, VolumeStore};
use crate::send_wlog::{Proxies, monitor};
use crate::volume::{Records, Shared, Volume};

/// The daemon could not be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration.
    #[error(transparent)]
    Config(#[from] BadValue),
    /// The data directory.
    #[error("{act} {path}")]
    DataDir {
        /// What we were doing.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon works there.
    #[error("data directory {path} is in use by another walb-storage")]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// Our identity.
    #[error("load the TLS identity")]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Database(#[from] database::OpenError),
    /// The jobs in it.
    #[error("read the jobs")]
    Jobs(#[source] sqlx::Error),
    /// The volumes in it.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The daemon.
#[derive(Clone)]
pub struct StorageServer(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    volumes: RwLock<BTreeMap<VolumeName, Arc<Volume>>>,
    /// Volumes whose records cannot be used, with the reason.
    failed: BTreeMap<String, String>,
    /// Held while a volume is made known or forgotten, so that no device gets two.
    naming: tokio::sync::Mutex<()>,
    _lock: File,
}

impl StorageServer {
    /// Opens the data directory and takes up every volume. A volume that cannot be used keeps no other from working.
    pub async fn open(config: Config, lifecycle: Lifecycle) -> Result<Self, OpenError> {
        let Config { node, storage } = config;
        storage.check()?;
        let lock = lock_data_dir(&node.data_dir)?;
        let tls = TlsContext::load(&node.tls)?;
        let pool = database::open(&node.data_dir.join("metadata.sqlite"), MIGRATIONS).await?;
        let background = Semaphore::new(node.max_background_tasks.max(1));
        let proxies = Proxies::new(
            &storage.proxies,
            Duration::from_secs(storage.probe_interval_seconds),
        );
        let context = DaemonContext::new(node, tls, lifecycle, pool.clone())
            .await
            .map_err(OpenError::Jobs)?;
        let store = VolumeStore::new(pool);
        let (scan_limit, _) = watch::channel(storage.full_scan_bytes_per_second);
        let shared = Arc::new(Shared {
            context,
            scan_limit,
            settings: storage,
            store,
            proxies,
            background,
        });
        let (mut volumes, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for Loaded { name, records } in shared.store.load().await? {
            match settle(&name, records, &shared) {
                Ok(volume) => {
                    volumes.insert(volume.name.clone(), volume);
                }
                Err(reason) => {
                    tracing::error!(volume = name, reason, "volume cannot be used; the others go on");
                    failed.insert(name, reason);
                }
            }
        }
        let inner = Inner {
            shared: shared.clone(),
            volumes: RwLock::new(volumes),
            failed,
            naming: tokio::sync::Mutex::new(()),
            _lock: lock,
        };
        let server = Self(Arc::new(inner));
        for volume in server.volumes() {
            if let Some(Static::Target | Static::Standby) = volume.occupancy.state().at_rest() {
                volume.watch().await;
            }
            crate::full_backup::resolve::begin(&volume).await;
        }
        let life = shared.context.lifecycle.clone();
        // Weak: a server that is dropped is not kept by its healer.
        let inner = Arc::downgrade(&server.0);
        let volumes = move || inner.upgrade().map(|inner| Self(inner).volumes());
        life.clone()
            .spawn_essential("healer", crate::heal::run(volumes, life.clone()));
        life.clone().spawn_essential("proxy monitor", async move {
            monitor(&shared.proxies, shared.context.client.clone(), life).await;
        });
        Ok(server)
    }

    /// What the server task needs.
    pub fn context(&self) -> Arc<DaemonContext> {
        self.0.shared.context.clone()
    }

    /// All routes.
    pub fn router(&self) -> Router {
        crate::rest::router(self.clone())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Every volume that can be used, by name.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        self.0
            .volumes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Volumes that cannot be used, with the reason.
    pub(crate) fn failed(&self) -> &BTreeMap<String, String> {
        &self.0.failed
    }

    pub(crate) fn find(&self, name: &VolumeName) -> Option<Arc<Volume>> {
        self.0
            .volumes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// The volume that `command` is for. One that nothing is known of is in state Clear.
    pub(crate) fn volume(&self, name: &VolumeName, command: Command) -> Result<Arc<Volume>, ApiError> {
        if let Some(volume) = self.find(name) {
            return Ok(volume);
        }
        if let Some(reason) = self.0.failed.get(name.as_str()) {
            return Err(
                ApiError::new(ErrorCode::Corrupt, format!("volume cannot be used: {reason}")).volume(name),
            );
        }
        let refused = match (
            find_move(Static::Clear, command),
            walb_common::state::storage::check(command, Static::Clear),
        ) {
            (_, Err(refused)) | (Err(refused), _) => refused.to_string(),
            _ => "bad state:Clear".to_owned(),
        };
        let error = ApiError::new(ErrorCode::WrongState, refused)
            .volume(name)
            .state("Clear");
        Err(error.hint(format!("no volume {name} here")))
    }

    /// Command `init`: makes a volume known. Its device has to be there and to belong to no other volume.
    pub(crate) async fn init(&self, name: &VolumeName, device: &str) -> Result<(), ApiError> {
        let spec: DeviceSpec = device.parse()?;
        let _naming = self.0.naming.lock().await;
        if let Some(volume) = self.find(name) {
            volume.occupancy.begin(Command::InitVol).map(drop)?;
        }
        if self.0.failed.contains_key(name.as_str()) {
            return self.volume(name, Command::InitVol).map(drop);
        }
        let key = device_key(&spec);
        let shown = spec.to_string();
        let used = self
            .volumes()
            .into_iter()
            .find(|other| device_key(other.device.spec()) == key);
        if let Some(other) = used {
            let message = format!("{shown} is already used by volume {}", other.name);
            return Err(ApiError::new(ErrorCode::AlreadyExists, message));
        }
        let device = Device::open(spec).map_err(|e| ApiError::new(ErrorCode::BadRequest, chain(&e)))?;
        device.status().await.map_err(|error| not_usable(&shown, error))?;
        let records = Records::initial(shown.clone(), Timestamp::now());
        self.shared().store.insert(name, &records).await?;
        tracing::info!(volume = %name, device = shown, "volume is known now");
        let volume = Volume::new(name.clone(), device, records, self.shared().clone());
        self.0
            .volumes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), volume);
        Ok(())
    }

    /// Command `clear`: forgets a volume.
    pub(crate) async fn clear(&self, name: &VolumeName) -> Result<(), ApiError> {
        let _naming = self.0.naming.lock().await;
        self.volume(name, Command::ClearVol)?.clear().await?;
        self.0
            .volumes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        Ok(())
    }
}

/// A device that does not exist, or whose daemon is not there, is not found; any other trouble is told as it is.
fn not_usable(device: &str, error: CallError) -> ApiError {
    let missing = matches!(&error, CallError::Device(DeviceError::Connect { .. }));
    let cause = ApiError::from(error);
    if missing || cause.code == ErrorCode::NotFound {
        return ApiError::new(
            ErrorCode::NotFound,
            format!("not found:{device}: {}", cause.message),
        )
        .hint("create it with wdevc create-wdev, and see that walb-wdev runs");
    }
    cause
}

/// Two names of one device have one key: the socket may be left out, or be reached through links.
fn device_key(spec: &DeviceSpec) -> String {
    let real = |path: &Utf8PathBuf| path.canonicalize_utf8().unwrap_or_else(|_| path.clone());
    match spec {
        DeviceSpec::Wdev { socket, name } => {
            format!(
                "wdev:{}#{name}",
                real(&socket.clone().unwrap_or_else(default_socket))
            )
        }
        DeviceSpec::Kernel { path } => real(path).to_string(),
    }
}

fn settle(name: &str, records: Result<Records, String>, shared: &Arc<Shared>) -> Result<Arc<Volume>, String> {
    let name = VolumeName::new(name).map_err(|e| e.to_string())?;
    let records = records?;
    let spec: DeviceSpec = records.device.parse().map_err(|e| format!("{e}"))?;
    let device = Device::open(spec).map_err(|e| chain(&e))?;
    tracing::info!(volume = %name, state = walb_common::state::Named::name(&records.state), "volume taken up");
    Ok(Volume::new(name, device, records, shared.clone()))
}

fn lock_data_dir(dir: &std::path::Path) -> Result<File, OpenError> {
    let failed = |act| {
        move |source| OpenError::DataDir {
            act,
            path: dir.to_owned(),
            source,
        }
    };
    std::fs::create_dir_all(dir).map_err(failed("create"))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))
        .map_err(failed("open the lock file of"))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: dir.to_owned() }),
        Err(error) => Err(failed("lock")(error.into())),
    }
}
