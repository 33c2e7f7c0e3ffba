//! Byte-wise access to a block device: whole blocks go straight through, partial ones by read-modify-write.

use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use walb_common::types::LB_SIZE;

use super::range_lock::{Held, RangeLock};
use crate::block::{BlockDevice, IoErrno, IoOp, IoRequest};

/// A change of a byte range.
#[derive(Debug)]
pub enum Change {
    /// These bytes.
    Write {
        /// What to write.
        data: Bytes,
        /// Durable before completion.
        fua: bool,
    },
    /// Zeroes that need no room.
    Discard {
        /// Bytes.
        length: u64,
    },
    /// Zeroes that keep their room.
    Zero {
        /// Bytes.
        length: u64,
    },
}

#[derive(Default)]
struct State {
    /// `None` once closed.
    device: Option<Arc<dyn BlockDevice>>,
    in_flight: usize,
}

/// A device with byte-wise access that can be taken away from its users.
pub struct BytesIo {
    state: Mutex<State>,
    idle: Condvar,
    ranges: Arc<RangeLock>,
}

impl std::fmt::Debug for BytesIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BytesIo")
            .field("in_flight", &self.lock().in_flight)
            .finish_non_exhaustive()
    }
}

impl BytesIo {
    /// Access to `device` until [`BytesIo::close`].
    pub fn new(device: Arc<dyn BlockDevice>) -> Arc<Self> {
        let state = State {
            device: Some(device),
            in_flight: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            idle: Condvar::new(),
            ranges: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the device: later requests fail, and none is in flight when this returns.
    pub fn close(&self) {
        let mut state = self.lock();
        state.device = None;
        while state.in_flight > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The device's size; 0 once closed.
    pub fn size(&self) -> u64 {
        self.lock().device.as_ref().map_or(0, |device| device.size())
    }

    fn enter(self: &Arc<Self>) -> Result<Entered, IoErrno> {
        let mut state = self.lock();
        let device = state.device.clone().ok_or(IoErrno::EIO)?;
        state.in_flight += 1;
        Ok(Entered {
            device,
            io: self.clone(),
        })
    }

    /// Reads what there is of the range: less than `length` at the end of the device.
    pub fn read(
        self: &Arc<Self>,
        offset: u64,
        length: u32,
        done: impl FnOnce(Result<Bytes, IoErrno>) + Send + 'static,
    ) {
        let device = match self.enter() {
            Ok(device) => device,
            Err(errno) => return done(Err(errno)),
        };
        let end = offset.saturating_add(length.into()).min(device.size());
        if offset >= end {
            return done(Ok(Bytes::new()));
        }
        let first = offset - offset % LB_SIZE;
        let Ok(len) = u32::try_from(end.next_multiple_of(LB_SIZE) - first) else {
            return done(Err(IoErrno::EINVAL));
        };
        let (from, to) = (to_index(offset - first), to_index(end - first));
        device.run(IoOp::Read { offset: first, len }, move |result, _device| {
            done(result.and_then(|data| {
                if to <= data.len() {
                    Ok(data.slice(from..to))
                } else {
                    Err(IoErrno::EIO)
                }
            }));
        });
    }

    /// Makes everything done before durable.
    pub fn flush(self: &Arc<Self>, done: impl FnOnce(Result<(), IoErrno>) + Send + 'static) {
        match self.enter() {
            Ok(device) => device.run(IoOp::Flush, move |result, _device| done(result.map(drop))),
            Err(errno) => done(Err(errno)),
        }
    }

    /// Makes the change, which must lie inside the device.
    pub fn change(
        self: &Arc<Self>,
        offset: u64,
        change: Change,
        done: impl FnOnce(Result<(), IoErrno>) + Send + 'static,
    ) {
        let device = match self.enter() {
            Ok(device) => device,
            Err(errno) => return done(Err(errno)),
        };
        let length = match &change {
            Change::Write { data, .. } => data.len() as u64,
            Change::Discard { length } | Change::Zero { length } => *length,
        };
        let end = match offset.checked_add(length) {
            Some(end) if end <= device.size() => end,
            _ => return done(Err(IoErrno::ENOSPC)),
        };
        if length == 0 {
            return done(Ok(()));
        }
        let first = offset - offset % LB_SIZE;
        let last = end.next_multiple_of(LB_SIZE);
        let partial = (first, last) != (offset, end);
        self.ranges.acquire(first..last, partial, move |held| {
            let done = move |result, held: Held| {
                drop(held);
                done(result);
            };
            match (change, partial) {
                (Change::Write { data, fua }, false) => {
                    device.run(IoOp::Write { offset, data, fua }, move |r, _device| {
                        done(r.map(drop), held);
                    });
                }
                (Change::Discard { length }, false) => {
                    let op = IoOp::Discard {
                        offset,
                        len: length,
                        fua: false,
                    };
                    device.run(op, move |r, _device| done(r.map(drop), held));
                }
                (Change::Zero { length }, false) => {
                    let op = IoOp::WriteZeroes {
                        offset,
                        len: length,
                        fua: false,
                        no_hole: true,
                    };
                    device.run(op, move |r, _device| done(r.map(drop), held));
                }
                (Change::Write { data, fua }, true) => {
                    device.patch(
                        Patch {
                            first,
                            last,
                            offset,
                            data,
                            fua,
                        },
                        move |r, _device| done(r, held),
                    );
                }
                (Change::Discard { .. }, true) => {
                    device.zero_partial(offset, end, false, move |r| done(r, held));
                }
                (Change::Zero { .. }, true) => {
                    device.zero_partial(offset, end, true, move |r| done(r, held));
                }
            }
        });
    }
}

/// Bytes to put into the blocks `first..last`.
struct Patch {
    first: u64,
    last: u64,
    offset: u64,
    data: Bytes,
    fua: bool,
}

/// The device, counted as in use.
struct Entered {
    device: Arc<dyn BlockDevice>,
    io: Arc<BytesIo>,
}

impl Deref for Entered {
    type Target = dyn BlockDevice;
    fn deref(&self) -> &Self::Target {
        self.device.as_ref()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.io.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.io.idle.notify_all();
        }
    }
}

impl Entered {
    /// Submits and passes the device on to `then`, for a following step.
    fn run(self, op: IoOp, then: impl FnOnce(Result<Bytes, IoErrno>, Self) + Send + 'static) {
        let device = self.device.clone();
        let done = Box::new(move |result| then(result, self));
        device.submit(IoRequest { op, done });
    }

    /// Reads the patch's blocks, changes them and writes them back. The range must be held exclusively.
    fn patch(self, patch: Patch, then: impl FnOnce(Result<(), IoErrno>, Self) + Send + 'static) {
        let Patch {
            first,
            last,
            offset,
            data,
            fua,
        } = patch;
        let Ok(len) = u32::try_from(last - first) else {
            return then(Err(IoErrno::EINVAL), self);
        };
        self.run(IoOp::Read { offset: first, len }, move |result, device| {
            let from = to_index(offset - first);
            let mut blocks = match result {
                Ok(old) if old.len() == len as usize => BytesMut::from(old),
                Ok(_) => return then(Err(IoErrno::EIO), device),
                Err(errno) => return then(Err(errno), device),
            };
            blocks[from..from + data.len()].copy_from_slice(&data);
            let op = IoOp::Write {
                offset: first,
                data: blocks.freeze(),
                fua,
            };
            device.run(op, move |result, device| then(result.map(drop), device));
        });
    }

    /// Zeroes a range with a partial block at its start, its end, or both: first these, then what is whole, which is
    /// discarded unless it must `keep` its room.
    fn zero_partial(
        self,
        offset: u64,
        end: u64,
        keep: bool,
        then: impl FnOnce(Result<(), IoErrno>) + Send + 'static,
    ) {
        let whole = offset.next_multiple_of(LB_SIZE)..end - end % LB_SIZE;
        let edge = |from: u64, to: u64| Patch {
            first: from - from % LB_SIZE,
            last: to.next_multiple_of(LB_SIZE),
            offset: from,
            data: Bytes::from(vec![0; to_index(to - from)]),
            fua: false,
        };
        if whole.start > whole.end {
            return self.patch(edge(offset, end), move |result, _device| then(result)); // inside one block
        }
        let (head, tail) = (edge(offset, whole.start), edge(whole.end, end));
        self.patch_if_any(head, move |result, device| match result {
            Err(errno) => then(Err(errno)),
            Ok(()) => device.patch_if_any(tail, move |result, device| match result {
                Ok(()) if whole.start < whole.end => {
                    let (offset, len) = (whole.start, whole.end - whole.start);
                    let fua = false;
                    let op = if keep {
                        let no_hole = true;
                        IoOp::WriteZeroes {
                            offset,
                            len,
                            fua,
                            no_hole,
                        }
                    } else {
                        IoOp::Discard { offset, len, fua }
                    };
                    device.run(op, move |result, _device| then(result.map(drop)));
                }
                result => then(result),
            }),
        });
    }

    fn patch_if_any(self, patch: Patch, then: impl FnOnce(Result<(), IoErrno>, Self) + Send + 'static) {
        if patch.data.is_empty() {
            then(Ok(()), self);
        } else {
            self.patch(patch, then);
        }
    }
}

/// A distance inside one request, which is far below what any `usize` holds.
fn to_index(distance: u64) -> usize {
    usize::try_from(distance).expect("a request is smaller than the address space")
}

#[cfg(test)]
mod tests {
    use walb_common::types::PhysicalBlockSize;

    use super::*;

    /// A device of zeros that remembers what it was asked.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<IoOp>>);

    impl BlockDevice for Recorder {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn pbs(&self) -> PhysicalBlockSize {
            PhysicalBlockSize::B512
        }
        fn read_only(&self) -> bool {
            false
        }
        fn submit(&self, IoRequest { op, done }: IoRequest) {
            let data = match &op {
                IoOp::Read { len, .. } => Bytes::from(vec![0; *len as usize]),
                _ => Bytes::new(),
            };
            self.0.lock().unwrap().push(op);
            done(Ok(data));
        }
    }

    #[test]
    fn zeroes_that_keep_their_room_are_no_discard_when_they_cut_blocks_either() {
        let recorder = Arc::new(Recorder::default());
        let io = BytesIo::new(recorder.clone());
        io.change(100, Change::Zero { length: 2000 }, |result| result.unwrap());
        io.change(100, Change::Discard { length: 2000 }, |result| result.unwrap());
        let ops = recorder.0.lock().unwrap();
        let whole: Vec<_> = ops
            .iter()
            .filter(|op| matches!(op, IoOp::WriteZeroes { .. } | IoOp::Discard { .. }))
            .collect();
        let (offset, len, fua) = (512, 1536, false);
        assert_eq!(
            whole,
            [
                &IoOp::WriteZeroes {
                    offset,
                    len,
                    fua,
                    no_hole: true
                },
                &IoOp::Discard { offset, len, fua }
            ]
        );
    }
}
