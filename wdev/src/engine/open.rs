//! Opening a device: believe the super sector, redo the log, find out whether log was lost.
//!
//! Redo, in this order, each step durable before the next:
//! 1. the log is synced (what an ended process left in the page cache becomes permanent) and read back from the disk;
//! 2. the packs from the written lsid on go to the data device, in order. A torn one ends the log: its header is rewritten to
//!    its good records, and the log synced, before these go there;
//! 3. intact packs behind the end, which a later redo could take for valid, are zeroed; log synced;
//! 4. data device synced;
//! 5. super sector with written = the end of the log.
//!
//! A crash anywhere before 5 means doing the same again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::sync::watch;
use walb_common::disk::fault;
use walb_common::format::log_device::{
    LogpackHeader, RecordKind, SUPER_SECTOR_OFFSET, ScanEnd, ScanError, Scanner, SuperSector,
    SuperSectorError, stale_headers,
};
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize};

use super::changed::{self, ChangedFile, ChangedState};
use super::dirty::Dirty;
use super::log_tail::LogTail;
use super::log_way::LogWay;
use super::overflow_mark::OverflowMark;
use super::pending::Pending;
use super::plan::Layout;
use super::threads::{self, Bell, Work};
use super::throttle::Throttle;
use super::{Engine, Freeze, Shared, State, Stopping, UNSYNCED_MAX_BYTES};
use crate::client::Lsids;
use crate::config::{DeviceConfig, LogDirect};
use crate::disk::{Disk, OpenDiskError};

/// How far behind the end of the log packs can have been in flight: ours are bounded, the kernel driver's are by its limits.
const IN_FLIGHT_BYTES: u64 = 2 * UNSYNCED_MAX_BYTES + (64 << 20);

/// Physical blocks of the smallest ring that works.
const RING_MIN: u64 = 2;

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A disk could not be opened, or is in use.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// The log device is not formatted, or damaged.
    #[error("log device {path} (format it with `wdevc format-ldev`?)")]
    SuperSector {
        /// Which.
        path: Utf8PathBuf,
        /// What is wrong.
        #[source]
        source: SuperSectorError,
    },
    /// The ring holds no write: one is a header and at least one block of data.
    #[error("log device {path} has a ring of {found} blocks, expected at least {RING_MIN}")]
    RingTooSmall {
        /// Which.
        path: Utf8PathBuf,
        /// Its ring.
        found: u64,
    },
    /// The data device is too small.
    #[error("data device {path} has {found} blocks, expected at least {expected}, the size of the volume")]
    DataTooSmall {
        /// Which.
        path: Utf8PathBuf,
        /// Its size.
        found: Lb,
        /// The volume's.
        expected: Lb,
    },
    /// The log could not be read.
    #[error("redo of {path}")]
    Scan {
        /// Which.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: ScanError,
    },
    /// The system said no.
    #[error("{act} {path}")]
    Io {
        /// What was done.
        act: &'static str,
        /// To which file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Engine {
    /// Opens a device. `state_file` is where it remembers an overflow; what has changed is remembered beside it.
    pub fn open(config: &DeviceConfig, state_file: &Utf8Path) -> Result<Arc<Self>, OpenError> {
        let open = |path| Disk::open_with(path, config.limits.io);
        let (log, data) = (open(&config.ldev)?, open(&config.ddev)?);
        Self::open_on(config, state_file, log, data)
    }

    /// Opens a device on disks that are open already.
    pub(super) fn open_on(
        config: &DeviceConfig,
        state_file: &Utf8Path,
        log: Disk,
        data: Disk,
    ) -> Result<Arc<Self>, OpenError> {
        let failed = |act, disk: &Disk| {
            let path = disk.path().to_owned();
            move |source| OpenError::Io { act, path, source }
        };
        log.sync_and_drop_cache().map_err(failed("sync", &log))?;
        let sector = read_super_sector(&log)?;
        if sector.ring_size() < RING_MIN {
            let (path, found) = (log.path().to_owned(), sector.ring_size());
            return Err(OpenError::RingTooSmall { path, found });
        }
        let available = Lb(data.size() / LB_SIZE);
        if sector.device_size() > available {
            let (path, expected) = (data.path().to_owned(), sector.device_size());
            return Err(OpenError::DataTooSmall {
                path,
                found: available,
                expected,
            });
        }
        let mark = OverflowMark::new(state_file);
        let marked = mark.is_set(sector.uuid()).map_err(|source| OpenError::Io {
            act: "read",
            path: state_file.to_owned(),
            source,
        })?;
        let end = redo(&config.name, &log, &data, &sector, marked)?;
        let redo_from = sector.written();
        let sector = store_end(&log, &data, sector.with_name(&config.name), end)?;
        let overflow = marked || overflowed(&log, &sector, end).map_err(failed("read", &log))?;
        if overflow && !marked {
            mark.set(sector.uuid()).map_err(|source| OpenError::Io {
                act: "write",
                path: state_file.to_owned(),
                source,
            })?;
        }
        // Redo reads and writes small pieces one after the other, which the page cache does better; it ends with everything synced.
        let log_direct = config.limits.log_direct != LogDirect::Never && past_page_cache(&log, sector.pbs())?;
        // A write of less than a block of the device goes through the page cache, so a guest may still write any 512 bytes.
        let data_direct = config.limits.data_direct && past_page_cache(&data, PhysicalBlockSize::B4096)?;
        tracing::info!(device = %config.name, oldest = %sector.oldest(), latest = %end, overflow, io = data.io(), log_direct, data_direct, "open");
        // Packs torn behind the end lie where the previous lap was: after an overflow that can be log not yet released.
        let log_floor = if overflow { redo_from } else { Lsid(0) };
        let changed = changed::load(&config.name, ChangedFile::beside(state_file), &log, &sector, end);
        let shared = shared(
            config,
            log,
            data,
            mark,
            sector,
            end,
            (overflow, log_floor, changed),
        );
        threads::prepare().map_err(|source| OpenError::Io {
            act: "start the threads for",
            path: config.ddev.clone(),
            source,
        })?;
        Ok(Arc::new(Self { shared }))
    }
}

/// False: the disk does not take direct IO and is used as before.
fn past_page_cache(disk: &Disk, unit: PhysicalBlockSize) -> Result<bool, OpenError> {
    let tried = disk.go_direct(unit).map_err(|source| OpenError::Io {
        act: "sync",
        path: disk.path().to_owned(),
        source,
    })?;
    if let Err(reason) = &tried {
        tracing::info!(disk = %disk.path(), "used through the page cache: {reason}");
    }
    Ok(tried.is_ok())
}

/// The super sector of a log device that may be in use; nothing is changed.
pub fn read_super_sector_of(ldev: &Utf8Path) -> Result<SuperSector, OpenError> {
    read_super_sector(&Disk::open_for_look(ldev)?)
}

/// The super sector says the physical block size itself: it lies at the same byte for both.
fn read_super_sector(log: &Disk) -> Result<SuperSector, OpenError> {
    let wrong = |source| OpenError::SuperSector {
        path: log.path().to_owned(),
        source,
    };
    let failed = |source| OpenError::Io {
        act: "read the super sector of",
        path: log.path().to_owned(),
        source,
    };
    let mut block = vec![0; 4096];
    let length = usize::try_from(log.size().saturating_sub(SUPER_SECTOR_OFFSET))
        .unwrap_or(usize::MAX)
        .min(4096);
    block.truncate(length);
    log.read(&mut block, SUPER_SECTOR_OFFSET).map_err(failed)?;
    let own = log.physical_block_size().map_err(failed)?;
    let stored = match block.get(12..16) {
        Some(&[0x00, 0x10, 0, 0]) => PhysicalBlockSize::B4096,
        _ => PhysicalBlockSize::B512,
    };
    if own.is_some_and(|own| own != stored) {
        tracing::warn!(ldev = %log.path(), "formatted for physical blocks of {stored} bytes, but the device has others");
    }
    let block = block.get(..stored.bytes()).unwrap_or(&block);
    let sector = SuperSector::decode(block, stored).map_err(wrong)?;
    sector.check_fits(log.size()).map_err(wrong)?;
    Ok(sector)
}

/// Steps 2 and 3. Answers the end of the log.
fn redo(name: &str, log: &Disk, data: &Disk, sector: &SuperSector, marked: bool) -> Result<Lsid, OpenError> {
    let scan_failed = |source| OpenError::Scan {
        path: log.path().to_owned(),
        source,
    };
    let log_failed = |source| OpenError::Io {
        act: "repair the end of the log on",
        path: log.path().to_owned(),
        source,
    };
    let data_failed = |source| OpenError::Io {
        act: "redo the log on",
        path: data.path().to_owned(),
        source,
    };
    let (ring, salt) = (sector.ring(), sector.salt());
    let mut scanner = Scanner::new(log, ring, salt, sector.written());
    let mut packs = 0;
    while let Some(pack) = scanner.next_pack().map_err(scan_failed)? {
        if let Some(ScanEnd::Torn {
            rewrite: Some(header),
            ..
        }) = scanner.end()
        {
            // Half of the new header would be none, and its records gone from the log: so it comes before the data.
            fault::point("wdev.redo.before_rewrite").map_err(log_failed)?;
            log.write(&header.encode(salt), ring.offset_of(header.lsid()))
                .and_then(|()| log.sync())
                .map_err(log_failed)?;
        }
        for (record, bytes) in pack.records() {
            let end = record.offset.0.saturating_add(record.size.0);
            if record.kind != RecordKind::Padding && end > sector.device_size().0 {
                tracing::warn!(device = name, lsid = %record.lsid, "log record beyond the end of the device, skipped");
                continue;
            }
            fault::point("wdev.redo.before_write").map_err(data_failed)?;
            match record.kind {
                RecordKind::Normal => data.write(&bytes, record.offset.bytes()),
                // All of the range, and as zeros: a device reads the same before and after a crash.
                RecordKind::Discard => data.zero(record.offset.bytes(), record.size.bytes(), false),
                RecordKind::Padding => Ok(()),
            }
            .map_err(data_failed)?;
        }
        packs += 1;
    }
    let end = scanner.next_lsid();
    if let Some(ScanEnd::Torn { bad, .. }) = scanner.end() {
        tracing::warn!(device = name, %end, "the log ends in a pack that was not written whole: {bad}");
    }
    let mut repaired = false;
    // After an overflow nobody needs the log below the written lsid, so everything but redo's own range is searched.
    let overflowed = marked || end.0 - sector.oldest().0 > ring.size();
    let live = if overflowed {
        sector.written()
    } else {
        sector.oldest()
    };
    let span = IN_FLIGHT_BYTES / ring.pbs().bytes() as u64;
    for lsid in stale_headers(log, &ring, salt, live, end, span).map_err(scan_failed)? {
        tracing::warn!(device = name, %lsid, end = %end, "an intact pack behind the end of the log is cleared");
        fault::point("wdev.redo.before_clear").map_err(log_failed)?;
        log.write(&vec![0; ring.pbs().bytes()], ring.offset_of(lsid))
            .map_err(log_failed)?;
        repaired = true;
    }
    if repaired {
        log.sync().map_err(log_failed)?;
    }
    if packs > 0 {
        tracing::info!(device = name, from = %sector.written(), to = %end, packs, "log redone");
    }
    Ok(end)
}

/// Steps 4 and 5.
fn store_end(log: &Disk, data: &Disk, sector: SuperSector, end: Lsid) -> Result<SuperSector, OpenError> {
    let failed = |source| OpenError::Io {
        act: "sync",
        path: data.path().to_owned(),
        source,
    };
    fault::point("wdev.redo.before_data_sync").map_err(failed)?;
    data.sync().map_err(failed)?;
    let sector = sector.with_written(end);
    let failed = |source| OpenError::Io {
        act: "store the super sector of",
        path: log.path().to_owned(),
        source,
    };
    fault::point("wdev.redo.before_super_sector").map_err(failed)?;
    log.write(&sector.encode(), SUPER_SECTOR_OFFSET).map_err(failed)?;
    log.sync().map_err(failed)?;
    Ok(sector)
}

/// Whether unreleased log has been overwritten, as far as the ring itself shows it.
fn overflowed(log: &Disk, sector: &SuperSector, end: Lsid) -> io::Result<bool> {
    let oldest = sector.oldest();
    if end.0 - oldest.0 > sector.ring_size() {
        return Ok(true);
    }
    if end == oldest {
        return Ok(false);
    }
    let mut block = vec![0; sector.pbs().bytes()];
    log.read(&mut block, sector.ring().offset_of(oldest))?;
    Ok(LogpackHeader::decode(&block, sector.pbs(), sector.salt(), oldest).is_err())
}

fn shared(
    config: &DeviceConfig,
    log: Disk,
    data: Disk,
    overflow_mark: OverflowMark,
    sector: SuperSector,
    end: Lsid,
    (overflow, log_floor, changed): (bool, Lsid, ChangedState),
) -> Arc<Shared> {
    let limits = config.limits;
    let layout = Layout::new(
        sector.ring(),
        sector.salt(),
        limits.logpack_max_kib as usize * 1024,
    );
    let lsids = Lsids {
        oldest: sector.oldest(),
        prev_written: end,
        written: end,
        permanent: end,
        flush: end,
        completed: end,
        latest: end,
    };
    let state = State {
        queue: VecDeque::new(),
        reads: VecDeque::new(),
        uuid: sector.uuid(),
        layout,
        lsids,
        epoch: 0,
        pending: Pending::default(),
        log_way: LogWay::new(&limits, sector.pbs()),
        tail: LogTail::new((limits.log_tail_mib as usize) << 20),
        changed,
        throttle: Throttle {
            policy: limits.on_ring_full,
            waiting: false,
            over: false,
        },
        overflow,
        log_floor,
        failed: None,
        freeze: Freeze::Melted,
        holds: 0,
        writer_busy: false,
        part_logged: false,
        syncer_busy: false,
        unsynced_since: None,
        syncer_timing: false,
        callers_at_work: 0,
        behind_busy: false,
        sync_wanted: false,
        flushes: Vec::new(),
        written_next: VecDeque::new(),
        checkpoint_target: Lsid(0),
        checkpoint_interval: Duration::from_millis(limits.checkpoint_interval_ms.into()),
        stopping: Stopping::No,
    };
    Arc::new_cyclic(|me| Shared {
        name: config.name.clone(),
        pbs: sector.pbs(),
        limits,
        log,
        data,
        dirty: Dirty::new(limits.data_dirty_max_mib),
        overflow_mark,
        data_lost: AtomicBool::new(false),
        size: AtomicU64::new(sector.device_size().0),
        super_sector: Mutex::new(sector),
        state: Mutex::new(state),
        writer: Bell::of(Work::LogWrite, me),
        syncer: Bell::of(Work::LogSync, me),
        behind: Bell::of(Work::WriteBehind, me),
        checkpointer: Bell::of(Work::Checkpoint, me),
        reader: Bell::of(Work::Read, me),
        moved: Bell::plain(),
        permanent: watch::Sender::new(Some(end)),
    })
}
