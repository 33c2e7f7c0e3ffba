//! Two disks in memory that lose power at the same moment, and fail when told to.
//!
//! What they keep apart: [`super::platter`].

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::FallocateFlags;

use super::platter::{Platter, SECTOR};
use crate::disk::Medium;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Log,
    Data,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    Sync,
}

/// When the power goes.
#[derive(Debug, Clone, Copy)]
pub enum Outage {
    /// At the n-th write or sync from now on, counted from 0.
    Event(u64),
    /// At the n-th sync from now on.
    Sync(u64),
}

/// An error to come: at the n-th such act on that disk from now on.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub which: Which,
    pub act: Act,
    pub after: u64,
    pub errno: i32,
    /// Every later one fails too, as on a disk that is gone or full.
    pub stays: bool,
}

struct State {
    log: Platter,
    data: Platter,
    rng: StdRng,
    powered: bool,
    outage: Option<Outage>,
    failures: Vec<Failure>,
    struck: Vec<Failure>,
    /// Writes through the cache that got lost there: the next sync of that disk says so.
    lost_in_cache: Vec<(Which, io::Error)>,
    any_lost_in_cache: bool,
    /// Writes come short now and then, and no range can be zeroed without writing.
    awkward: bool,
    lost: usize,
}

impl State {
    fn platter(&mut self, which: Which) -> &mut Platter {
        match which {
            Which::Log => &mut self.log,
            Which::Data => &mut self.data,
        }
    }

    fn cut(&mut self) {
        if !self.powered {
            return;
        }
        self.powered = false;
        self.outage = None;
        let (log, data) = (self.log.lose(&mut self.rng), self.data.lose(&mut self.rng));
        self.lost += log + data;
    }

    /// Whether the power goes during this act.
    fn power_goes(&mut self, act: Act) -> bool {
        let syncs_only = matches!(self.outage, Some(Outage::Sync(_)));
        let (Some(Outage::Event(left) | Outage::Sync(left)), true) = (
            &mut self.outage,
            act == Act::Sync || (act == Act::Write && !syncs_only),
        ) else {
            return false;
        };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        true
    }

    /// The error to give to this act, if any.
    fn strikes(&mut self, which: Which, act: Act) -> Option<io::Error> {
        if !self.powered {
            return Some(io::Error::from_raw_os_error(libc::EIO));
        }
        let found = self.failures.iter_mut().position(|f| {
            let mine = f.which == which && f.act == act;
            let now = mine && f.after == 0;
            f.after = f.after.saturating_sub(u64::from(mine));
            now
        })?;
        let failure = self.failures[found];
        if !failure.stays {
            self.failures.remove(found);
        }
        self.struck.push(failure);
        Some(io::Error::from_raw_os_error(failure.errno))
    }
}

/// The machine that both disks are in.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<State>>);

impl Machine {
    /// Everything on the disks is durable at first.
    pub fn new(seed: u64, log: Vec<u8>, data: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            log: Platter::new(log),
            data: Platter::new(data),
            rng: StdRng::seed_from_u64(seed),
            powered: true,
            outage: None,
            failures: vec![],
            struck: vec![],
            lost_in_cache: vec![],
            any_lost_in_cache: false,
            awkward: seed.is_multiple_of(3),
            lost: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn medium(&self, which: Which) -> Box<dyn Medium> {
        let machine = self.clone();
        Box::new(FaultDisk { machine, which })
    }

    /// The power goes now.
    pub fn cut(&self) {
        self.lock().cut();
    }

    pub fn arm(&self, outage: Option<Outage>) {
        self.lock().outage = outage;
    }

    pub fn fail(&self, failure: Failure) {
        self.lock().failures.push(failure);
    }

    /// Takes back what is to come, and tells what came.
    pub fn heal(&self) -> Vec<Failure> {
        let mut state = self.lock();
        state.failures.clear();
        state.lost_in_cache.clear();
        std::mem::take(&mut state.struck)
    }

    pub fn struck(&self) -> Vec<Failure> {
        self.lock().struck.clone()
    }

    pub fn powered(&self) -> bool {
        self.lock().powered
    }

    /// The power is back: memory is empty, so only what is durable is there.
    pub fn power_on(&self) {
        let mut state = self.lock();
        if state.powered {
            return;
        }
        state.powered = true;
        state.log.forget_cache();
        state.data.forget_cache();
    }

    /// Whether an error came that takes what was acknowledged and not synced.
    pub fn lost_in_cache(&self) -> bool {
        self.lock().any_lost_in_cache
    }

    /// Sectors that lost what was written to them, of all power losses.
    pub fn lost_sectors(&self) -> usize {
        self.lock().lost
    }

    pub fn durable(&self, which: Which) -> Vec<u8> {
        self.lock().platter(which).durable.clone()
    }
}

struct FaultDisk {
    machine: Machine,
    which: Which,
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.which.fmt(f)
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("a small disk")
}

impl Medium for FaultDisk {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.machine.lock();
        if let Some(error) = state.strikes(self.which, Act::Read) {
            return Err(error);
        }
        let here = state.platter(self.which).cache.get(position(offset)..);
        let found = here.and_then(|h| h.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.iter().copied()).collect();
        let mut state = self.machine.lock();
        let error = state.strikes(self.which, Act::Write);
        if !state.powered {
            return Err(error.unwrap_or(io::ErrorKind::Other.into()));
        }
        let mut length = bytes.len();
        if error.is_some() || (state.awkward && state.rng.random_bool(0.1)) {
            // Some sectors arrive, each whole; not one only if it is an error.
            let sectors = length / SECTOR;
            let least = usize::from(error.is_none()).min(sectors);
            length = SECTOR * state.rng.random_range(least..=sectors);
        }
        state
            .platter(self.which)
            .write(position(offset), &bytes[..length]);
        if state.power_goes(Act::Write) {
            state.cut();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        error.map_or(Ok(length), Err)
    }

    fn write_cached_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut state = self.machine.lock();
        if !state.powered {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let Some(error) = state.strikes(self.which, Act::Write) else {
            drop(state);
            return self.write_at(pieces, offset);
        };
        state.any_lost_in_cache = true;
        state.lost_in_cache.push((self.which, error));
        let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.iter().copied()).collect();
        state.platter(self.which).write(position(offset), &bytes);
        Ok(bytes.len())
    }

    fn write_depth(&self) -> usize {
        // As past the page cache; or one after the other.
        if self.machine.lock().awkward { 4 } else { 1 }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.machine.lock();
        let lost = state
            .lost_in_cache
            .iter()
            .position(|(which, _)| *which == self.which);
        let lost = lost.map(|found| state.lost_in_cache.remove(found).1);
        if let Some(error) = lost.or_else(|| state.strikes(self.which, Act::Sync)) {
            let State { log, data, rng, .. } = &mut *state;
            if self.which == Which::Log { log } else { data }.lose(rng);
            return Err(error);
        }
        if state.power_goes(Act::Sync) {
            state.cut();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        state.platter(self.which).sync();
        Ok(())
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let state = self.machine.lock();
        // An error here would only lead to zeros being written: it waits for that.
        let error_to_come = state.failures.iter().any(|f| f.which == self.which);
        if state.awkward || error_to_come {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        drop(state);
        assert!(flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE));
        let zeros = vec![0; position(len)];
        let written = self.write_at(&[IoSlice::new(&zeros)], offset)?;
        assert_eq!(written, zeros.len());
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.machine.lock().platter(self.which).cache.len() as u64)
    }

    fn forget_cache(&self) {
        self.machine.lock().platter(self.which).forget_cache();
    }
}
