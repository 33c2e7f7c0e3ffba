//! One volume: who works on it, what is remembered of it, its device, its watcher.
//!
//! Every change of its records is one transaction, and happens in a task of its own: a caller that is aborted in between
//! leaves memory and database in agreement.

mod commands;
mod records;
mod snapshot;
mod status;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use walb_common::daemon::context::DaemonContext;
use walb_common::daemon::occupancy::{Occupancy, Storage};
use walb_common::disk::fault;
use walb_common::rest::storage::HashBackupReport;
use walb_common::rest::{ApiError, ErrorCode};
use walb_common::state::storage::Static;
use walb_common::types::{Gid, Timestamp, VolumeName};
use walb_wdev::client::DeviceStatus;

pub use commands::StartAs;
pub use records::{Intent, Records, Shipped};
pub(crate) use snapshot::MarkError;
pub use status::{clear_status, failed_status};

use crate::config::StorageConfig;
use crate::continuity::{self, Lost};
use crate::device::{CallError, Device};
use crate::heal::Healing;
use crate::metadata::{MetadataError, VolumeStore};
use crate::plan::LsidGid;
use crate::send_wlog::Proxies;
use crate::watch_log_device::Watcher;

/// What the volumes of a daemon share.
pub struct Shared {
    /// Node, client, jobs, lifecycle.
    pub context: Arc<DaemonContext>,
    /// Table `[storage]` of the configuration.
    pub settings: StorageConfig,
    /// Most bytes a backup reads per second, each; 0 is no limit. Begins as configured, and can be set at run time.
    pub scan_limit: watch::Sender<u64>,
    /// Where records are stored.
    pub store: VolumeStore,
    /// Where logs go.
    pub proxies: Proxies,
    /// Places for transfers in the background.
    pub background: Semaphore,
}

/// See the module.
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    pub(crate) device: Device,
    pub(crate) occupancy: Occupancy<Storage>,
    pub(crate) shared: Arc<Shared>,
    /// Asks the watcher to look at once.
    pub(crate) wake: Notify,
    records: Arc<tokio::sync::Mutex<Records>>,
    watcher: tokio::sync::Mutex<Option<Watcher>>,
    seen: Mutex<Seen>,
    /// What is being done about a log that was lost.
    pub(crate) healing: Healing,
    /// Nobody releases log as long as a backup needs what the device knows of the one before.
    pub(crate) keeps_log: AtomicBool,
}

/// What the watcher lets others see.
#[derive(Debug, Default)]
struct Seen {
    last_error: Option<String>,
    due: Option<Instant>,
    sent_bytes: u64,
}

/// A change of the records failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResetError {
    #[error("reset the log")]
    Device(#[source] CallError),
    #[error("store the reset of the log")]
    Store(#[from] MetadataError),
    #[error("reset the log")]
    Fault(#[source] std::io::Error),
}

impl From<MetadataError> for ApiError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::DeviceUsed { .. } => Self::new(ErrorCode::AlreadyExists, error.to_string()),
            _ => Self::internal(&error),
        }
    }
}

impl From<ResetError> for ApiError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::Device(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}

impl Volume {
    /// A volume at rest with its stored records.
    pub fn new(name: VolumeName, device: Device, records: Records, shared: Arc<Shared>) -> Arc<Self> {
        let seen = Seen {
            last_error: records.failed.clone(),
            ..Seen::default()
        };
        Arc::new(Self {
            name,
            device,
            occupancy: Occupancy::new(records.state),
            shared,
            wake: Notify::new(),
            records: Arc::new(tokio::sync::Mutex::new(records)),
            watcher: tokio::sync::Mutex::new(None),
            seen: Mutex::new(seen),
            healing: Healing::default(),
            keeps_log: AtomicBool::new(false),
        })
    }

    /// A copy of the records.
    pub async fn records(&self) -> Records {
        self.records.lock().await.clone()
    }

    /// Changes the records: durable first, then visible. Fault points: `storage.STEP.storing` before the transaction,
    /// `storage.STEP.stored` after it.
    pub(crate) async fn change<T, E>(
        &self,
        step: &'static str,
        change: impl FnOnce(&mut Records) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetadataError> + Send + 'static,
    {
        let (records, store, name) = (self.records.clone(), self.shared.store.clone(), self.name.clone());
        let task = tokio::spawn(async move {
            let failed = |source| MetadataError::Fault {
                volume: name.clone(),
                source,
            };
            let mut records = records.lock_owned().await;
            let mut new = records.clone();
            let result = change(&mut new)?;
            fault::point(&format!("storage.{step}.storing")).map_err(failed)?;
            store.replace(&name, &records, &new).await?;
            *records = new;
            fault::point(&format!("storage.{step}.stored")).map_err(failed)?;
            Ok(result)
        });
        task.await.map_err(|e| E::from(MetadataError::Task(e)))?
    }

    /// Stores the state at rest, to be followed by the commit that shows it.
    pub(crate) async fn store_state(&self, step: &'static str, state: Static) -> Result<(), MetadataError> {
        self.change(step, move |records| {
            records.state = state;
            records.failed = None;
            Ok(())
        })
        .await
    }

    /// The end of a backup, in one step: the state at rest, and nothing left of its beginning.
    pub(crate) async fn store_backup_done(
        &self,
        step: &'static str,
        state: Static,
        report: Option<HashBackupReport>,
    ) -> Result<(), MetadataError> {
        self.change(step, move |records| {
            records.state = state;
            records.failed = None;
            records.backup = None;
            records.shipped = None;
            records.last_backup = report.or(records.last_backup.take());
            Ok(())
        })
        .await
    }

    /// Drops all log and begins a new life of it. Order: the device's log first, then in one transaction done record,
    /// empty queue, uuid and state. A crash in between leaves an old uuid in the records: continuity is found lost at the
    /// next look, and another reset heals it.
    pub(crate) async fn reset_log(
        &self,
        step: &'static str,
        gid: Gid,
        state: Static,
    ) -> Result<DeviceStatus, ResetError> {
        let status = self.device.reset_log().await.map_err(ResetError::Device)?;
        fault::point("storage.reset.device").map_err(ResetError::Fault)?;
        let (uuid, now) = (status.uuid, Timestamp::now());
        self.change(step, move |records| {
            records.reset(uuid, gid, now);
            records.state = state;
            Ok::<(), MetadataError>(())
        })
        .await?;
        self.set_error(None);
        tracing::info!(volume = %self.name, %uuid, %gid, "log reset");
        Ok(status)
    }

    /// The device's state, if its log still goes on from what was delivered.
    pub(crate) async fn continuous_status(&self) -> Result<DeviceStatus, ApiError> {
        // In this order: a record stored in between would seem to lie beyond the log's end.
        let records = self.records().await;
        let status = self.device.status().await?;
        match continuity::check(records.uuid, &records.done, &records.queue, &status) {
            Ok(()) => {}
            Err(lost) => return Err(self.refused_by(&format!("overflow:{}", self.name), &lost)),
        }
        Ok(status)
    }

    /// The refusal of a command for want of continuity. Scripts know the beginning of that of an overflow.
    pub(crate) fn refused_by(&self, known_as: &str, lost: &Lost) -> ApiError {
        let text = match lost {
            Lost::Overflowed => format!("{known_as}:{}: {lost}", self.device.spec()),
            _ => lost.to_string(),
        };
        ApiError::new(ErrorCode::Overflow, text)
    }

    /// Starts to watch the log.
    pub(crate) async fn watch(self: &Arc<Self>) {
        let mut watcher = self.watcher.lock().await;
        if let Some(old) = watcher.take() {
            old.stop().await;
        }
        *watcher = Some(Watcher::start(self.clone()));
    }

    /// Stops watching; a transfer that runs ends first, unless a forced stop cuts it.
    pub(crate) async fn unwatch(&self) {
        if let Some(watcher) = self.watcher.lock().await.take() {
            watcher.stop().await;
        }
        self.seen().due = None;
    }

    pub(crate) async fn is_watched(&self) -> bool {
        self.watcher
            .lock()
            .await
            .as_ref()
            .is_some_and(Watcher::is_running)
    }

    /// Cancelled when the watcher found that continuity is lost. Only for a watched volume.
    pub(crate) async fn lost(&self) -> tokio_util::sync::CancellationToken {
        self.watcher
            .lock()
            .await
            .as_ref()
            .map(Watcher::lost)
            .unwrap_or_default()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows (or takes back) the last failure; answers whether it is news.
    pub(crate) fn set_error(&self, error: Option<String>) -> bool {
        let mut seen = self.seen();
        let news = seen.last_error != error;
        seen.last_error = error;
        news
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.seen().last_error.clone()
    }

    pub(crate) fn set_due(&self, due: Option<Instant>) {
        self.seen().due = due;
    }

    /// Time to the next transfer, negative if it should have begun.
    pub(crate) fn due_in_ms(&self) -> Option<i64> {
        let due = self.seen().due?;
        let now = Instant::now();
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Some(if due >= now { ms(due - now) } else { -ms(now - due) })
    }

    pub(crate) fn add_sent(&self, bytes: u64) {
        self.seen().sent_bytes += bytes;
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.seen().sent_bytes
    }
}

impl From<&LsidGid> for walb_common::rest::storage::LogPoint {
    fn from(record: &LsidGid) -> Self {
        let LsidGid {
            lsid,
            gid,
            mergeable,
            timestamp,
        } = *record;
        Self {
            lsid,
            gid,
            mergeable,
            timestamp,
        }
    }
}
