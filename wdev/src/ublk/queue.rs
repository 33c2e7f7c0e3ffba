//! The queue of a ublk device: one thread takes requests from the kernel and gives answers back.
//!
//! Each of the queue's tags is always in one of three places: with the kernel (a FETCH waits for a request), with the
//! device below (a request is being done), or on its way back (`answers`).
//!
//! The kernel takes back what waits when the process ends, or when it closes the ring. The second is avoided: Linux 6.12.95 can
//! crash then (a null pointer in `io_req_caches_free`; seen in `cargo xtask vm`, under load). So a queue ends either because
//! the device was stopped, when nothing waits any more, or with the process; until then its thread sleeps.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use walb_common::types::LB_SIZE;
use zerocopy::IntoBytes as _;

use super::uapi::{
    COMMIT_AND_FETCH_REQ, FETCH_REQ, IO_FUA, IO_NO_UNMAP, IoCommand, OP_DISCARD, OP_FLUSH, OP_MASK, OP_READ,
    OP_WRITE, OP_WRITE_ZEROES, Request, data_position,
};
use crate::block::{BlockDevice, Done, IoErrno, IoOp, IoRequest};

/// Marks the completion that is no tag's.
const WAKE: u64 = u64::MAX;

/// A running queue.
pub struct Queue {
    /// Hears when the thread takes no more requests.
    ended: Receiver<()>,
    shared: Arc<Shared>,
}

struct Shared {
    answers: Mutex<VecDeque<(u16, Result<Bytes, IoErrno>)>>,
    /// Wakes the thread: there are answers, or it is to pause.
    wake: OwnedFd,
    pause: AtomicBool,
}

impl Shared {
    fn wake(&self) {
        // Fails only where 2^64 wakes are waiting, which wakes too.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Queue {
    /// Starts the thread; returns when all tags wait for requests, so that the device can be started.
    pub fn start(
        device: Arc<dyn BlockDevice>,
        node: File,
        depth: u16,
        bytes_max: u32,
        name: &str,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
            pause: AtomicBool::new(false),
        });
        let (begun, has_begun) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let theirs = Arc::clone(&shared);
        let what = name.to_owned();
        // The kernel binds the queue to the thread that fetches first.
        let serve = move || {
            let mut worker = match Worker::new(device, node, depth, bytes_max, theirs) {
                Ok(worker) => worker,
                Err(error) => return drop(begun.send(Err(error))),
            };
            let first = worker.begin();
            let fetches = first.is_ok();
            let _ = begun.send(first);
            let ended = if fetches { worker.run() } else { Ok(End::Paused) };
            if let Err(error) = &ended {
                tracing::error!(device = what, "ublk queue ended: {error}");
            }
            if let Ok(End::Stopped) = ended {
                drop(worker);
                let _ = end.send(());
                return;
            }
            let _ = end.send(());
            loop {
                thread::park();
            }
        };
        thread::Builder::new().name(format!("ublk-{name}")).spawn(serve)?;
        has_begun.recv().map_err(io::Error::other)??;
        Ok(Self { ended, shared })
    }

    /// Waits until the thread has seen that the device was stopped, and has closed its node.
    pub fn stopped(self, within: Duration) {
        if self.ended.recv_timeout(within).is_err() {
            tracing::error!("the queue of a ublk device that was stopped goes on");
        }
    }
}

impl Drop for Queue {
    /// From now on no request reaches the device. Those without an answer are the next process's.
    fn drop(&mut self) {
        self.shared.pause.store(true, Ordering::Relaxed);
        self.shared.wake();
        // Fails where the thread is gone, which is as good.
        let _ = self.ended.recv();
    }
}

/// The requests' descriptors, which the driver writes.
struct Descriptors {
    at: *const Request,
    bytes: usize,
    depth: u16,
}

impl Descriptors {
    fn map(node: &File, depth: u16) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = (usize::from(depth) * size_of::<Request>()).next_multiple_of(page);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::POPULATE,
                node,
                0,
            )
        }?;
        let at = at.cast::<Request>().cast_const();
        Ok(Self { at, bytes, depth })
    }

    fn of(&self, tag: u16) -> Request {
        assert!(tag < self.depth, "the kernel names only tags of the queue");
        // SAFETY: inside the mapping, which is page-aligned and stays until drop; any bytes are a `Request`. The driver
        // writes it before it completes the tag's FETCH and not again before the next one.
        unsafe { self.at.add(usize::from(tag)).read_volatile() }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; no reference into it exists, `of` copies.
        let _ = unsafe { munmap(self.at.cast_mut().cast(), self.bytes) };
    }
}

struct Worker {
    // Before the node: the kernel lets go of its commands when the ring goes.
    ring: IoUring,
    descriptors: Descriptors,
    node: File,
    device: Arc<dyn BlockDevice>,
    shared: Arc<Shared>,
    /// Longest request in bytes.
    bytes_max: u32,
    /// Tags that the kernel has not given up.
    alive: u16,
}

/// Why a queue takes no more requests.
enum End {
    /// The device was stopped; the kernel has given everything back.
    Stopped,
    /// We were told to; requests may wait.
    Paused,
}

impl Worker {
    fn new(
        device: Arc<dyn BlockDevice>,
        node: File,
        depth: u16,
        bytes_max: u32,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let descriptors = Descriptors::map(&node, depth)?;
        // A tag has at most one entry, and there is one for waking.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .build((u32::from(depth) + 1).next_power_of_two())?;
        Ok(Self {
            ring,
            descriptors,
            node,
            device,
            shared,
            bytes_max,
            alive: depth,
        })
    }

    /// Asks for the first requests.
    fn begin(&mut self) -> io::Result<()> {
        self.listen()?;
        for tag in 0..self.alive {
            self.command(FETCH_REQ, tag, 0)?;
        }
        self.ring.submit()?;
        // A refused FETCH ends at once. Others do not end before the device is started.
        let refused = self
            .ring
            .completion()
            .find(|c| c.user_data() != WAKE && c.result() < 0);
        match refused {
            Some(refused) => Err(io::Error::from_raw_os_error(-refused.result())),
            None => Ok(()),
        }
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: no entry of ours points to memory; their descriptors live as long as the ring.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Asks to be told when the eventfd has been written to.
    fn listen(&mut self) -> io::Result<()> {
        let events = u32::try_from(libc::POLLIN).unwrap_or_default();
        let entry = opcode::PollAdd::new(Fd(self.shared.wake.as_raw_fd()), events).build();
        self.push(&entry.user_data(WAKE))
    }

    fn command(&mut self, op: u32, tag: u16, result: i32) -> io::Result<()> {
        let command = IoCommand {
            tag,
            result,
            ..IoCommand::default()
        };
        let mut bytes = [0; 16];
        bytes.copy_from_slice(command.as_bytes());
        let entry = opcode::UringCmd16::new(Fd(self.node.as_raw_fd()), op)
            .cmd(bytes)
            .build();
        self.push(&entry.user_data(tag.into()))
    }

    /// Until the device is stopped or we are to pause.
    fn run(&mut self) -> io::Result<End> {
        while self.alive > 0 {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => drop(waited?),
            }
            if self.shared.pause.load(Ordering::Relaxed) {
                return Ok(End::Paused);
            }
            let ended: Vec<_> = self
                .ring
                .completion()
                .map(|c| (c.user_data(), c.result()))
                .collect();
            for (what, result) in ended {
                match u16::try_from(what) {
                    Ok(tag) if result == 0 => self.begin_request(tag),
                    // The device is being stopped; nothing comes for this tag any more.
                    Ok(_) if result == -libc::ENODEV => self.alive -= 1,
                    Ok(tag) => {
                        return Err(io::Error::other(format!(
                            "tag {tag} ended with {}",
                            io::Error::from_raw_os_error(-result)
                        )));
                    }
                    Err(_) => {
                        let mut count = [0; 8];
                        rustix::io::read(&self.shared.wake, &mut count)?;
                        self.listen()?;
                    }
                }
            }
            self.answer()?;
        }
        Ok(End::Stopped)
    }

    /// Hands a request down.
    fn begin_request(&mut self, tag: u16) {
        let shared = Arc::clone(&self.shared);
        let done: Done = Box::new(move |result| {
            let mut answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push_back((tag, result));
            let first = answers.len() == 1;
            drop(answers);
            if first {
                shared.wake();
            }
        });
        match self.operation(tag) {
            Ok(op) => self.device.submit(IoRequest { op, done }),
            Err(errno) => done(Err(errno)),
        }
    }

    fn operation(&self, tag: u16) -> Result<IoOp, IoErrno> {
        let request = self.descriptors.of(tag);
        if request.op_flags & OP_MASK == OP_FLUSH {
            // Its place means nothing, and is the largest number there is.
            return Ok(IoOp::Flush);
        }
        let offset = request.start_sector.checked_mul(LB_SIZE).ok_or(IoErrno::EINVAL)?;
        let len = u64::from(request.nr_sectors) * LB_SIZE;
        let fua = request.op_flags & IO_FUA != 0;
        let len_of_data = || match u32::try_from(len) {
            Ok(len) if len <= self.bytes_max => Ok(len),
            _ => Err(IoErrno::EINVAL),
        };
        Ok(match request.op_flags & OP_MASK {
            OP_READ => IoOp::Read {
                offset,
                len: len_of_data()?,
            },
            OP_WRITE => IoOp::Write {
                offset,
                data: self.take_data(tag, len_of_data()?)?,
                fua,
            },
            OP_DISCARD => IoOp::Discard { offset, len, fua },
            OP_WRITE_ZEROES => IoOp::WriteZeroes {
                offset,
                len,
                fua,
                no_hole: request.op_flags & IO_NO_UNMAP != 0,
            },
            _ => return Err(IoErrno::EINVAL),
        })
    }

    /// The data of a write.
    fn take_data(&self, tag: u16, len: u32) -> Result<Bytes, IoErrno> {
        let mut data = vec![0; len as usize];
        let mut got = 0;
        while got < data.len() {
            match rustix::io::pread(&self.node, &mut data[got..], data_position(tag) + got as u64) {
                Ok(0) => return Err(IoErrno::EIO),
                Ok(n) => got += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!("take the data of a ublk request: {errno}");
                    return Err(IoErrno::EIO);
                }
            }
        }
        Ok(data.into())
    }

    /// Gives the data of a read.
    fn give_data(&self, tag: u16, data: &[u8]) -> Result<(), IoErrno> {
        let mut given = 0;
        while given < data.len() {
            match rustix::io::pwrite(&self.node, &data[given..], data_position(tag) + given as u64) {
                Ok(0) => return Err(IoErrno::EIO),
                Ok(n) => given += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!("give the data of a ublk request: {errno}");
                    return Err(IoErrno::EIO);
                }
            }
        }
        Ok(())
    }

    /// Answers what is done, and asks for the next requests.
    fn answer(&mut self) -> io::Result<()> {
        let answers =
            std::mem::take(&mut *self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner));
        for (tag, result) in answers {
            let result = result.and_then(|data| {
                self.give_data(tag, &data)?;
                let request = self.descriptors.of(tag);
                Ok(match request.op_flags & OP_MASK {
                    // At most `bytes_max`.
                    OP_READ | OP_WRITE => {
                        i32::try_from(u64::from(request.nr_sectors) * LB_SIZE).unwrap_or(i32::MAX)
                    }
                    _ => 0,
                })
            });
            let result = result.unwrap_or_else(|errno| -errno.0);
            self.command(COMMIT_AND_FETCH_REQ, tag, result)?;
        }
        Ok(())
    }
}
