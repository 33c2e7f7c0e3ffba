//! What the tests of the front-ends share: a device in memory, and a way to run the tools of the distribution.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(missing_docs, reason = "tests")]

pub mod daemon;
pub mod pki;
pub mod program;
pub mod raw;
pub mod served;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use bytes::Bytes;
use walb_common::types::PhysicalBlockSize;
use walb_wdev::block::{BlockDevice, DirtyExtent, Extent, Holds, IoErrno, IoOp, IoRequest};
use walb_wdev::nbd::{Export, Exports, NbdLimits, NbdServer};

/// A device in memory. Two threads serve it, so that requests complete out of order.
pub struct MemDevice {
    shared: Arc<Shared>,
    queue: Sender<IoRequest>,
}

pub struct Shared {
    pub data: Mutex<Vec<u8>>,
    pub flushes: AtomicU64,
    pub fuas: AtomicU64,
    pub discards: AtomicU64,
    pub zeroes: AtomicU64,
    pub submitted: AtomicU64,
    pub read_only: AtomicBool,
    pub failing: AtomicBool,
    /// While true, nothing completes.
    held: Mutex<bool>,
    released: Condvar,
}

impl MemDevice {
    pub fn new(size: usize) -> Arc<Self> {
        let shared = Arc::new(Shared {
            data: Mutex::new(vec![0; size]),
            flushes: AtomicU64::new(0),
            fuas: AtomicU64::new(0),
            discards: AtomicU64::new(0),
            zeroes: AtomicU64::new(0),
            submitted: AtomicU64::new(0),
            read_only: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            held: Mutex::new(false),
            released: Condvar::new(),
        });
        let (queue, requests) = mpsc::channel::<IoRequest>();
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..2 {
            let (shared, requests) = (shared.clone(), requests.clone());
            thread::spawn(move || {
                loop {
                    let next = requests.lock().unwrap().recv();
                    let Ok(request) = next else { return };
                    let held = shared.held.lock().unwrap();
                    drop(shared.released.wait_while(held, |held| *held).unwrap());
                    let result = shared.run(&request.op);
                    (request.done)(result);
                }
            });
        }
        Arc::new(Self { shared, queue })
    }

    pub fn hold(&self, held: bool) {
        *self.shared.held.lock().unwrap() = held;
        self.shared.released.notify_all();
    }

    pub fn image(&self) -> Vec<u8> {
        self.shared.data.lock().unwrap().clone()
    }
}

impl std::ops::Deref for MemDevice {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Shared {
    fn run(&self, op: &IoOp) -> Result<Bytes, IoErrno> {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::SeqCst);
        let mut data = self.data.lock().unwrap();
        op.check(data.len() as u64)?;
        if self.failing.load(Ordering::SeqCst) {
            return Err(IoErrno::EIO);
        }
        match op {
            IoOp::Read { offset, len } => {
                return Ok(Bytes::copy_from_slice(&data[range(*offset, u64::from(*len))]));
            }
            IoOp::Flush => {
                count(&self.flushes);
                return Ok(Bytes::new());
            }
            _ if self.read_only.load(Ordering::SeqCst) => return Err(IoErrno::EROFS),
            IoOp::Write {
                offset, data: new, ..
            } => {
                data[range(*offset, new.len() as u64)].copy_from_slice(new);
            }
            IoOp::Discard { offset, len, .. } => {
                count(&self.discards);
                data[range(*offset, *len)].fill(0);
            }
            IoOp::WriteZeroes { offset, len, .. } => {
                count(&self.zeroes);
                data[range(*offset, *len)].fill(0);
            }
        }
        if let IoOp::Write { fua: true, .. }
        | IoOp::Discard { fua: true, .. }
        | IoOp::WriteZeroes { fua: true, .. } = op
        {
            count(&self.fuas);
        }
        Ok(Bytes::new())
    }
}

fn range(offset: u64, len: u64) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + usize::try_from(len).unwrap()
}

impl BlockDevice for MemDevice {
    fn size(&self) -> u64 {
        self.shared.data.lock().unwrap().len() as u64
    }
    fn pbs(&self) -> PhysicalBlockSize {
        PhysicalBlockSize::B4096
    }
    fn read_only(&self) -> bool {
        self.shared.read_only.load(Ordering::SeqCst)
    }
    fn submit(&self, request: IoRequest) {
        self.shared.submitted.fetch_add(1, Ordering::SeqCst);
        self.queue.send(request).unwrap();
    }
}

/// A device that only knows what its ranges hold: by the MiB data, zeros, hole, and so on; every other MiB has changed.
pub struct Known {
    size: u64,
    bitmap: bool,
}

impl Known {
    pub fn new(size: u64, bitmap: bool) -> Arc<Self> {
        Arc::new(Self { size, bitmap })
    }

    /// Number and length of each MiB of the range.
    fn parts(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let (mut at, end) = (offset, offset + len);
        std::iter::from_fn(move || {
            let nth = at >> 20;
            let here = ((nth + 1) << 20).min(end) - at;
            at += here;
            (here > 0).then_some((nth, here))
        })
    }
}

impl BlockDevice for Known {
    fn size(&self) -> u64 {
        self.size
    }
    fn pbs(&self) -> PhysicalBlockSize {
        PhysicalBlockSize::B512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn submit(&self, request: IoRequest) {
        (request.done)(Ok(Bytes::new()));
    }
    fn allocation(&self, offset: u64, len: u64, most: usize) -> Result<Vec<Extent>, IoErrno> {
        let kinds = [Holds::Data, Holds::Zeros, Holds::Hole];
        let extent = |(nth, len)| Extent {
            len,
            holds: kinds[usize::try_from(nth % 3).unwrap()],
        };
        Ok(Self::parts(offset, len).map(extent).take(most).collect())
    }
    fn dirty(&self, offset: u64, len: u64, most: usize) -> Option<Vec<DirtyExtent>> {
        let extent = |(nth, len)| DirtyExtent {
            len,
            dirty: nth % 2 == 1,
        };
        self.bitmap
            .then(|| Self::parts(offset, len).map(extent).take(most).collect())
    }
}

/// A server of one device named `vol` on `DIR/nbd.sock`.
pub fn serve(dir: &Path, device: Arc<dyn BlockDevice>) -> NbdServer {
    let exports = Exports::new();
    exports.add(Export::new("vol", device));
    NbdServer::listen_unix(&dir.join("nbd.sock"), exports, None, NbdLimits::default()).unwrap()
}

/// Runs a tool. A missing tool fails the test, with the package to install: a skipped test would show nothing.
pub fn run_tool(package: &str, program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("cannot run {program}: {e}; it is in the Debian package {package}"))
}

/// Runs a tool that must succeed; its standard output.
pub fn tool(package: &str, program: &str, args: &[&str]) -> String {
    let output = run_tool(package, program, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{out}\n{err}",
        output.status
    );
    out
}

/// Bytes that look random but depend on the seed alone.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
