//! Reading: the pending set first, the data device for the rest.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use bytes::Bytes;
use walb_common::types::{LB_SIZE, Lb};

use super::pending::{Fill, Piece};
use super::threads::{Leave, Patience};
use super::{Engine, ReadItem, Shared, Stopping};
use crate::block::{Done, IoErrno};
use crate::disk::{AlignedBuf, Read};

/// A reader thread.
pub(super) fn run(shared: &Shared) -> Leave {
    let depth = shared.data.read_depth();
    let mut patience = Patience::default();
    loop {
        let mut state = shared.lock();
        while state.reads.is_empty() {
            if state.stopping != Stopping::No {
                // A stop waits for the queue to become empty.
                shared.moved.notify_all();
            }
            if state.stopping == Stopping::Now {
                return Leave::Stopped;
            }
            match shared.reader.rest(shared, state, &mut patience) {
                Some(still) => state = still,
                None => return Leave::Idle,
            }
        }
        let count = depth.min(state.reads.len());
        let items: Vec<ReadItem> = state.reads.drain(..count).collect();
        drop(state);
        shared.read_many(items);
    }
}

impl Shared {
    /// Reads checked ranges and answers each as soon as it is there.
    pub(super) fn read_many(&self, items: Vec<ReadItem>) {
        let (mut below, mut waiting) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for ReadItem { offset, len, done } in items {
            // Pending first: a piece leaves the set only when it is on the data device, so what is not here is there.
            let pieces = self.pending_in(offset, len);
            if pieces.iter().map(|p| p.len.bytes()).sum::<u64>() >= u64::from(len) {
                done(Ok(lay_over(Bytes::new(), &pieces, offset, len as usize)));
                continue;
            }
            let len = len as usize;
            below.push(Read { offset, len });
            waiting.push(Some((pieces, done)));
        }
        self.data.read_many(&below, &mut |index, result| {
            let Some((pieces, done)) = waiting[index].take() else {
                return;
            };
            let Read { offset, len } = below[index];
            done(match result {
                Ok(found) if pieces.is_empty() => Ok(found),
                Ok(found) => Ok(lay_over(found, &pieces, offset, len)),
                Err(error) => Err(self.read_failed(offset, len, &error)),
            });
        });
    }

    fn pending_in(&self, offset: u64, len: u32) -> Vec<Piece> {
        let (at, len) = (Lb(offset / LB_SIZE), Lb(u64::from(len) / LB_SIZE));
        self.lock().pending.overlapping(at, len)
    }

    fn read_failed(&self, offset: u64, len: usize, error: &io::Error) -> IoErrno {
        tracing::error!(device = %self.name, offset, len, "read of the data device {}: {error}", self.data.path());
        IoErrno::EIO
    }
}

/// The pieces over what was `found` on the data device (nothing, if they are all of the range).
fn lay_over(found: Bytes, pieces: &[Piece], offset: u64, len: usize) -> Bytes {
    let mut buffer = AlignedBuf::with_capacity(len);
    buffer.extend_from_slice(&found);
    buffer.resize(len);
    for piece in pieces {
        let byte = |lb: Lb| usize::try_from(lb.bytes()).expect("inside a read");
        let start = byte(Lb(piece.at.0 - offset / LB_SIZE));
        let here = &mut buffer[start..start + byte(piece.len)];
        match &piece.fill {
            Fill::Data(data) => here.copy_from_slice(data),
            Fill::Zeros { .. } => here.fill(0),
        }
    }
    buffer.freeze()
}

impl Engine {
    /// Reads the present data on this thread; same rules as a read request.
    ///
    /// Refused once the data device may have lost writes. A guest may read on, as on any disk that fails; but a backup
    /// would take old blocks for the present ones, and no log after it brings the lost ones again.
    pub fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, IoErrno> {
        use crate::block::{BlockDevice, IoOp};
        IoOp::Read { offset, len }.check(self.size())?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let done: Done = Box::new(move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        });
        self.shared.read_many(vec![ReadItem { offset, len, done }]);
        let data = receiver.recv().unwrap_or(Err(IoErrno::EIO))?;
        if self.shared.data_lost.load(Ordering::Relaxed) {
            return Err(IoErrno::EIO);
        }
        Ok(data)
    }
}
