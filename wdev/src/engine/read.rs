//! Reading: the pending set first, the data device for the rest.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use walb_common::types::{LB_SIZE, Lb};

use super::pending::Fill;
use super::{Engine, ReadItem, Shared, Stopping, wait};
use crate::block::IoErrno;

/// A reader thread. Runs until the device stops.
pub(super) fn run(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        let ReadItem { offset, len, done } = loop {
            if let Some(item) = state.reads.pop_front() {
                break item;
            }
            if state.stopping != Stopping::No {
                // A stop waits for the queue to become empty.
                shared.moved.notify_all();
            }
            if state.stopping == Stopping::Now {
                return;
            }
            state = wait(&shared.reader, state);
        };
        drop(state);
        done(shared.read(offset, len).map_err(|error| {
            tracing::error!(device = %shared.name, offset, len, "read of the data device {}: {error}", shared.data.path());
            IoErrno::EIO
        }));
    }
}

impl Shared {
    /// Reads a checked range.
    fn read(&self, offset: u64, len: u32) -> io::Result<Bytes> {
        let mut buffer = vec![0; len as usize];
        // Pending first: a piece leaves the set only when it is on the data device, so what is not here is there.
        let pieces = self
            .lock()
            .pending
            .overlapping(Lb(offset / LB_SIZE), Lb(u64::from(len) / LB_SIZE));
        let covered: u64 = pieces.iter().map(|p| p.len.bytes()).sum();
        if covered < u64::from(len) {
            self.data.read(&mut buffer, offset)?;
        }
        for piece in pieces {
            let start = usize::try_from(piece.at.bytes() - offset).map_err(io::Error::other)?;
            let here =
                &mut buffer[start..start + usize::try_from(piece.len.bytes()).map_err(io::Error::other)?];
            match piece.fill {
                Fill::Data(data) => here.copy_from_slice(&data),
                Fill::Zeros { .. } => here.fill(0),
            }
        }
        Ok(Bytes::from(buffer))
    }
}

impl Engine {
    /// Reads the present data on this thread; same rules as a read request.
    ///
    /// Refused once the data device may have lost writes. A guest may read on, as on any disk that fails; but a backup
    /// would take old blocks for the present ones, and no log after it brings the lost ones again.
    pub fn read_data(&self, offset: u64, len: u32) -> Result<Bytes, IoErrno> {
        use crate::block::{BlockDevice, IoOp};
        IoOp::Read { offset, len }.check(self.size())?;
        let data = self.shared.read(offset, len).map_err(|error| {
            tracing::error!(device = %self.shared.name, offset, len, "read of the data device: {error}");
            IoErrno::EIO
        })?;
        if self.shared.data_lost.load(Ordering::Relaxed) {
            return Err(IoErrno::EIO);
        }
        Ok(data)
    }
}
