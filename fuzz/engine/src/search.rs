//! The search for an input that breaks a target.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng;

use super::coverage::Coverage;
use super::guard::{Failure, check};
use super::mutate::Mutator;
use crate::Target;

/// A run that takes longer hangs. Far above what the slowest input needs on a busy machine.
const HANGS: Duration = Duration::from_secs(60);
/// Findings after which a target is left alone.
const FINDINGS_MAX: usize = 5;

/// When to end.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// After so many runs: the same ones each time, for the same seed.
    Runs(u64),
    /// After so long.
    Time(Duration),
}

/// A broken invariant and the file that shows it.
#[derive(Debug)]
pub struct Finding {
    /// What happened.
    pub failure: Failure,
    /// The input, made smaller.
    pub path: PathBuf,
}

/// What a search did.
#[derive(Debug)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Edges reached, 0 without coverage.
    pub reached: usize,
    /// Inputs that are worth mutating.
    pub corpus: usize,
    /// How long it took.
    pub took: Duration,
    /// One per place that panicked.
    pub findings: Vec<Finding>,
}

/// A search in one target.
pub struct Search {
    target: &'static Target,
    mutator: Mutator,
    coverage: Coverage,
    corpus: Vec<Vec<u8>>,
    findings: BTreeMap<String, Finding>,
    directory: PathBuf,
    running: File,
    runs: u64,
}

impl Search {
    /// Prepares a search. In `directory` (made if needed) are kept: findings, the corpus, and the input that is
    /// running, `TARGET.running`, for the case that the process dies of it.
    pub fn new(target: &'static Target, seed: u64, directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let running = directory.join(format!("{}.running", target.name));
        Ok(Self {
            target,
            mutator: Mutator::new(seed, target.max_len),
            coverage: Coverage::new(),
            corpus: Vec::new(),
            findings: BTreeMap::new(),
            directory: directory.to_owned(),
            running: File::create(running)?,
            runs: 0,
        })
    }

    /// Searches. `old` are inputs of earlier searches and regressions; they run first. Gives also the inputs that
    /// reached something new, with names.
    pub fn run(
        mut self,
        old: Vec<Vec<u8>>,
        budget: Budget,
    ) -> io::Result<(Summary, BTreeMap<String, Vec<u8>>)> {
        let clock = Clock::start(self.target.name);
        let started = Instant::now();
        for input in (self.target.seeds)().into_iter().chain(old) {
            clock.tick();
            self.one(input)?;
        }
        if self.corpus.is_empty() {
            self.corpus.push(Vec::new());
        }
        loop {
            let over = match budget {
                Budget::Runs(runs) => self.runs >= runs,
                Budget::Time(time) => started.elapsed() >= time,
            };
            if over || self.findings.len() >= FINDINGS_MAX {
                break;
            }
            let base = self.pick();
            let other = self.pick();
            let mut input = self.corpus[base].clone();
            self.mutator.mutate(&mut input, &self.corpus[other]);
            // Without right sums nothing behind them is reached; with only right ones, their checks are not.
            match self.mutator.rng.random_range(0..16) {
                0 => {}
                1..8 => (self.target.repair)(&mut input, false),
                _ => (self.target.repair)(&mut input, true),
            }
            input.truncate(self.target.max_len);
            clock.tick();
            self.one(input)?;
        }
        drop(clock);
        self.running.set_len(0)?;
        let summary = Summary {
            runs: self.runs,
            reached: self.coverage.reached(),
            corpus: self.corpus.len(),
            took: started.elapsed(),
            findings: self.findings.into_values().collect(),
        };
        let named = |input: Vec<u8>| (format!("{:016x}", name_of(&input)), input);
        Ok((summary, self.corpus.into_iter().map(named).collect()))
    }

    /// Runs one input, and keeps it if it was worth it.
    fn one(&mut self, input: Vec<u8>) -> io::Result<()> {
        self.running.write_all_at(&input, 0)?;
        self.running.set_len(input.len() as u64)?;
        Coverage::start();
        let result = check(self.target, &input);
        self.runs += 1;
        let new = self.coverage.take();
        if let Err(failure) = result {
            if !self.findings.contains_key(&failure.place) {
                let input = self.smaller(input, &failure);
                let path = self
                    .directory
                    .join(format!("{}-{:016x}.bin", self.target.name, name_of(&input)));
                fs::write(&path, &input)?;
                self.findings
                    .insert(failure.place.clone(), Finding { failure, path });
            }
        } else if new {
            self.corpus.push(input);
        }
        Ok(())
    }

    /// Often one of the newest, which just opened a way.
    fn pick(&mut self) -> usize {
        let len = self.corpus.len();
        let newest = self.mutator.rng.random_ratio(1, 3);
        let from = if newest { len.saturating_sub(16) } else { 0 };
        self.mutator.rng.random_range(from..len)
    }

    /// Leaves out, then zeroes, what the failure does not need.
    fn smaller(&mut self, mut input: Vec<u8>, failure: &Failure) -> Vec<u8> {
        let mut tries = 2000;
        let same = |input: &[u8]| check(self.target, input).is_err_and(|f| f.place == failure.place);
        for leave_out in [true, false] {
            let mut step = (input.len() / 2).max(1);
            loop {
                let mut at = 0;
                while at < input.len() && tries > 0 {
                    let end = (at + step).min(input.len());
                    let mut shorter = input.clone();
                    if leave_out {
                        shorter.drain(at..end);
                    } else {
                        shorter[at..end].fill(0);
                    }
                    tries -= 1;
                    for repaired in [false, true] {
                        if repaired {
                            (self.target.repair)(&mut shorter, false);
                        }
                        if shorter != input && shorter.len() <= input.len() && same(&shorter) {
                            input.clone_from(&shorter);
                            break;
                        }
                    }
                    at += step;
                }
                if step <= 16 || tries == 0 {
                    break;
                }
                step /= 2;
            }
        }
        input
    }
}

fn name_of(input: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(input)
}

/// Ends the process when a run hangs: a loop cannot be left in another way.
struct Clock {
    ticks: Arc<AtomicU64>,
    over: Arc<OnceLock<()>>,
    watcher: Option<thread::JoinHandle<()>>,
}

impl Clock {
    fn start(name: &'static str) -> Self {
        let (ticks, over) = (Arc::new(AtomicU64::new(0)), Arc::new(OnceLock::new()));
        let (theirs, until) = (ticks.clone(), over.clone());
        let watcher = thread::spawn(move || {
            let (mut seen, mut since) = (0, Instant::now());
            while until.get().is_none() {
                thread::park_timeout(Duration::from_secs(1));
                let now = theirs.load(Ordering::Relaxed);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                } else if since.elapsed() > HANGS {
                    eprintln!("{name}: one run takes longer than {} s", HANGS.as_secs());
                    std::process::abort();
                }
            }
        });
        Self {
            ticks,
            over,
            watcher: Some(watcher),
        }
    }

    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = self.over.set(());
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
    }
}
