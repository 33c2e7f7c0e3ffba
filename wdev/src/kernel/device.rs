//! One device of the kernel driver.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use tokio::time::{Instant, sleep};
use walb_common::daemon::chain;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{Ring, SUPER_SECTOR_OFFSET, SuperSector};
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize, Uuid};

use super::ctl::{Command, Ctl, WDEV};
use super::direct_file::DirectFile;
use super::driver::{Access, CallError, Driver};
use super::sysfs::{Sysfs, SysfsError};
use crate::client::{Changed, DeviceError, DeviceStatus, LogChunk, Lsids, Refusal, WalDevice};
use crate::log_packs::PackReader;

const NO_BITMAP: &str = "the kernel driver keeps no bitmap";
/// How often a follower looks whether there is log, and a checkpoint whether writing back has got there.
const LOOK: Duration = Duration::from_millis(100);
/// How long the driver may take to write back, or to sync, what is already logged.
const WRITE_BACK_MAX: Duration = Duration::from_secs(60);
/// Most log read in one go (single packs may be larger).
const READ_LOG_MAX: usize = 1 << 20;
/// Most data read in one go.
const READ_DATA_MAX: u32 = 4 << 20;
/// The largest pack the format can name.
const PACK_MAX: usize = (u16::MAX as usize + 1) * 4096;
/// How often the super sector is read again when it is not (yet) that of the log the driver names: a reset stores it last.
const SUPER_TRIES: u32 = 10;
const SUPER_RETRY: Duration = Duration::from_millis(50);

/// A device of the kernel driver. Everything is looked up anew in each call, so the device may be stopped and started meanwhile.
#[derive(Debug, Clone)]
pub struct KernelDevice {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    driver: Driver,
    name: String,
    node: Utf8PathBuf,
    log_node: Utf8PathBuf,
    sysfs: Sysfs,
    /// Of the log sequence seen last.
    layout: Mutex<Option<Layout>>,
}

/// What a log sequence's super sector says that does not change before the next reset.
#[derive(Debug, Clone, Copy)]
struct Layout {
    uuid: Uuid,
    salt: Salt,
    ring: Ring,
}

impl KernelDevice {
    /// The device `name` of `driver`; looks for nothing yet.
    pub fn new(driver: Driver, name: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                node: driver.dev.join(name),
                log_node: driver.dev.join(format!("L{name}")),
                sysfs: Sysfs::new(&driver.sys, name),
                name: name.to_owned(),
                driver,
                layout: Mutex::new(None),
            }),
        }
    }

    /// The running kernel's device with this node.
    pub fn at(node: &Utf8Path) -> Self {
        Self::new(Driver::system(), node.file_name().unwrap_or_default())
    }

    /// Sets the milliseconds between automatic checkpoints; 0 is off.
    pub async fn set_checkpoint_interval(&self, ms: u32) -> Result<(), DeviceError> {
        self.run(move |device| {
            let mut ctl = Ctl::new(Command::SetCheckpointInterval);
            ctl.val_u32 = ms;
            device.change(Command::SetCheckpointInterval, ctl)
        })
        .await
    }

    /// Whether the log device honours flushes.
    pub async fn is_flush_capable(&self) -> Result<bool, DeviceError> {
        self.run(|device| Ok(device.get(Command::IsFlushCapable)?.val_int != 0))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(self.inner.refused(Refusal::Stopping)),
        }
    }

    async fn lsids(&self) -> Result<Lsids, DeviceError> {
        self.run(Inner::lsids).await
    }

    /// Looks until one of the log's positions has got to `wanted`.
    async fn until(
        &self,
        what: &'static str,
        wanted: Lsid,
        of: impl Fn(&Lsids) -> Lsid,
    ) -> Result<(), DeviceError> {
        let until = Instant::now() + WRITE_BACK_MAX;
        loop {
            let found = of(&self.lsids().await?);
            if found >= wanted {
                return Ok(());
            }
            if Instant::now() >= until {
                let reason = format!(
                    "{what} is {found} after {} s, expected {wanted}",
                    WRITE_BACK_MAX.as_secs()
                );
                return Err(self.inner.refused(Refusal::Io { reason }));
            }
            sleep(LOOK).await;
        }
    }
}

impl Inner {
    fn refused(&self, source: Refusal) -> DeviceError {
        DeviceError::Refused {
            device: self.node.to_string(),
            source,
        }
    }

    fn bad(&self, reason: String) -> DeviceError {
        self.refused(Refusal::Bad { reason })
    }

    fn io(&self, reason: String) -> DeviceError {
        self.refused(Refusal::Io { reason })
    }

    /// There is no such node or directory: is it the device that is missing, or the driver?
    fn absent(&self) -> DeviceError {
        let node = self.driver.control_node();
        if let Err(source) = std::fs::metadata(&node) {
            return DeviceError::NoDriver {
                device: self.node.to_string(),
                node,
                source,
            };
        }
        let names = std::fs::read_dir(&self.driver.sys)
            .into_iter()
            .flatten()
            .flatten();
        let mut known: Vec<String> = names
            .filter(|entry| entry.path().join("walb").is_dir())
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("walb!")?.to_owned()))
            .collect();
        known.sort();
        self.refused(Refusal::NoSuchDevice {
            known: known.join(" "),
        })
    }

    fn of_sysfs(&self, error: SysfsError) -> DeviceError {
        match error {
            // Not there, or gone between opening and reading.
            SysfsError::Read { source, .. } if is_absent(&source) => self.absent(),
            other => self.io(other.to_string()),
        }
    }

    fn of_file(&self, act: &str, node: &Utf8PathBuf, source: &io::Error) -> DeviceError {
        if is_absent(source) {
            return self.absent();
        }
        self.io(format!("{act} {node}: {source}"))
    }

    fn of_call(&self, error: CallError) -> DeviceError {
        match error {
            CallError::Open { source, .. } if is_absent(&source) => self.absent(),
            CallError::Version { .. } => DeviceError::Unsupported {
                device: self.node.to_string(),
                what: error.to_string(),
            },
            CallError::Refused { ref source, .. } if source.raw_os_error() == Some(libc::ENOTTY) => {
                DeviceError::Unsupported {
                    device: self.node.to_string(),
                    what: format!("{error}: {source}: this driver does not have it"),
                }
            }
            // The driver has one error for everything it refuses; only a device turned read-only can be told apart.
            CallError::Refused { .. } if self.sysfs.read_only().unwrap_or(false) => {
                self.refused(Refusal::ReadOnly {
                    reason: format!("the driver's status says so, and {}", chain(&error)),
                })
            }
            CallError::Refused { .. } => self.bad(chain(&error)),
            CallError::Open { .. } => self.io(chain(&error)),
        }
    }

    fn call(&self, access: Access, command: Command, ctl: Ctl) -> Result<Ctl, DeviceError> {
        let named = (format!("{command:?}"), ctl);
        self.driver
            .call(&self.node, access, WDEV, named, &[], &mut [])
            .map_err(|e| self.of_call(e))
    }

    fn get(&self, command: Command) -> Result<Ctl, DeviceError> {
        self.call(Access::Look, command, Ctl::new(command))
    }

    fn change(&self, command: Command, ctl: Ctl) -> Result<(), DeviceError> {
        self.call(Access::Change, command, ctl).map(drop)
    }

    fn lsids(&self) -> Result<Lsids, DeviceError> {
        self.sysfs.lsids().map_err(|e| self.of_sysfs(e))
    }

    /// The layout of the log that the driver has now. The super sector is read only when it is another log than before.
    fn layout(&self) -> Result<Layout, DeviceError> {
        let mut tries = 1;
        loop {
            let uuid = self.sysfs.uuid().map_err(|e| self.of_sysfs(e))?;
            let kept = *self.layout.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(layout) = kept
                && layout.uuid == uuid
            {
                return Ok(layout);
            }
            let sector = self.super_sector()?;
            if sector.uuid() == uuid {
                let layout = Layout {
                    uuid,
                    salt: sector.salt(),
                    ring: sector.ring(),
                };
                *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = Some(layout);
                return Ok(layout);
            }
            if tries == SUPER_TRIES {
                return Err(self.refused(Refusal::Failed {
                    reason: format!(
                        "{} has uuid {}, the driver says {uuid}",
                        self.log_node,
                        sector.uuid()
                    ),
                }));
            }
            tries += 1;
            std::thread::sleep(SUPER_RETRY);
        }
    }

    fn super_sector(&self) -> Result<SuperSector, DeviceError> {
        let failed = |e| self.of_file("read the super sector of", &self.log_node, &e);
        let log = DirectFile::open(&self.log_node).map_err(failed)?;
        // As much as the larger of the two block sizes; which one it is stands in the sector, and is checked against the device.
        let block = log
            .read(SUPER_SECTOR_OFFSET, PhysicalBlockSize::B4096.bytes())
            .map_err(failed)?;
        let stored = u32::from_le_bytes([block[12], block[13], block[14], block[15]]);
        let bad = |reason: String| {
            self.refused(Refusal::Failed {
                reason: format!("{}: {reason}", self.log_node),
            })
        };
        let pbs = PhysicalBlockSize::new(stored).map_err(|e| bad(e.to_string()))?;
        let sector = SuperSector::decode(&block[..pbs.bytes()], pbs).map_err(|e| bad(e.to_string()))?;
        if let Some(found) = log.physical_block_size().map_err(failed)?
            && found != u32::from(pbs)
        {
            return Err(bad(format!(
                "super sector for physical blocks of {pbs} bytes on a device with {found}"
            )));
        }
        sector
            .check_fits(log.size().map_err(failed)?)
            .map_err(|e| bad(e.to_string()))?;
        Ok(sector)
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        let failed = |e| self.of_sysfs(e);
        let interval = self.get(Command::GetCheckpointInterval)?.val_u32;
        let overflow = self.get(Command::IsLogOverflow)?.val_int != 0;
        let frozen = self.get(Command::IsFrozen)?.val_int != 0;
        let log_capacity_pb = self.get(Command::GetLogCapacity)?.val_u64;
        // The positions between two looks at the uuid: they are then those of one log.
        let (layout, lsids) = loop {
            let layout = self.layout()?;
            let lsids = self.lsids()?;
            if self.sysfs.uuid().map_err(failed)? == layout.uuid {
                break (layout, lsids);
            }
        };
        let log_usage_pb = lsids.latest.0.saturating_sub(lsids.oldest.0);
        let pbs = layout.ring.pbs();
        Ok(DeviceStatus {
            name: self.name.clone(),
            uuid: layout.uuid,
            salt: layout.salt.0,
            pbs,
            size: self.sysfs.size().map_err(failed)?,
            lsids,
            log_capacity_pb,
            log_usage_pb,
            // Asked before the positions were: what they show counts as well.
            overflow: overflow || log_usage_pb > log_capacity_pb,
            frozen,
            read_only: self.sysfs.read_only().map_err(failed)?,
            // The driver does not say; the log of it is an upper bound.
            pending_bytes: lsids
                .latest
                .0
                .saturating_sub(lsids.written.0)
                .saturating_mul(pbs.bytes() as u64),
            on_ring_full: crate::config::OnRingFull::GoOn,
            waits_for_ring: false,
            changed_bytes: None,
            changed_problem: Some(NO_BITMAP.to_owned()),
            checkpoint_interval_ms: interval,
            ldev: self.sysfs.underlying("ldev").map_err(failed)?,
            ddev: self.sysfs.underlying("ddev").map_err(failed)?,
            node: None,
        })
    }

    /// Log below this is released, or overwritten, or about to be: an lsid is given to a pack before it is written.
    fn gone_below(lsids: &Lsids, ring: &Ring) -> Lsid {
        lsids.oldest.max(Lsid(lsids.latest.0.saturating_sub(ring.size())))
    }

    fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogChunk, DeviceError> {
        let layout = self.layout()?;
        let limit = limit.min(self.lsids()?.permanent);
        let read = if from < limit {
            let log =
                DirectFile::open(&self.log_node).map_err(|e| self.of_file("open", &self.log_node, &e))?;
            let reader = PackReader {
                log: &log,
                path: &self.log_node,
                ring: layout.ring,
                salt: layout.salt,
                pack_max: PACK_MAX,
            };
            reader.read(from, limit, max_bytes.min(READ_LOG_MAX))
        } else {
            Ok((Bytes::new(), from))
        };
        // Asked only now: whatever was read, and be it damage, is not to be trusted if the driver may have come by meanwhile.
        let oldest = Self::gone_below(&self.lsids()?, &layout.ring);
        if from < oldest || self.sysfs.uuid().map_err(|e| self.of_sysfs(e))? != layout.uuid {
            return Err(DeviceError::LogGone {
                device: self.node.to_string(),
                from,
                oldest,
            });
        }
        let (bytes, next) = read.map_err(|e| self.refused(e))?;
        Ok(LogChunk {
            uuid: layout.uuid,
            salt: layout.salt.0,
            bytes,
            next,
        })
    }

    fn set_oldest(&self, lsid: Lsid) -> Result<(), DeviceError> {
        let Lsids {
            oldest, prev_written, ..
        } = self.lsids()?;
        // The driver would say no more than that it refuses.
        if lsid < oldest || lsid > prev_written {
            return Err(self.bad(format!(
                "release the log below {lsid}, expected {oldest} to {prev_written} (the last checkpoint)"
            )));
        }
        match self.change(
            Command::SetOldestLsid,
            Ctl::new(Command::SetOldestLsid).with_u64(lsid.0),
        ) {
            Err(DeviceError::Refused {
                source: Refusal::Bad { reason },
                ..
            }) => Err(self.bad(format!(
                "release the log below {lsid}: does a logpack begin there? ({reason})"
            ))),
            result => result,
        }
    }

    fn resize(&self, size: Option<Lb>) -> Result<DeviceStatus, DeviceError> {
        let now = self.sysfs.size().map_err(|e| self.of_sysfs(e))?;
        if let Some(size) = size
            && size < now
        {
            return Err(self.bad(format!("new size {size}, expected at least the present {now}")));
        }
        self.change(
            Command::Resize,
            Ctl::new(Command::Resize).with_u64(size.map_or(0, |s| s.0)),
        )?;
        self.status()
    }

    fn read_data(&self, offset: u64, length: u32) -> Result<Bytes, DeviceError> {
        let aligned = offset.is_multiple_of(LB_SIZE) && u64::from(length).is_multiple_of(LB_SIZE);
        if !aligned || length > READ_DATA_MAX {
            return Err(self.bad(format!(
                "read {length} bytes at {offset}, expected multiples of {LB_SIZE} and at most {READ_DATA_MAX}"
            )));
        }
        let size = self.sysfs.size().map_err(|e| self.of_sysfs(e))?.bytes();
        if offset.checked_add(length.into()).is_none_or(|end| end > size) {
            return Err(self.bad(format!("read {length} bytes at {offset} of a device of {size}")));
        }
        let failed = |e| self.of_file("read", &self.node, &e);
        let data = DirectFile::open(&self.node).map_err(failed)?;
        data.read(offset, length as usize).map_err(failed)
    }
}

/// The node or directory is not there, or its device went away while it was in use.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

#[async_trait]
impl WalDevice for KernelDevice {
    async fn status(&self) -> Result<DeviceStatus, DeviceError> {
        self.run(Inner::status).await
    }

    async fn wait_for_log(&self, after: Lsid, within: Duration) -> Result<Lsid, DeviceError> {
        let until = Instant::now() + within;
        loop {
            let permanent = self.lsids().await?.permanent;
            let now = Instant::now();
            // Less than before: the log was reset, and the caller wants to know at once.
            if permanent != after || now >= until {
                return Ok(permanent);
            }
            sleep(LOOK.min(until - now)).await;
        }
    }

    async fn read_log(&self, from: Lsid, limit: Lsid, max_bytes: usize) -> Result<LogChunk, DeviceError> {
        self.run(move |device| device.read_log(from, limit, max_bytes))
            .await
    }

    async fn set_oldest(&self, lsid: Lsid) -> Result<(), DeviceError> {
        self.run(move |device| device.set_oldest(lsid)).await
    }

    async fn reset_log(&self) -> Result<DeviceStatus, DeviceError> {
        self.run(|device| {
            device.change(Command::ClearLog, Ctl::new(Command::ClearLog))?;
            device.status()
        })
        .await
    }

    async fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        self.run(move |device| device.read_data(offset, len)).await
    }

    /// A sync of the node; the driver counts log as permanent a moment later.
    async fn flush(&self) -> Result<(), DeviceError> {
        let wanted = self.lsids().await?.completed;
        self.run(|device| {
            let failed = |e| device.of_file("sync", &device.node, &e);
            DirectFile::open(&device.node)
                .map_err(failed)?
                .sync()
                .map_err(failed)
        })
        .await?;
        self.until("permanent lsid", wanted, |lsids| lsids.permanent)
            .await
    }

    /// The driver's own checkpoint records only what is already on the data device: that is waited for first.
    async fn checkpoint(&self) -> Result<(), DeviceError> {
        let wanted = self.lsids().await?.permanent;
        self.until("written lsid", wanted, |lsids| lsids.written).await?;
        self.run(|device| device.change(Command::TakeCheckpoint, Ctl::new(Command::TakeCheckpoint)))
            .await?;
        self.until("prev_written lsid", wanted, |lsids| lsids.prev_written)
            .await
    }

    async fn freeze(&self, timeout: Option<Duration>) -> Result<(), DeviceError> {
        // In whole seconds, and 0 means something else.
        let seconds = timeout.map_or(0, |t| {
            t.as_secs().saturating_add(u64::from(t.subsec_nanos() > 0)).max(1)
        });
        self.run(move |device| device.change(Command::Freeze, Ctl::new(Command::Freeze).with_u64(seconds)))
            .await
    }

    async fn melt(&self) -> Result<(), DeviceError> {
        self.run(|device| device.change(Command::Melt, Ctl::new(Command::Melt)))
            .await
    }

    async fn changed(&self) -> Result<Changed, DeviceError> {
        Ok(Changed::Unknown {
            reason: NO_BITMAP.to_owned(),
        })
    }

    async fn forget_changed(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn resize(&self, size: Option<Lb>) -> Result<DeviceStatus, DeviceError> {
        self.run(move |device| device.resize(size)).await
    }
}
