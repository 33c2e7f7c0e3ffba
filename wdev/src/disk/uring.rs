//! Reads and writes through `io_uring`: many under way at once from one thread, for one system call.
//!
//! Each thread that needs one has a small ring of its own, for as long as it lives. The memory that the kernel reads or
//! fills belongs to the jobs, and [`run`] does not return or unwind before the kernel is done with all of them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::OnceLock;

use io_uring::{EnterFlags, IoUring, Probe, opcode, squeue, types};

use super::aligned::AlignedBuf;

/// Jobs under way at once in a ring.
const ENTRIES: u32 = 64;

thread_local! {
    static RING: Cell<Option<IoUring>> = const { Cell::new(None) };
}

/// What is to be read or written.
#[derive(Debug)]
pub(super) enum Payload<'a> {
    /// Fill this.
    Read(AlignedBuf),
    /// Write these one after another.
    Write(Vec<IoSlice<'a>>),
}

/// One read or write.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// The caller's number for it.
    pub index: usize,
    /// Open at least until the job is done.
    pub fd: RawFd,
    pub offset: u64,
    pub payload: Payload<'a>,
}

impl Job<'_> {
    fn entry(&mut self, slot: u64) -> squeue::Entry {
        let fd = types::Fd(self.fd);
        let entry = match &mut self.payload {
            Payload::Read(buffer) => {
                let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                opcode::Read::new(fd, buffer.as_mut_ptr(), length)
                    .offset(self.offset)
                    .build()
            }
            Payload::Write(pieces) => {
                // An `IoSlice` is an iovec, by its documentation.
                let vectors = pieces.as_ptr().cast::<libc::iovec>();
                let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
                opcode::Writev::new(fd, vectors, count)
                    .offset(self.offset)
                    .build()
            }
        };
        entry.user_data(slot)
    }
}

/// Whether this system lets us have a ring that can what we need; asked once.
pub(super) fn availability() -> Result<(), &'static str> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let ring = new_ring().map_err(|e| format!("io_uring_setup: {e}"))?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|e| format!("probe of io_uring: {e}"))?;
        if probe.is_supported(opcode::Read::CODE) && probe.is_supported(opcode::Writev::CODE) {
            Ok(())
        } else {
            Err("io_uring of this kernel has no read and writev".to_owned())
        }
    });
    match found {
        Ok(()) => Ok(()),
        Err(reason) => Err(reason),
    }
}

fn new_ring() -> io::Result<IoUring> {
    // One thread alone uses it, and asks when it wants to know: the kernel then need not interrupt it.
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(ENTRIES)
        .or_else(|_| IoUring::new(ENTRIES))
}

/// Does all jobs, several at once, and hands each back with its result as soon as it is done: bytes, perhaps fewer than
/// asked for, or the error. `WouldBlock` means that the job did not reach the kernel, for want of memory or of a ring.
pub(super) fn run<'a>(
    jobs: impl IntoIterator<Item = Job<'a>>,
    mut done: impl FnMut(Job<'a>, io::Result<usize>),
) {
    let mut waiting: VecDeque<Job<'a>> = jobs.into_iter().collect();
    if let Some(mut ring) = RING.take().or_else(|| new_ring().ok()) {
        // Goes before the ring does.
        let mut flight = Flight {
            ring: &mut ring,
            slots: (0..ENTRIES).map(|_| None).collect(),
            under_way: 0,
        };
        let kept = loop {
            flight.load(&mut waiting);
            if flight.under_way == 0 {
                break true;
            }
            if flight.wait().is_err() {
                waiting.extend(flight.take_back());
                break false;
            }
            for (job, result) in flight.landed() {
                done(job, result);
            }
        };
        drop(flight);
        if kept {
            RING.set(Some(ring));
        }
    }
    for job in waiting {
        done(job, Err(io::ErrorKind::WouldBlock.into()));
    }
}

/// A ring, and the jobs of which the kernel may be using the memory.
struct Flight<'r, 'a> {
    ring: &'r mut IoUring,
    slots: Vec<Option<Job<'a>>>,
    /// Jobs in slots.
    under_way: usize,
}

/// The ring takes no jobs, and has none.
struct Refused;

impl<'a> Flight<'_, 'a> {
    fn load(&mut self, waiting: &mut VecDeque<Job<'a>>) {
        let mut queue = self.ring.submission();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if waiting.is_empty() || queue.is_full() {
                return;
            }
            if slot.is_some() {
                continue;
            }
            let Some(job) = waiting.pop_front() else { return };
            let entry = slot.insert(job).entry(at as u64);
            // SAFETY: the memory belongs to the job (or outlives it, for what is written), and the job stays in its slot until
            // the kernel has said that it is done with it, or is known not to have seen it: see `landed`, `take_back`, `drop`.
            // A job that moves does not move what it points to.
            if unsafe { queue.push(&entry) }.is_err() {
                waiting.extend(slot.take());
                return;
            }
            self.under_way += 1;
        }
    }

    /// Jobs that the kernel has taken and not yet answered for, or answered without our having looked.
    fn in_kernel(&mut self) -> usize {
        self.under_way.saturating_sub(self.ring.submission().len())
    }

    /// Hands the jobs to the kernel and waits until one is done.
    fn wait(&mut self) -> Result<(), Refused> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Typically no memory for more jobs: those that run give some back.
                Err(_) if self.in_kernel() > 0 => {
                    self.wait_only();
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!("io_uring takes no more: {error}; plain calls do its work");
                    return Err(Refused);
                }
            }
        }
    }

    /// Waits until one of the jobs in the kernel is done.
    fn wait_only(&mut self) {
        while self.ring.completion().is_empty() {
            // SAFETY: no argument is passed.
            let entered = unsafe {
                self.ring
                    .submitter()
                    .enter::<libc::sigset_t>(0, 1, EnterFlags::GETEVENTS.bits(), None)
            };
            if let Err(error) = entered
                && error.kind() != io::ErrorKind::Interrupted
            {
                // The kernel may still write to our memory, and nobody would ever know when it is done.
                tracing::error!("io_uring does not answer: {error}");
                std::process::abort();
            }
        }
    }

    fn landed(&mut self) -> Vec<(Job<'a>, io::Result<usize>)> {
        let mut landed = Vec::new();
        for entry in self.ring.completion() {
            let slot = usize::try_from(entry.user_data()).ok();
            let Some(job) = slot.and_then(|at| self.slots.get_mut(at)?.take()) else {
                continue;
            };
            self.under_way -= 1;
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            landed.push((job, result));
        }
        landed
    }

    /// The jobs that the kernel has not seen, after [`Refused`].
    fn take_back(&mut self) -> Vec<Job<'a>> {
        self.under_way = 0;
        self.slots.iter_mut().filter_map(Option::take).collect()
    }
}

impl Drop for Flight<'_, '_> {
    fn drop(&mut self) {
        // Not empty only while unwinding.
        while self.in_kernel() > 0 {
            self.wait_only();
            drop(self.landed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// What a plain call says of the same: bytes, or the error's number.
    fn plain(file: &File, job: &mut Job<'_>) -> Result<usize, Option<i32>> {
        match &mut job.payload {
            Payload::Read(buffer) => file.read_at(buffer, job.offset),
            Payload::Write(pieces) => rustix::io::pwritev(file, pieces, job.offset).map_err(Into::into),
        }
        .map_err(|e| e.raw_os_error())
    }

    #[test]
    fn short_reads_and_errors_are_those_of_a_plain_call() {
        availability()
            .expect("this test needs io_uring: allow it (sysctl kernel.io_uring_disabled, seccomp)");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 3000]).unwrap();
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let (file, full, memory) = (
            File::open(&path).unwrap(),
            open("/dev/full"),
            open("/proc/self/mem"),
        );
        let data = [1; 1024];
        let write = || Payload::Write(vec![IoSlice::new(&data[..512]), IoSlice::new(&data)]);
        let read = |len| Payload::Read(AlignedBuf::zeroed(len));
        // A read short at the end and one behind it, a full disk, a failed read, a descriptor that takes no writes, a bad offset.
        let cases = [
            (&file, 2048, read(4096), Ok(952)),
            (&file, 4096, read(512), Ok(0)),
            (&full, 0, write(), Err(Some(libc::ENOSPC))),
            (&memory, 0, read(512), Err(Some(libc::EIO))),
            (&file, 0, write(), Err(Some(libc::EBADF))),
            (&file, 1 << 63, read(512), Err(Some(libc::EINVAL))),
            (&file, 0, read(512), Ok(512)),
        ];
        let expected: Vec<_> = cases.iter().map(|case| case.3).collect();
        let files: Vec<&File> = cases.iter().map(|case| case.0).collect();
        let jobs = cases
            .into_iter()
            .enumerate()
            .map(|(index, (file, offset, payload, _))| Job {
                index,
                fd: file.as_raw_fd(),
                offset,
                payload,
            });
        let mut seen = 0;
        run(jobs, |mut job, result| {
            let got = result.map_err(|e| e.raw_os_error());
            assert_eq!(got, expected[job.index], "case {}", job.index);
            assert_eq!(plain(files[job.index], &mut job), got, "case {}", job.index);
            seen += 1;
        });
        assert_eq!(seen, expected.len());
    }

    #[test]
    fn more_jobs_than_a_ring_holds_are_all_done_once() {
        availability().expect("this test needs io_uring");
        let mut file = tempfile::tempfile().unwrap();
        let blocks: Vec<Vec<u8>> = (0..=255).map(|n| vec![n; 512]).collect();
        for _ in 0..2 {
            let mut done = vec![0; blocks.len()];
            run(
                blocks.iter().enumerate().map(|(index, block)| Job {
                    index,
                    fd: file.as_raw_fd(),
                    offset: (index * 512) as u64,
                    payload: Payload::Write(vec![IoSlice::new(block)]),
                }),
                |job, result| {
                    assert_eq!(result.unwrap(), 512);
                    done[job.index] += 1;
                },
            );
            assert!(done.iter().all(|&n| n == 1), "{done:?}");
        }
        let mut found = Vec::new();
        io::Read::read_to_end(&mut file, &mut found).unwrap();
        assert!(found == blocks.concat());
    }

    #[test]
    fn a_panic_between_answers_waits_for_the_kernel() {
        availability().expect("this test needs io_uring");
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let jobs = || {
            (0..64).map(|index| Job {
                index,
                fd: file.as_raw_fd(),
                offset: 0,
                payload: Payload::Read(AlignedBuf::zeroed(4096)),
            })
        };
        let panics = std::panic::AssertUnwindSafe(|| run(jobs(), |_, _| panic!("of this test")));
        std::panic::catch_unwind(panics).unwrap_err();
        let mut done = 0;
        run(jobs(), |_, result| done += result.unwrap());
        assert_eq!(done, 64 * 4096, "the thread has a new ring");
    }
}
