//! A volume on two fault disks, and all that was ever asked of it: what may be on it after a power loss follows from that.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use camino::Utf8PathBuf;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{LogpackHeader, RecordKind, SUPER_SECTOR_OFFSET, SuperSector};
use walb_common::types::{LB_SIZE, Lb, Lsid, PhysicalBlockSize, Uuid};

use super::fault_disk::{Machine, Which};
use crate::block::{BlockDevice, IoErrno, IoOp, IoRequest, submit_and_wait};
use crate::client::{Changed, Refusal};
use crate::config::{DeviceConfig, Limits};
use crate::disk::Disk;
use crate::engine::{Engine, OpenError};

pub const BLOCKS: usize = 96;
const BLOCK: usize = LB_SIZE as usize;
/// Far beyond what any answer takes; a request without one fails the test.
const ANSWER: Duration = Duration::from_secs(120);

/// What a block holds: nothing but zeros (0), or the bytes that only this number gives.
pub type Stamp = u64;

fn block(stamp: Stamp) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if stamp != 0 {
        for (n, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
            let mixed = (stamp ^ n << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let value = if n == 0 { stamp } else { mixed ^ mixed >> 29 };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

fn stamps(bytes: &[u8]) -> Vec<Stamp> {
    let stamp_of = |found: &[u8]| {
        let stamp = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(found == block(stamp), "a block holds what nobody wrote");
        stamp
    };
    bytes.chunks_exact(BLOCK).map(stamp_of).collect()
}

/// How much of the history is known to be there.
#[derive(Default)]
struct Known {
    /// Survives a power loss.
    durable: AtomicUsize,
    /// Survives the end of the process.
    answered: AtomicUsize,
}

/// Somebody who follows the log as a backup does.
struct Follower {
    next: Lsid,
    image: Vec<Stamp>,
    /// The image at each end of a pack.
    past: BTreeMap<Lsid, Vec<Stamp>>,
}

pub struct Volume {
    pub machine: Machine,
    pub rng: StdRng,
    engine: Option<Arc<Engine>>,
    pub config: DeviceConfig,
    state_file: Utf8PathBuf,
    /// The device as it was found last.
    base: Vec<Stamp>,
    /// Every block asked to be written since, in order of submission.
    history: Vec<(usize, Stamp)>,
    known: Arc<Known>,
    answers: (mpsc::Sender<bool>, mpsc::Receiver<bool>),
    in_flight: usize,
    stamp: Stamp,
    follower: Option<Follower>,
    oldest: Lsid,
    /// What the device held at the positions from which changes may count.
    bases: HashMap<(Uuid, Lsid), Vec<Stamp>>,
    /// Blocks that were told not to have changed, and so had not.
    pub unchanged: usize,
    /// Blocks asked for that a power loss took, in all.
    pub taken: usize,
    /// Laps of the ring, in blocks of the log written.
    pub laps: u64,
    pub overflowed: bool,
}

impl Volume {
    pub fn new(seed: u64, dir: &tempfile::TempDir, pbs: PhysicalBlockSize, ring: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let base: Vec<Stamp> = (0..BLOCKS as u64).map(|n| 1 << 32 | n).collect();
        let data: Vec<u8> = base.iter().flat_map(|&s| block(s)).collect();
        let log_bytes = SUPER_SECTOR_OFFSET + (ring + 2) * pbs.bytes() as u64;
        let sector = SuperSector::format(
            pbs,
            log_bytes,
            Lb(BLOCKS as u64),
            "vol0",
            Uuid::random(),
            Salt(rng.random()),
        )
        .unwrap();
        assert_eq!(sector.ring_size(), ring);
        let mut log = vec![0; usize::try_from(log_bytes).unwrap()];
        let encoded = sector.encode();
        log[usize::try_from(SUPER_SECTOR_OFFSET).unwrap()..][..encoded.len()].copy_from_slice(&encoded);
        let limits = Limits {
            checkpoint_interval_ms: 0,
            log_sync_interval_ms: [1, 1000][rng.random_range(0..2)],
            log_tail_mib: rng.random_range(0..2),
            logpack_max_kib: [1, 8, 1024][rng.random_range(0..3)],
            log_cached_after: rng.random_range(0..4),
            ..Limits::default()
        };
        let path = |name: &str| Utf8PathBuf::try_from(dir.path().join(format!("{seed}-{name}"))).unwrap();
        let config = DeviceConfig {
            name: "vol0".to_owned(),
            ldev: path("log"),
            ddev: path("data"),
            nbd: None,
            nbd_guests: vec![],
            fuse: None,
            ublk: None,
            nbd_node: None,
            limits,
        };
        let mut volume = Self {
            machine: Machine::new(seed, log, data),
            rng,
            engine: None,
            config,
            state_file: path("state"),
            follower: Some(Follower {
                next: Lsid(0),
                image: base.clone(),
                past: BTreeMap::new(),
            }),
            bases: HashMap::from([((sector.uuid(), Lsid(0)), base.clone())]),
            unchanged: 0,
            base,
            history: vec![],
            known: Arc::default(),
            answers: mpsc::channel(),
            in_flight: 0,
            stamp: 0,
            oldest: Lsid(0),
            taken: 0,
            laps: 0,
            overflowed: false,
        };
        volume.open().unwrap();
        volume
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("open")
    }

    /// Opens the device on what the disks hold.
    pub fn open(&mut self) -> Result<(), OpenError> {
        assert!(self.engine.is_none());
        let disk = |which, path| Disk::on(self.machine.medium(which), path).unwrap();
        let log = disk(Which::Log, &self.config.ldev);
        let data = disk(Which::Data, &self.config.ddev);
        let engine = Engine::open_on(&self.config, &self.state_file, log, data)?;
        self.engine = Some(engine);
        Ok(())
    }

    /// The process dies.
    pub fn die(&mut self) {
        let engine = self.engine.take().expect("open");
        let status = engine.status();
        self.laps = self.laps.max(status.lsids.latest.0 / status.log_capacity_pb);
        self.overflowed |= status.overflow;
        engine.abandon();
        self.settle();
    }

    /// A clean stop, after which the data device alone holds everything.
    pub fn stop(&mut self) {
        self.settle();
        let engine = self.engine.take().expect("open");
        engine.stop();
        let expected = self.model();
        assert!(
            stamps(&self.machine.durable(Which::Data)) == expected,
            "after a clean stop the data device holds everything, durably"
        );
        self.known.durable.store(self.history.len(), Ordering::Relaxed);
    }

    pub fn submit(&mut self, op: IoOp) {
        let mut put = |offset: u64, bytes: u64, stamp: &mut dyn FnMut() -> Stamp| {
            let first = usize::try_from(offset / LB_SIZE).unwrap();
            let count = usize::try_from(bytes / LB_SIZE).unwrap();
            self.history.extend((first..first + count).map(|b| (b, stamp())));
        };
        let sync = match &op {
            IoOp::Write { offset, data, fua } => {
                let mut written = stamps(data).into_iter();
                put(*offset, data.len() as u64, &mut || written.next().unwrap());
                *fua
            }
            IoOp::Discard { offset, len, fua } | IoOp::WriteZeroes { offset, len, fua, .. } => {
                put(*offset, *len, &mut || 0);
                *fua
            }
            IoOp::Flush => true,
            IoOp::Read { .. } => false,
        };
        let (end, known, sender) = (
            self.history.len(),
            Arc::clone(&self.known),
            self.answers.0.clone(),
        );
        self.in_flight += 1;
        let done = Box::new(move |result: Result<Bytes, _>| {
            if result.is_ok() {
                known.answered.fetch_max(end, Ordering::Relaxed);
                if sync {
                    known.durable.fetch_max(end, Ordering::Relaxed);
                }
            }
            sender.send(result.is_ok()).unwrap();
        });
        let request = IoRequest { op, done };
        if self.rng.random_bool(0.5) {
            self.engine().submit_here(vec![request]);
        } else {
            self.engine().submit(request);
        }
    }

    /// A write of as many blocks, each with a stamp of its own.
    pub fn write_op(&mut self, at: usize, len: usize, fua: bool) -> IoOp {
        let mut data = Vec::with_capacity(len * BLOCK);
        for _ in 0..len {
            self.stamp += 1;
            data.extend_from_slice(&block(self.stamp));
        }
        IoOp::Write {
            offset: (at * BLOCK) as u64,
            data: data.into(),
            fua,
        }
    }

    /// Waits for every answer; how many were errors.
    pub fn settle(&mut self) -> usize {
        let count = std::mem::take(&mut self.in_flight);
        (0..count)
            .filter(|_| {
                !self
                    .answers
                    .1
                    .recv_timeout(ANSWER)
                    .expect("every request is answered")
            })
            .count()
    }

    /// An error is allowed only once something went wrong below.
    pub fn check(&self, result: Result<(), Refusal>) -> bool {
        if let Err(refusal) = &result {
            let excused = !self.machine.powered() || !self.machine.struck().is_empty();
            assert!(excused, "on good disks: {refusal}");
        }
        result.is_ok()
    }

    pub fn checkpoint(&mut self) {
        self.settle();
        if self.check(self.engine().checkpoint()) {
            self.known.durable.store(self.history.len(), Ordering::Relaxed);
        }
    }

    /// Takes the log as far as it is permanent, and releases what is checkpointed of it.
    pub fn follow(&mut self) {
        if self.take_log() {
            let engine = Arc::clone(self.engine());
            let written = engine.status().lsids.prev_written;
            let next = self.follower.as_ref().map_or(written, |f| f.next.min(written));
            if next <= self.oldest {
                return;
            }
            let past = self.follower.as_ref().and_then(|f| f.past.get(&next));
            if let Some(image) = past {
                self.bases.insert((engine.status().uuid, next), image.clone());
            }
            match engine.set_oldest(next) {
                // Writers may have come by since.
                Err(Refusal::Bad { .. }) if engine.status().overflow => {}
                result => {
                    if self.check(result) {
                        self.oldest = next;
                    }
                }
            }
        }
    }

    fn take_log(&mut self) -> bool {
        let engine = Arc::clone(self.engine());
        let status = engine.status();
        while let Some(follower) = &mut self.follower {
            let log = match engine.read_log(follower.next, Lsid::MAX, 16 << 10) {
                Ok(log) => log,
                Err(Refusal::LogGone { .. }) => {
                    assert!(engine.status().overflow, "log is gone that nobody released");
                    self.follower = None;
                    break;
                }
                Err(Refusal::Io { .. }) if !self.machine.powered() => return false,
                Err(refusal) => panic!("read of the log: {refusal}"),
            };
            assert_eq!((log.uuid, log.salt), (status.uuid, status.salt));
            if log.packs.is_empty() {
                break;
            }
            follower.apply(&log.packs.concat(), status.pbs, Salt(log.salt));
            assert_eq!(follower.next, log.next);
        }
        true
    }

    pub fn reset_log(&mut self) {
        self.settle();
        if self.check(self.engine().reset_log()) {
            self.known.durable.store(self.history.len(), Ordering::Relaxed);
            self.bases
                .insert((self.engine().status().uuid, Lsid(0)), self.model());
        }
        // Whether it happened or not: the follower begins anew at what is found next.
        (self.follower, self.oldest) = (None, Lsid(0));
    }

    /// Requests that the log writer takes in one go.
    pub fn burst(&mut self, ops: Vec<IoOp>) {
        let engine = Arc::clone(self.engine());
        let frozen = engine.freeze(None);
        if !self.check(frozen) {
            return;
        }
        for op in ops {
            self.submit(op);
        }
        engine.melt();
    }

    fn model(&self) -> Vec<Stamp> {
        let mut model = self.base.clone();
        for &(at, stamp) in &self.history {
            model[at] = stamp;
        }
        model
    }

    pub fn read(&self) -> Result<Bytes, IoErrno> {
        let len = u32::try_from(BLOCKS * BLOCK).unwrap();
        submit_and_wait(&**self.engine(), IoOp::Read { offset: 0, len })
    }

    fn read_all(&self) -> Vec<Stamp> {
        stamps(&self.read().unwrap())
    }

    /// Reads show the newest writes, when none failed.
    pub fn check_reads(&mut self) {
        if self.settle() > 0 || self.engine().read_only() || !self.machine.struck().is_empty() {
            return;
        }
        match self.read() {
            Ok(found) => {
                let found = stamps(&found);
                assert!(found == self.model(), "a read does not show the newest write");
                self.check_changed(&found);
            }
            Err(errno) => assert!(!self.machine.powered(), "on good disks: {errno}"),
        }
    }

    /// What is told not to have changed is what it was at the base.
    fn check_changed(&mut self, now: &[Stamp]) {
        let told = match self.engine().changed().unwrap() {
            Changed::Known(told) => told,
            Changed::Unknown { reason } => panic!("what has changed is not known: {reason}"),
        };
        let Some(base) = self.bases.get(&(told.base_uuid, told.base_lsid)) else {
            return;
        };
        let mut changed = [false; BLOCKS];
        for (at, len) in told.blocks() {
            let at = usize::try_from(at.0).unwrap();
            changed[at..at + usize::try_from(len.0).unwrap()].fill(true);
        }
        for (n, _) in changed.iter().enumerate().filter(|(_, changed)| !**changed) {
            assert_eq!(now[n], base[n], "block {n} changed, and nobody was told");
            self.unchanged += 1;
        }
    }

    /// After a failure below: the device says so, and answers no write and no flush with success.
    pub fn check_that_it_failed(&mut self) {
        self.settle();
        let deadline = std::time::Instant::now() + ANSWER;
        while !self.engine().read_only() {
            assert!(std::time::Instant::now() < deadline, "an error was swallowed");
            std::thread::yield_now();
        }
        for fua in [false, true] {
            let op = self.write_op(3, 2, fua);
            self.submit(op);
            assert_eq!(self.settle(), 1, "a write after an error");
        }
        self.submit(IoOp::Flush);
        assert_eq!(self.settle(), 1, "a flush after an error");
        self.engine().checkpoint().unwrap_err();
        self.engine()
            .set_oldest(self.engine().status().lsids.prev_written)
            .unwrap_err();
        self.engine().flush().unwrap_err();
    }

    /// The device was opened after a crash: what it holds is what it held after some prefix of the writes, one that lacks
    /// nothing of what was known to be there; and those who follow the log see the same.
    pub fn check_found(&mut self, after_power_loss: bool) {
        let found = self.read_all();
        let known = if after_power_loss {
            &self.known.durable
        } else {
            &self.known.answered
        };
        let known = known
            .load(Ordering::Relaxed)
            .max(self.known.durable.load(Ordering::Relaxed));
        let mut model = self.base.clone();
        let mut wrong = model.iter().zip(&found).filter(|(a, b)| a != b).count();
        let mut prefix = (wrong == 0).then_some(0);
        for (n, &(at, stamp)) in self.history.iter().enumerate() {
            wrong -= usize::from(model[at] != found[at]);
            model[at] = stamp;
            wrong += usize::from(model[at] != found[at]);
            if wrong == 0 {
                prefix = Some(n + 1);
            }
        }
        let total = self.history.len();
        let prefix = prefix.unwrap_or_else(|| {
            panic!("no prefix of the {total} writes (known: {known}) gives what is found")
        });
        assert!(
            prefix >= known,
            "{prefix} of {total} block writes are there, {known} were known to be"
        );
        self.taken += total - prefix;
        let status = self.engine().status();
        assert!(status.lsids.oldest >= self.oldest, "a release was taken back");
        if let Some(follower) = &self.follower {
            let (next, latest) = (follower.next, status.lsids.latest);
            assert!(
                next <= latest,
                "log up to {next} was permanent, now it ends at {latest}"
            );
        }
        assert!(self.take_log());
        if let Some(follower) = &self.follower {
            assert_eq!(follower.next, status.lsids.latest);
            assert!(
                follower.image == found,
                "the log does not give what the device holds"
            );
        } else {
            let (next, image) = (status.lsids.latest, found.clone());
            let past = BTreeMap::from([(next, image.clone())]);
            self.follower = Some(Follower { next, image, past });
        }
        if status.lsids.latest == Lsid(0) {
            // Perhaps the reset happened that the power loss cut.
            self.bases
                .entry((status.uuid, Lsid(0)))
                .or_insert_with(|| found.clone());
        }
        self.check_changed(&found);
        (self.base, self.history, self.known) = (found, vec![], Arc::default());
    }
}

impl Follower {
    fn apply(&mut self, bytes: &[u8], pbs: PhysicalBlockSize, salt: Salt) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (block, behind) = rest.split_at(pbs.bytes());
            let header = LogpackHeader::decode(block, pbs, salt, self.next).unwrap();
            let (data, behind) = behind.split_at(header.data_bytes());
            header.verify_data(data, salt).unwrap();
            for record in header.records() {
                let written = match record.kind {
                    RecordKind::Normal => stamps(&data[header.data_range(record)]),
                    RecordKind::Discard => vec![0; usize::try_from(record.size.0).unwrap()],
                    RecordKind::Padding => continue,
                };
                let at = usize::try_from(record.offset.0).unwrap();
                self.image[at..at + written.len()].copy_from_slice(&written);
            }
            (rest, self.next) = (behind, header.next_lsid());
            self.past.insert(self.next, self.image.clone());
        }
    }
}
