//! A guest that writes all the time, and knows what it may find on its disk.
//!
//! Its model keeps per 512-byte block the write that was acknowledged last and those that were submitted since and not
//! acknowledged (the device died). A capture reads the whole device while the guest pauses and checks every block
//! against the model, so a lost acknowledged write is found even before anything is restored.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_wdev::nbd::client::NbdClient;

use crate::image::{Captured, digest};

const BLOCK: usize = 512;

/// How the guest behaves.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Pause between two writes.
    pub pace: Duration,
    /// Largest write in blocks.
    pub max_blocks: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            pace: Duration::from_micros(700),
            max_blocks: 64,
        }
    }
}

enum Order {
    Capture(Option<PathBuf>, Sender<anyhow::Result<Captured>>),
    Resume,
    Stop,
}

/// A running guest. While a capture lasts, and until [`Guest::resume`], it does not write.
pub struct Guest {
    orders: Sender<Order>,
    thread: Option<JoinHandle<anyhow::Result<u64>>>,
}

/// What the guest knows of its disk. Write number 0 stands for zeros.
struct Model {
    seed: u64,
    acknowledged: Vec<u32>,
    uncertain: HashMap<usize, Vec<u32>>,
    zeroing: HashSet<u32>,
}

impl Model {
    fn content(&self, write: u32, block: usize, out: &mut [u8]) {
        if write == 0 || self.zeroing.contains(&write) {
            return out.fill(0);
        }
        // Half noise, half repetition, so that compression has something to do. The block number is part of it: a block
        // written to the wrong place is found.
        let mut x = self.seed ^ (u64::from(write) << 32) ^ block as u64 | 1;
        for (i, word) in out.chunks_exact_mut(8).enumerate() {
            if i % 2 == 0 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
            }
            word.copy_from_slice(&x.to_le_bytes());
        }
    }

    /// What is on the disk now is what it is: blocks that could hold one of several writes are settled.
    fn settle(&mut self, image: &[u8]) -> anyhow::Result<()> {
        let mut expected = [0; BLOCK];
        for (block, found) in image.chunks_exact(BLOCK).enumerate() {
            let mut candidates = self.uncertain.remove(&block).unwrap_or_default();
            candidates.push(self.acknowledged[block]);
            let settled = candidates.iter().copied().find(|write| {
                self.content(*write, block, &mut expected);
                expected == found
            });
            let Some(write) = settled else {
                anyhow::bail!(
                    "block {block} of the device holds none of the writes it may hold: {candidates:?}"
                );
            };
            self.acknowledged[block] = write;
        }
        Ok(())
    }
}

impl Guest {
    /// Starts writing to the export behind `socket`. Lost connections are made again, for at most 60 s each.
    pub fn start(socket: &Path, export: &str, seed: u64, load: Load) -> anyhow::Result<Self> {
        let (orders, inbox) = channel();
        let (socket, export) = (socket.to_owned(), export.to_owned());
        let thread = std::thread::spawn(move || run(&socket, &export, seed, load, &inbox));
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Pauses, flushes, reads the whole device, checks it against the model; the guest stays paused. With a path, the
    /// image is kept there.
    pub fn capture(&self, keep: Option<&Path>) -> anyhow::Result<Captured> {
        let (answer, inbox) = channel();
        let asked = self.orders.send(Order::Capture(keep.map(Path::to_owned), answer));
        asked.ok().context("the guest has ended early")?;
        inbox
            .recv()
            .context("the guest died while it captured the device")?
    }

    /// Goes on writing.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.orders
            .send(Order::Resume)
            .ok()
            .context("the guest has ended early")
    }

    /// Ends it; the number of acknowledged writes.
    pub fn stop(mut self) -> anyhow::Result<u64> {
        let _ = self.orders.send(Order::Stop);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the guest panicked"))?
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connect(socket: &Path, export: &str) -> anyhow::Result<NbdClient> {
    let client = crate::wait::until("the device to come back", Duration::from_secs(60), || {
        Ok(Some(NbdClient::connect(socket, export)?))
    })?;
    client.set_timeout(Some(Duration::from_secs(60)))?;
    Ok(client)
}

fn run(socket: &Path, export: &str, seed: u64, load: Load, inbox: &Receiver<Order>) -> anyhow::Result<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client = connect(socket, export)?;
    let blocks = usize::try_from(client.size())? / BLOCK;
    let mut model = Model {
        seed,
        acknowledged: vec![0; blocks],
        uncertain: HashMap::new(),
        zeroing: HashSet::new(),
    };
    let mut done = 0;
    let mut paused = false;
    let mut number = 0_u32;
    loop {
        let order = if paused {
            inbox.recv().ok()
        } else {
            inbox.try_recv().ok()
        };
        match order {
            Some(Order::Stop) => break,
            Some(Order::Resume) => paused = false,
            Some(Order::Capture(keep, answer)) => {
                paused = true;
                let result = capture(&mut client, socket, export, &mut model, keep.as_deref());
                let _ = answer.send(result);
                continue;
            }
            // All senders are gone: the test is over.
            None if paused => break,
            None => {}
        }
        if paused {
            continue;
        }
        number += 1;
        let request = Request::choose(&mut random, blocks as u64, load.max_blocks);
        if matches!(request.kind, Kind::Trim | Kind::Zeroes { .. }) {
            model.zeroing.insert(number);
        }
        let range = usize::try_from(request.first)?..usize::try_from(request.first + request.length)?;
        match request.send(&mut client, &model, number, range.clone()) {
            Ok(()) if request.kind == Kind::Flush => {}
            Ok(()) => {
                for block in range {
                    model.acknowledged[block] = number;
                    model.uncertain.remove(&block);
                }
                done += 1;
            }
            Err(_) => {
                if request.kind != Kind::Flush {
                    for block in range {
                        model.uncertain.entry(block).or_default().push(number);
                    }
                }
                client = connect(socket, export)?;
            }
        }
        if !load.pace.is_zero() {
            std::thread::sleep(load.pace);
        }
    }
    Ok(done)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flush,
    Trim,
    Zeroes { no_hole: bool },
    Write,
    WriteFua,
}

struct Request {
    kind: Kind,
    first: u64,
    length: u64,
}

impl Request {
    fn choose(random: &mut StdRng, blocks: u64, max_blocks: u64) -> Self {
        let kind = match random.random_range(0..40) {
            0 => Kind::Flush,
            1 => Kind::Trim,
            2 => Kind::Zeroes {
                no_hole: random.random(),
            },
            3 => Kind::WriteFua,
            _ => Kind::Write,
        };
        let length = random.random_range(1..=max_blocks);
        Self {
            kind,
            first: random.random_range(0..blocks - length),
            length,
        }
    }

    fn send(
        &self,
        client: &mut NbdClient,
        model: &Model,
        number: u32,
        range: Range<usize>,
    ) -> anyhow::Result<()> {
        let (offset, bytes) = (self.first * BLOCK as u64, self.length * BLOCK as u64);
        let length = u32::try_from(bytes)?;
        let data = || {
            let mut data = vec![0; range.len() * BLOCK];
            for (block, out) in range.clone().zip(data.chunks_exact_mut(BLOCK)) {
                model.content(number, block, out);
            }
            data
        };
        match self.kind {
            Kind::Flush => client.flush()?,
            Kind::Trim => client.trim(offset, length)?,
            Kind::Zeroes { no_hole } => client.write_zeroes(offset, length, no_hole)?,
            Kind::Write => client.write(offset, &data())?,
            Kind::WriteFua => client.write_fua(offset, &data())?,
        }
        Ok(())
    }
}

/// Reads the whole device over a connection of its own, after a flush over the guest's.
fn capture(
    client: &mut NbdClient,
    socket: &Path,
    export: &str,
    model: &mut Model,
    keep: Option<&Path>,
) -> anyhow::Result<Captured> {
    if client.flush().is_err() {
        *client = connect(socket, export)?;
        client.flush().context("flush before a capture")?;
    }
    let mut reader = connect(socket, export)?;
    let mut image = Vec::with_capacity(usize::try_from(reader.size())?);
    reader.copy_to(&mut image).context("read the device")?;
    model.settle(&image)?;
    if let Some(path) = keep {
        std::fs::write(path, &image)?;
    }
    Ok(digest(image.as_slice())?)
}
