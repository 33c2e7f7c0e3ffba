//! What a front-end (NBD, FUSE, ublk) needs of a block device: its size, and a way to submit requests.
//!
//! Requests complete through a callback, in any order. Everything is in bytes; offsets and lengths must be multiples of
//! 512 and lie inside the device, else the request completes with [`IoErrno::EINVAL`] (or `ENOSPC` for a write that
//! begins or ends behind the end). The physical block size is only advice for the guest and the log's layout.

use std::fmt;
use std::sync::mpsc;

use bytes::Bytes;
use walb_common::types::{LB_SIZE, PhysicalBlockSize};

/// A block device as front-ends see it.
pub trait BlockDevice: Send + Sync + 'static {
    /// The present size in bytes; can grow while the device is in use.
    fn size(&self) -> u64;

    /// The physical block size: advice for the guest, any multiple of 512 is accepted.
    fn pbs(&self) -> PhysicalBlockSize;

    /// True once writes are refused (after an error of the log device, until a restart).
    fn read_only(&self) -> bool;

    /// Queues a request and returns. The callback runs later on one of the device's threads, or at once for a request that is
    /// refused: it must be short and must not wait for another request of the same device.
    ///
    /// The queue itself is not bounded: a front-end bounds the bytes it has in flight.
    fn submit(&self, request: IoRequest);

    /// Queues requests in their order, as [`BlockDevice::submit`] does one by one, and may do the work on the calling thread
    /// before it returns. For a caller that may wait for a disk, with all the requests it has at present: that spares two
    /// changes of threads. Callbacks run on the calling thread or on others; it returns without waiting for other requests.
    fn submit_here(&self, requests: Vec<IoRequest>) {
        for request in requests {
            self.submit(request);
        }
    }

    /// What a checked range holds, from its start on, as far as that is cheaply known; anything may be called data. At least
    /// one extent, at most `most`; together they may be shorter than the range. Quick enough to be called for every request.
    fn allocation(&self, _offset: u64, len: u64, _most: usize) -> Result<Vec<Extent>, IoErrno> {
        let holds = Holds::Data;
        Ok(vec![Extent { len, holds }])
    }

    /// Which parts of a checked range have changed since the backup that a changed-chunk bitmap counts from; same rules as
    /// [`BlockDevice::allocation`]. `None`: no such bitmap is kept, for any range.
    fn dirty(&self, _offset: u64, _len: u64, _most: usize) -> Option<Vec<DirtyExtent>> {
        None
    }
}

/// What an extent holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Data, or not known.
    Data,
    /// Zeros that have their room.
    Zeros,
    /// Zeros without room.
    Hole,
}

/// A part of the device that holds one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, above 0.
    pub len: u64,
    /// What they hold.
    pub holds: Holds,
}

/// A part of the device that has changed as a whole, or has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyExtent {
    /// Bytes, above 0.
    pub len: u64,
    /// Whether it has changed.
    pub dirty: bool,
}

/// The callback of a request: the data read, or an empty [`Bytes`] for everything but a read.
pub type Done = Box<dyn FnOnce(Result<Bytes, IoErrno>) + Send>;

/// A request with its callback.
pub struct IoRequest {
    /// What to do.
    pub op: IoOp,
    /// Called once with the result.
    pub done: Done,
}

impl fmt::Debug for IoRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.op.fmt(f)
    }
}

/// An operation on a block device. `fua`: complete only when the operation itself is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IoOp {
    /// Read `len` bytes at `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write `data` at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Durable before completion.
        fua: bool,
    },
    /// Forget a range; later reads give zeros.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Durable before completion.
        fua: bool,
    },
    /// Make a range zero.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Durable before completion.
        fua: bool,
        /// The range must stay allocated.
        no_hole: bool,
    },
    /// Make everything completed before durable.
    Flush,
}

impl IoOp {
    /// Checks offset and length against a device of `size` bytes.
    pub fn check(&self, size: u64) -> Result<(), IoErrno> {
        let (offset, len, writes) = match self {
            Self::Read { offset, len } => (*offset, u64::from(*len), false),
            Self::Write { offset, data, .. } => (*offset, data.len() as u64, true),
            Self::Discard { offset, len, .. } | Self::WriteZeroes { offset, len, .. } => {
                (*offset, *len, true)
            }
            Self::Flush => return Ok(()),
        };
        if !offset.is_multiple_of(LB_SIZE) || !len.is_multiple_of(LB_SIZE) {
            return Err(IoErrno::EINVAL);
        }
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ if writes => Err(IoErrno::ENOSPC),
            _ => Err(IoErrno::EINVAL),
        }
    }
}

/// The errno a request failed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("errno {0}")]
pub struct IoErrno(pub i32);

impl IoErrno {
    /// The device failed.
    pub const EIO: Self = Self(5);
    /// The request is malformed: not in multiples of 512, or a read behind the end.
    pub const EINVAL: Self = Self(22);
    /// A write behind the end.
    pub const ENOSPC: Self = Self(28);
    /// The device takes no writes since an error of the log device.
    pub const EROFS: Self = Self(30);
    /// The device is being stopped.
    pub const ESHUTDOWN: Self = Self(108);
}

/// Submits an operation and waits for it. Never call this from a [`Done`] callback.
pub fn submit_and_wait(device: &dyn BlockDevice, op: IoOp) -> Result<Bytes, IoErrno> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done: Done = Box::new(move |result| {
        // The receiver outlives the request; a failed send would mean it is gone, and nobody waits.
        let _ = sender.send(result);
    });
    device.submit(IoRequest { op, done });
    receiver.recv().unwrap_or(Err(IoErrno::ESHUTDOWN))
}
