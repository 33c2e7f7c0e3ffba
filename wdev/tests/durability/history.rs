//! What writers asked of a device since it was looked at last, and what they were answered.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::judge::judge;

pub const BLOCK: usize = 512;

/// Which request wrote a block; 0: it holds zeros.
pub type Stamp = u64;

/// The client number of calls over the control socket.
pub const CONTROL: usize = usize::MAX;

/// What died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process: what was answered survives.
    Process,
    /// The machine: what was made durable survives.
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Zeros,
    Flush,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub client: usize,
    pub kind: Kind,
    pub blocks: Range<usize>,
    pub stamp: Stamp,
    pub fua: bool,
    /// By a clock that ticks at each request and each answer.
    pub sent: u64,
    pub answered: Option<u64>,
}

impl Request {
    /// See [`crate::judge`].
    pub fn before(&self, other: &Self) -> bool {
        let same = self.client == other.client && self.sent < other.sent;
        same || self.answered.is_some_and(|at| at < other.sent)
    }

    /// What its blocks hold then.
    pub fn writes(&self) -> Stamp {
        if self.kind == Kind::Zeros { 0 } else { self.stamp }
    }
}

#[derive(Default)]
struct State {
    base: Vec<Stamp>,
    requests: Vec<Request>,
    clock: u64,
    stamp: Stamp,
}

/// The history of one device, recorded by several threads.
pub struct History {
    state: Mutex<State>,
    answered: AtomicUsize,
}

/// The bytes of a block that a request with this stamp wrote.
pub fn content(block: usize, stamp: Stamp) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if stamp != 0 {
        for (n, word) in (0u64..).zip(bytes.chunks_exact_mut(8)) {
            let mixed = (stamp ^ n << 40 ^ (block as u64) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let value = if n == 0 { stamp } else { mixed ^ mixed >> 29 };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Which request wrote each block of an image.
pub fn stamps(image: &[u8]) -> Result<Vec<Stamp>, String> {
    let stamp_of = |(block, found): (usize, &[u8])| {
        let stamp = u64::from_le_bytes(found[..8].try_into().map_err(|_| "a short block")?);
        if found == content(block, stamp) {
            return Ok(stamp);
        }
        Err(format!("block {block} holds what nobody wrote there"))
    };
    image.chunks_exact(BLOCK).enumerate().map(stamp_of).collect()
}

impl History {
    /// Of a device of so many blocks of zeros.
    pub fn new(blocks: usize) -> Self {
        let base = vec![0; blocks];
        let state = State {
            base,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            answered: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the request is sent. Its number for [`Self::answer`], and its stamp.
    pub fn begin(&self, client: usize, kind: Kind, blocks: Range<usize>, fua: bool) -> (usize, Stamp) {
        let mut state = self.lock();
        state.clock += 1;
        state.stamp += 1;
        let (sent, stamp) = (state.clock, state.stamp);
        state.requests.push(Request {
            client,
            kind,
            blocks,
            stamp,
            fua,
            sent,
            answered: None,
        });
        (state.requests.len() - 1, stamp)
    }

    /// To be called when the answer, a success, is there.
    pub fn answer(&self, number: usize) {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        state.requests[number].answered = Some(now);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests answered since the last [`Self::settle`].
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Judges what a device holds after a death; see [`Self::settle`].
    pub fn check(&self, image: &[u8], death: Death) -> Result<usize, String> {
        let state = self.lock();
        judge(&state.base, &state.requests, &stamps(image)?, death)
    }

    /// Judges what a device holds after a death, and takes it as the truth from now on. Answers how many of the requests
    /// that change something are there for certain, and how many there were.
    pub fn settle(&self, image: &[u8], death: Death) -> Result<(usize, usize), String> {
        let mut state = self.lock();
        let found = stamps(image)?;
        let there = judge(&state.base, &state.requests, &found, death)?;
        let all = state.requests.iter().filter(|r| r.kind != Kind::Flush).count();
        state.base = found;
        state.requests.clear();
        self.answered.store(0, Ordering::Relaxed);
        Ok((there, all))
    }
}
