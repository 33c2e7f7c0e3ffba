//! A guest with many requests in flight that notes what it asks for and what it is answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use camino::Utf8Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_wdev::nbd::client::{Command, NbdClient, NbdClientError};

use crate::history::{BLOCK, History, Kind, content};
use crate::machine::{BLOCKS, Shape};
use crate::support::daemon::PATIENCE;

/// Below what any of the devices logs as one record: so a request is there whole or not at all.
const LONGEST: usize = 24;

pub struct Writer {
    pub client: usize,
    pub seed: u64,
    pub shape: Shape,
    /// Whether it flushes, and writes through, now and then.
    pub flushes: bool,
    /// Whether a request may fail while the daemon lives.
    pub errors_allowed: bool,
}

impl Writer {
    /// Writes until it is told to stop, or the daemon dies.
    pub fn run(&self, socket: &Utf8Path, history: &History, stop: &AtomicBool) {
        let Ok(mut nbd) = NbdClient::connect(socket.as_std_path(), self.shape.name) else {
            return; // killed before it began
        };
        nbd.set_timeout(Some(PATIENCE)).unwrap();
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut in_flight = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            let depth = random.random_range(1..=self.shape.depth);
            while in_flight.len() < depth {
                match self.start(&mut nbd, history, &mut random) {
                    Ok((cookie, number)) => drop(in_flight.insert(cookie, number)),
                    Err(error) => return dead(&error),
                }
            }
            match nbd.finish() {
                Ok(finished) => {
                    let number = in_flight.remove(&finished.cookie).unwrap();
                    match finished.result {
                        Ok(_) => history.answer(number),
                        Err(error) => assert!(self.errors_allowed, "{error}"),
                    }
                }
                Err(error) => return dead(&error),
            }
        }
    }

    /// So many requests, as many at once as the shape says, and their answers.
    pub fn write_all(&self, nbd: &mut NbdClient, history: &History, random: &mut StdRng, count: usize) {
        let (mut in_flight, mut sent) = (HashMap::new(), 0);
        while sent < count || !in_flight.is_empty() {
            while sent < count && in_flight.len() < self.shape.depth {
                let (cookie, number) = self.start(nbd, history, random).unwrap();
                in_flight.insert(cookie, number);
                sent += 1;
            }
            let finished = nbd.finish().unwrap();
            finished.result.unwrap();
            history.answer(in_flight.remove(&finished.cookie).unwrap());
        }
    }

    /// A few requests, one after another, until one fails; whether one did.
    pub fn write_some(&self, nbd: &mut NbdClient, history: &History, random: &mut StdRng) -> bool {
        for _ in 0..10 {
            let (_, number) = self.start(nbd, history, random).unwrap();
            if nbd.finish().unwrap().result.is_err() {
                return true;
            }
            history.answer(number);
        }
        false
    }

    /// Sends a request. Its cookie and its number in the history.
    fn start(
        &self,
        nbd: &mut NbdClient,
        history: &History,
        random: &mut StdRng,
    ) -> Result<(u64, usize), NbdClientError> {
        let first = random.random_range(0..BLOCKS - 1);
        let count = random.random_range(1..=LONGEST).min(BLOCKS - first);
        let blocks = first..first + count;
        let (offset, length) = ((first * BLOCK) as u64, u32::try_from(count * BLOCK).unwrap());
        let fua = self.flushes && random.random_bool(0.05);
        // Few zeros where their order is not known: they look all the same.
        let zeros = if self.shape.clients > 1 { 2 } else { 12 };
        let kind = random.random_range(0..100);
        if kind < 4 && self.flushes {
            let (number, _) = history.begin(self.client, Kind::Flush, 0..0, false);
            return Ok((nbd.start(Command::Flush)?, number));
        }
        if kind < 4 + zeros {
            let trim = random.random::<bool>();
            let (number, _) = history.begin(self.client, Kind::Zeros, blocks, fua && !trim);
            let command = if trim {
                Command::Trim { offset, length }
            } else {
                let no_hole = random.random();
                Command::WriteZeroes {
                    offset,
                    length,
                    no_hole,
                    fua,
                }
            };
            return Ok((nbd.start(command)?, number));
        }
        let (number, stamp) = history.begin(self.client, Kind::Data, blocks.clone(), fua);
        let data: Vec<u8> = blocks.flat_map(|block| content(block, stamp)).collect();
        let data = &data;
        Ok((nbd.start(Command::Write { offset, data, fua })?, number))
    }
}

/// Only the death of the daemon may end a connection.
fn dead(error: &NbdClientError) {
    match error {
        NbdClientError::Io { source, .. } => {
            let kind = source.kind();
            assert!(
                !matches!(
                    kind,
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ),
                "no answer in time"
            );
        }
        other => panic!("{other}"),
    }
}
