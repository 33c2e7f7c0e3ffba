//! What a connection has in flight, and the answers on their way out.
//!
//! ```text
//!  reader --claim(cost)--> [ requests in flight ] --answer--> queue --> writer thread --> socket
//!            ^ waits while the window is full                              |
//!            +------------------- room is given back when the answer has left
//! ```
//!
//! Answers come from the device's threads, which must never wait for a client: they only push here. What the reader's own
//! thread answers, because it does the device's work itself, is gathered and leaves in one call ([`Window::gather`]). Since
//! a request's room (its payload or the data it asked for) returns only when its answer has been written, a client that does
//! not read fills its own window, then its connection is not read any more; nothing else notices.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use bytes::Bytes;

use super::protocol::{
    CHUNK_BYTES, CHUNK_DONE, CHUNK_ERROR, CHUNK_OFFSET_DATA, Errno, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
};
use super::transport::{Taken, Transport};

/// Answers written by one system call.
const BATCH: usize = 128;
/// An answer up to this size may be written by the device's thread itself, if that cannot wait.
const WRITE_NOW_BYTES: usize = 64 << 10;
const HEAD_BYTES: usize = CHUNK_BYTES + 8;

/// One encoded answer.
#[derive(Debug)]
pub struct Reply {
    head: [u8; HEAD_BYTES],
    head_length: usize,
    data: Bytes,
    /// What the request claimed.
    cost: u64,
}

impl Reply {
    /// `magic, error, cookie`, then the data of a read.
    pub fn simple(cookie: u64, result: Result<Bytes, Errno>, cost: u64) -> Self {
        let (code, data) = match result {
            Ok(data) => (0, data),
            Err(errno) => (errno.code(), Bytes::new()),
        };
        let mut head = [0; HEAD_BYTES];
        head[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&code.to_be_bytes());
        head[8..16].copy_from_slice(&cookie.to_be_bytes());
        Self {
            head,
            head_length: SIMPLE_REPLY_BYTES,
            data,
            cost,
        }
    }

    /// The answer to a read as one structured chunk: `magic, flags, type, cookie, length`, then offset and data, or
    /// error number and an empty message.
    pub fn structured(cookie: u64, offset: u64, result: Result<Bytes, Errno>, cost: u64) -> Self {
        let mut head = [0; HEAD_BYTES];
        let (kind, tail_length, data) = match result {
            Ok(data) => {
                head[20..28].copy_from_slice(&offset.to_be_bytes());
                (CHUNK_OFFSET_DATA, 8, data)
            }
            Err(errno) => {
                head[20..24].copy_from_slice(&errno.code().to_be_bytes());
                (CHUNK_ERROR, 6, Bytes::new())
            }
        };
        let length = u32::try_from(tail_length + data.len()).unwrap_or(u32::MAX);
        head[0..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        head[4..6].copy_from_slice(&CHUNK_DONE.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&cookie.to_be_bytes());
        head[16..20].copy_from_slice(&length.to_be_bytes());
        Self {
            head,
            head_length: CHUNK_BYTES + tail_length,
            data,
            cost,
        }
    }

    /// Chunks that are encoded already.
    pub fn chunks(chunks: Vec<u8>) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            head_length: 0,
            data: chunks.into(),
            cost: 0,
        }
    }

    fn length(&self) -> usize {
        self.head_length + self.data.len()
    }

    fn parts(&self) -> [&[u8]; 2] {
        [&self.head[..self.head_length], &self.data]
    }
}

/// How much one connection may have in flight.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    /// Requests.
    pub requests: usize,
    /// Bytes of payload, both ways. One request larger than this goes alone.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    requests: usize,
    bytes: u64,
    queue: VecDeque<Reply>,
    /// Bytes of the queue's first answers that have been written; less than a batch of them.
    sent: usize,
    /// Somebody is writing to the socket; nobody else may.
    writing: bool,
    /// The thread that will write what it answers by itself.
    gathering: Option<ThreadId>,
    reader_waits: bool,
    /// No more requests come.
    no_more: bool,
    /// Answers cannot be delivered any more; they are dropped.
    broken: bool,
}

impl State {
    fn fits(&self, limits: &WindowLimits, cost: u64) -> bool {
        let room = self.requests < limits.requests && self.bytes.saturating_add(cost) <= limits.bytes;
        room || self.requests == 0
    }
}

/// See the module.
pub struct Window {
    limits: WindowLimits,
    transport: Arc<dyn Transport>,
    state: Mutex<State>,
    /// For the reader: room in the window, or all answered.
    room: Condvar,
    /// For the writer: something to write, or the end.
    work: Condvar,
}

impl Window {
    /// An empty window.
    pub fn new(limits: WindowLimits, transport: Arc<dyn Transport>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            transport,
            state: Mutex::default(),
            room: Condvar::new(),
            work: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for one request of `cost` bytes. False: the connection is broken.
    pub fn claim(&self, cost: u64) -> bool {
        let mut state = self.lock();
        loop {
            if state.broken {
                return false;
            }
            if state.fits(&self.limits, cost) {
                state.requests += 1;
                state.bytes += cost;
                return true;
            }
            state.reader_waits = true;
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.reader_waits = false;
        }
    }

    /// Whether a request of `cost` bytes would not have to wait.
    pub fn has_room(&self, cost: u64) -> bool {
        let state = self.lock();
        state.broken || state.fits(&self.limits, cost)
    }

    /// Gives back the room of a request that will have no answer.
    pub fn forfeit(&self, cost: u64) {
        self.release(&mut self.lock(), 1, cost);
    }

    fn release(&self, state: &mut State, requests: usize, bytes: u64) {
        state.requests -= requests;
        state.bytes -= bytes;
        if state.reader_waits {
            self.room.notify_one();
        }
        if state.requests == 0 && state.no_more {
            self.work.notify_one();
        }
    }

    /// Takes the answer of a claimed request. Never waits for the client.
    pub fn answer(&self, reply: Reply) {
        let mut state = self.lock();
        if state.broken {
            return self.release(&mut state, 1, reply.cost);
        }
        if state
            .gathering
            .is_some_and(|reader| reader == thread::current().id())
        {
            state.queue.push_back(reply);
            return;
        }
        // The only request in flight: nothing to batch with, and handing it to the writer would cost a switch of
        // threads, which is most of the latency of a small request. So it is written here, as far as that cannot wait.
        let alone = state.requests == 1 && state.queue.is_empty() && !state.writing;
        if alone && reply.length() <= WRITE_NOW_BYTES {
            state.queue.push_back(reply);
            return self.write_now(state);
        }
        state.queue.push_back(reply);
        if !state.writing {
            self.work.notify_one();
        }
    }

    /// Lets `work` answer on this thread, and then writes what it has answered, as far as that cannot wait.
    pub fn gather(&self, work: impl FnOnce()) {
        self.lock().gathering = Some(thread::current().id());
        work();
        let mut state = self.lock();
        state.gathering = None;
        if !state.writing && !state.queue.is_empty() {
            self.write_now(state);
        }
    }

    /// Writes the answers in the queue as far as that cannot wait; the rest, or the same error again, is the writer's. Only
    /// while nobody is writing.
    fn write_now<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.sent > 0 || state.queue.len() > BATCH {
            return self.work.notify_one();
        }
        let batch: Vec<Reply> = state.queue.drain(..).collect();
        state.writing = true;
        drop(state);
        let length: usize = batch.iter().map(Reply::length).sum();
        let sent = if length > WRITE_NOW_BYTES {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            let parts: Vec<IoSlice<'_>> = batch
                .iter()
                .flat_map(Reply::parts)
                .filter(|part| !part.is_empty())
                .map(IoSlice::new)
                .collect();
            self.transport.write_now(&parts)
        };
        state = self.lock();
        state.writing = false;
        match sent {
            Ok(Taken { bytes, flush: false }) if bytes >= length => {
                let cost = batch.iter().map(|reply| reply.cost).sum();
                self.release(&mut state, batch.len(), cost);
            }
            // Others may have queued meanwhile: go before them.
            sent => {
                state.sent = sent.map_or(0, |taken| taken.bytes);
                for reply in batch.into_iter().rev() {
                    state.queue.push_front(reply);
                }
            }
        }
        if !state.queue.is_empty() {
            self.work.notify_one();
        }
    }

    /// No more requests come: the writer ends when the last one is answered.
    pub fn no_more_requests(&self) {
        self.lock().no_more = true;
        self.work.notify_one();
    }

    /// The writer thread: writes answers until there are no more, or the connection breaks.
    pub fn write_replies(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut state = self.lock();
        loop {
            while state.writing || state.queue.is_empty() {
                if state.no_more && state.requests == 0 {
                    return Ok(());
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.queue.len().min(BATCH);
            batch.extend(state.queue.drain(..count));
            let sent = std::mem::take(&mut state.sent);
            state.writing = true;
            drop(state);
            let written = write_batch(out, &batch, sent);
            let bytes = batch.iter().map(|reply| reply.cost).sum();
            batch.clear();
            state = self.lock();
            state.writing = false;
            self.release(&mut state, count, bytes);
            if let Err(source) = written {
                return self.break_off(state, source);
            }
        }
    }

    /// Drops what cannot be delivered, wakes the reader out of its read, and waits until the device has answered all,
    /// so that nothing of this connection is in flight once it is closed.
    fn break_off(&self, mut state: MutexGuard<'_, State>, source: io::Error) -> io::Result<()> {
        state.broken = true;
        let queue = std::mem::take(&mut state.queue);
        self.release(
            &mut state,
            queue.len(),
            queue.iter().map(|reply| reply.cost).sum(),
        );
        self.room.notify_one();
        self.transport.shutdown();
        while !(state.no_more && state.requests == 0) {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Err(source)
    }
}

/// Writes every answer of the batch, of which the first `sent` bytes have already left.
fn write_batch(out: &mut dyn Write, batch: &[Reply], sent: usize) -> io::Result<()> {
    let mut parts: Vec<IoSlice<'_>> = batch
        .iter()
        .flat_map(Reply::parts)
        .filter(|part| !part.is_empty())
        .map(IoSlice::new)
        .collect();
    let mut rest = parts.as_mut_slice();
    IoSlice::advance_slices(&mut rest, sent);
    while !rest.is_empty() {
        match out.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.flush()
}
