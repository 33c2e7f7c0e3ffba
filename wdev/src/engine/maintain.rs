//! Control operations: flush, checkpoint, release and reset of the log, freeze, resize.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use walb_common::disk::fault;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{LogpackHeader, SuperSector};
use walb_common::types::{LB_SIZE, Lb, Lsid, Uuid};

use super::plan::Layout;
use super::{Engine, Freeze, Shared, Stopping, wait};
use crate::block::{IoOp, submit_and_wait};
use crate::client::{Lsids, Refusal};

/// Largest checkpoint interval, as in the kernel driver.
const CHECKPOINT_INTERVAL_MAX: u32 = 86_400_000;

impl Engine {
    /// Makes everything acknowledged so far durable. Works while frozen, unlike a flush of a front-end.
    pub fn flush(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        if !shared.lock().frozen() {
            return submit_and_wait(self, IoOp::Flush)
                .map(drop)
                .map_err(|errno| self.refusal(errno));
        }
        let mut state = shared.lock();
        let (target, epoch) = (state.lsids.completed, state.epoch);
        while state.lsids.permanent < target && state.epoch == epoch {
            state.check_writable()?;
            state.sync_wanted = true;
            shared.syncer.notify_one();
            state = wait(&shared.moved, state);
        }
        Ok(())
    }

    fn refusal(&self, errno: crate::block::IoErrno) -> Refusal {
        match self.shared.lock().check_writable() {
            Err(refusal) => refusal,
            Ok(()) => Refusal::Io {
                reason: errno.to_string(),
            },
        }
    }

    /// Writes back everything completed so far and records it. Works while frozen.
    pub fn checkpoint(&self) -> Result<(), Refusal> {
        let state = self.shared.lock();
        let target = state.lsids.completed;
        self.shared.checkpoint_to(state, target)
    }

    /// Milliseconds between automatic checkpoints; 0 turns them off.
    pub fn set_checkpoint_interval(&self, ms: u32) -> Result<(), Refusal> {
        if ms > CHECKPOINT_INTERVAL_MAX {
            let reason = format!("checkpoint interval {ms} ms, expected at most {CHECKPOINT_INTERVAL_MAX}");
            return Err(Refusal::Bad { reason });
        }
        self.shared.lock().checkpoint_interval = Duration::from_millis(ms.into());
        self.shared.checkpointer.notify_one();
        Ok(())
    }

    /// Releases the log below `lsid`.
    pub fn set_oldest(&self, lsid: Lsid) -> Result<(), Refusal> {
        let shared = &self.shared;
        let mut sector = shared.lock_super_sector();
        let (lsids, layout, in_tail) = {
            let state = shared.lock();
            state.check_writable()?;
            (state.lsids, state.layout, state.tail.begins_at(lsid))
        };
        if lsid < lsids.oldest || lsid > lsids.prev_written {
            let reason = format!(
                "oldest lsid {lsid}, expected {} (now) to {} (the last checkpoint)",
                lsids.oldest, lsids.prev_written
            );
            return Err(Refusal::Bad { reason });
        }
        if lsid < lsids.permanent && !in_tail {
            let mut block = vec![0; shared.pbs.bytes()];
            let position = layout.ring.offset_of(lsid);
            shared
                .log
                .read(&mut block, position)
                .map_err(|e| shared.log_error("read", &e))?;
            if let Err(e) = LogpackHeader::decode(&block, shared.pbs, layout.salt, lsid) {
                return Err(Refusal::Bad {
                    reason: format!("oldest lsid {lsid}, but no logpack begins there: {e}"),
                });
            }
        }
        // Stored before anybody may think the space free; a crash before it only keeps log for longer.
        let next = sector.clone().with_oldest(lsid);
        shared
            .store_super_sector(&next)
            .map_err(|e| shared.log_failed(&e))?;
        *sector = next;
        let mut state = shared.lock();
        state.lsids.oldest = lsid;
        state.changed.set_oldest(lsid);
        drop(state);
        // Writes may wait for room in the ring.
        shared.writer.notify_all();
        Ok(())
    }

    /// Drops all log; see [`crate::client::WalDevice::reset_log`].
    ///
    /// The order, each step durable before the next:
    /// 1. no writer, everything logged so far on the data device, checkpoint: the old log is complete and needs no redo;
    /// 2. what has changed since the last release, for the old log and the new one; best effort, [`super::changed`];
    /// 3. the new super sector (lsids 0, new uuid and salt), one block: before it the log is the old one, after it the new;
    /// 4. a zero block at lsid 0. A crash before this is harmless: the salt was chosen so that the block that is there
    ///    is no header under it.
    ///
    /// The mark of an overflow names the old uuid, so step 3 takes it back as well.
    pub fn reset_log(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        {
            let mut state = shared.lock();
            state.check_writable()?;
            if state.frozen() {
                return Err(Refusal::Bad {
                    reason: "the device is frozen: melt it before a log reset".to_owned(),
                });
            }
            state.holds += 1;
        }
        let result = self.reset_held_log();
        let mut state = shared.lock();
        state.holds -= 1;
        drop(state);
        shared.wake_all();
        result
    }

    fn reset_held_log(&self) -> Result<(), Refusal> {
        let shared = &self.shared;
        let mut state = shared.lock();
        while state.writer_busy {
            state = wait(&shared.moved, state);
        }
        let target = state.lsids.completed;
        shared.checkpoint_to(state, target)?;
        shared.make_changed_exact();
        let mut sector = shared.lock_super_sector();
        let mut state = shared.lock();
        if state.stopping == Stopping::Now {
            return Err(Refusal::Stopping);
        }
        while state.syncer_busy || state.behind_busy {
            state = wait(&shared.moved, state);
        }
        let old = state.layout;
        drop(state);
        let log_bytes = shared
            .log
            .refresh_size()
            .map_err(|e| shared.log_error("size", &e))?;
        let mut first = vec![0; shared.pbs.bytes()];
        shared
            .log
            .read(&mut first, old.ring.offset_of(Lsid(0)))
            .map_err(|e| shared.log_error("read", &e))?;
        let salt = loop {
            let salt = Salt::random();
            if salt != old.salt && LogpackHeader::decode(&first, shared.pbs, salt, Lsid(0)).is_err() {
                break salt;
            }
        };
        let fresh = SuperSector::format(
            shared.pbs,
            log_bytes,
            sector.device_size(),
            &shared.name,
            Uuid::random(),
            salt,
        )
        .map_err(|e| Refusal::Bad {
            reason: e.to_string(),
        })?;
        if fresh.ring_size() < sector.ring_size() {
            let (found, expected) = (fresh.ring_size(), sector.ring_size());
            let reason =
                format!("the log device shrank: room for a ring of {found} blocks, expected {expected}");
            return Err(Refusal::Bad { reason });
        }
        let file = shared.changed_file();
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        shared.keep_for_reset(&file, fresh.uuid());
        fault::point("wdev.reset.before_super_sector").map_err(|e| shared.log_failed(&e))?;
        shared
            .store_super_sector(&fresh)
            .map_err(|e| shared.log_failed(&e))?;
        let zeros = vec![0; shared.pbs.bytes()];
        let cleared = fault::point("wdev.reset.before_zero_block")
            .and_then(|()| shared.log.write(&zeros, fresh.ring().offset_of(Lsid(0))))
            .and_then(|()| shared.log.sync());
        cleared.map_err(|e| shared.log_failed(&e))?;
        let mut state = shared.lock();
        state.epoch += 1;
        state.uuid = fresh.uuid();
        state.changed.reset_to(fresh.uuid(), fresh.ring_size());
        state.layout = Layout::new(fresh.ring(), fresh.salt(), shared.pack_max_bytes());
        state.lsids = Lsids::default();
        state.checkpoint_target = Lsid(0);
        state.tail.clear();
        state.log_way.reset();
        state.written_next.clear();
        state.overflow = false;
        state.log_floor = Lsid(0);
        shared.permanent.send_replace(Some(Lsid(0)));
        tracing::info!(device = %shared.name, uuid = %fresh.uuid(), "log reset");
        drop(state);
        *sector = fresh;
        Ok(())
    }

    /// Holds back writes; returns when none is under way.
    pub fn freeze(&self, timeout: Option<Duration>) -> Result<(), Refusal> {
        let shared = &self.shared;
        let mut state = shared.lock();
        state.check_writable()?;
        state.freeze = timeout.map_or(Freeze::Frozen, |t| Freeze::Until(Instant::now() + t));
        shared.writer.notify_all();
        while state.writer_busy && state.stopping == Stopping::No && state.failed.is_none() {
            state = wait(&shared.moved, state);
        }
        Ok(())
    }

    /// Ends a freeze.
    pub fn melt(&self) {
        self.shared.lock().freeze = Freeze::Melted;
        self.shared.wake_all();
    }

    /// Grows the device, to the data device's size if none is given.
    pub fn resize(&self, size: Option<Lb>) -> Result<(), Refusal> {
        let shared = &self.shared;
        let mut sector = shared.lock_super_sector();
        shared.lock().check_writable()?;
        let bytes = shared.data.refresh_size().map_err(|e| Refusal::Io {
            reason: e.to_string(),
        })?;
        let (available, present) = (Lb(bytes / LB_SIZE), sector.device_size());
        let size = size.unwrap_or(available);
        if size < present || size > available {
            let reason = format!(
                "size {size} blocks, expected {present} (now: a device never shrinks) to {available} (the data device)"
            );
            return Err(Refusal::Bad { reason });
        }
        if size > present {
            // What it grows by counts as changed, durably before anybody can write there.
            shared.lock().changed.tracker.resize(size);
            shared.keep_changed();
        }
        // Stored before the first write behind the old end can be acknowledged.
        let next = sector.clone().with_device_size(size);
        shared
            .store_super_sector(&next)
            .map_err(|e| shared.log_failed(&e))?;
        *sector = next;
        shared.size.store(size.0, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    pub(super) fn pack_max_bytes(&self) -> usize {
        self.limits.logpack_max_kib as usize * 1024
    }

    /// Remembers that log was overwritten. A mark that cannot be stored does not stop writers: the flag is set in memory, and
    /// a start finds most overflows by itself.
    pub(super) fn mark_overflow(&self) {
        let uuid = self.lock().uuid;
        if let Err(error) =
            fault::point("wdev.overflow.before_mark").and_then(|()| self.overflow_mark.set(uuid))
        {
            tracing::error!(device = %self.name, "store the overflow mark: {error}");
        }
    }

    fn log_error(&self, act: &str, error: &std::io::Error) -> Refusal {
        Refusal::Io {
            reason: format!("{act} the log device {}: {error}", self.log.path()),
        }
    }

    /// An error while storing the super sector: what the disk holds is unknown, so the device becomes read-only.
    fn log_failed(&self, error: &std::io::Error) -> Refusal {
        let reason = format!("store the super sector on {}: {error}", self.log.path());
        self.fail(self.lock(), reason.clone());
        Refusal::Io { reason }
    }
}
