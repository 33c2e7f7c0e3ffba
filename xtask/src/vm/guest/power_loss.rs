//! The power goes while two devices are written to: what comes back is what some number of the writes gives, none left out,
//! and at least those whose flush was answered.
//!
//! Each device has one writer with one request under way. Request `n` is a function of `n` alone, and every sector has its
//! number, so the content says how many there were and a model says whether that is all. The host remembers what was flushed
//! and ends qemu; the disks keep what they had completed, as disks without a cache do. What the guest had in its page cache,
//! on its way to the data device, and under way is gone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;

use super::daemon::{Pair, Wdev};
use super::report::Report;
use super::tools::{run, same};

/// The scenario's name.
pub const NAME: &str = "power-loss";
/// So often the power goes.
pub const LOSSES: u32 = 2;
/// Flushes of each device before it goes.
pub const ENOUGH: u32 = 12;
/// The devices' names, by the block size of their disks.
pub const DEVICES: [&str; 2] = ["of512", "of4k"];

const SECTOR: usize = 512;
/// This much of a device is written to.
const REGION: usize = 8 << 20;
/// A flush comes after so many requests.
const FLUSH_EVERY: u32 = 8;
/// Every so many requests one is a discard.
const DISCARD_EVERY: u32 = 11;

/// What a boot is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Round {
    /// Only look.
    pub last: bool,
    /// The newest request of each device that must be there; empty at first.
    pub durable: BTreeMap<String, u32>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}/{}", if self.last { "look" } else { "write" })?;
        self.durable
            .iter()
            .try_for_each(|(device, number)| write!(f, "/{device}:{number}"))
    }
}

impl Round {
    /// Understands what `Display` has written; `None` for anything else.
    pub fn parse(word: &str) -> Option<Self> {
        let mut parts = word.split('/');
        if parts.next() != Some(NAME) {
            return None;
        }
        let last = match parts.next()? {
            "look" => true,
            "write" => false,
            _ => return None,
        };
        let durable = parts.map(|part| {
            let (device, number) = part.split_once(':')?;
            Some((device.to_owned(), number.parse().ok()?))
        });
        let durable = durable.collect::<Option<_>>()?;
        Some(Self { last, durable })
    }
}

/// A boot: looks at what the last one left, and writes until the power goes.
pub fn run_round(round: &Round, report: &mut Report) -> Result<()> {
    let wdev = Wdev::fresh()?;
    let (sender, flushed) = mpsc::channel();
    for (name, pair, options, node, unit) in [
        (
            DEVICES[0],
            Pair::of_512()?,
            &["-nbd", "/run/wdev/of512.sock", "-nbd-node", "1"][..],
            "/dev/nbd1",
            1,
        ),
        (
            DEVICES[1],
            Pair::of_4k()?,
            &["-ublk", "0", "-data-direct"][..],
            "/dev/ublkb0",
            8,
        ),
    ] {
        let first = round.durable.is_empty();
        if first {
            wdev.wdevc(&["format-ldev", &pair.log, &pair.data, "-n", name])?;
        }
        let mut create = vec!["create-wdev", &pair.log, &pair.data, "-n", name];
        create.extend(options);
        wdev.wdevc(&create)?;
        let durable = round.durable.get(name).copied().unwrap_or(0);
        let number = look(node, unit, durable).with_context(|| format!("device {name}"))?;
        report.say(&format!("{name}: {number} requests, {durable} of them flushed"))?;
        if round.last {
            wdev.wdevc(&["force-checkpoint", name])?;
            same(node, &pair.data, REGION as u64)?;
            wdev.wdevc(&["delete-wdev", name])?;
        } else {
            let sender = sender.clone();
            thread::spawn(move || {
                let ended = write(node, unit, number + 1, &|n| {
                    // Nobody listens any more once the other one has failed.
                    let _ = sender.send(Ok((name, n)));
                });
                let _ = sender.send(ended.map(|()| (name, 0)));
            });
        }
    }
    drop(sender);
    for told in flushed {
        let (device, number) = told?;
        report.durable(device, number)?;
    }
    wdev.stop()
}

/// A request.
struct Request {
    first: usize,
    sectors: usize,
    discard: bool,
}

impl Request {
    /// The one with this number; its place and length are multiples of `unit` sectors.
    fn of(number: u32, unit: usize) -> Self {
        let chance = usize::try_from(mix(u64::from(number)) >> 32).unwrap_or(0);
        let units = 1 + chance % (64 / unit);
        let places = REGION / SECTOR / unit - units;
        Self {
            first: (chance >> 8) % places * unit,
            sectors: units * unit,
            discard: number.is_multiple_of(DISCARD_EVERY),
        }
    }

    /// What it leaves in each sector.
    fn apply(&self, number: u32, model: &mut [u32]) {
        model[self.first..][..self.sectors].fill(if self.discard { 0 } else { number });
    }
}

/// Spreads numbers over all bits.
fn mix(number: u64) -> u64 {
    let mut n = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n ^ (n >> 29)
}

/// What request `number` writes to a sector.
fn content(number: u32, sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let seed = u64::from(number) << 32 | sector as u64;
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if i == 0 {
            seed
        } else {
            mix(seed ^ (i as u64) << 56)
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Writes from request `number` on, until the power goes.
fn write(node: &str, unit: usize, mut number: u32, flushed: &dyn Fn(u32)) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(node)
        .with_context(|| format!("open {node}"))?;
    let mut space = vec![0; 64 * SECTOR + 4096];
    let lead = space.as_ptr().align_offset(4096);
    loop {
        let request = Request::of(number, unit);
        let (offset, len) = (request.first * SECTOR, request.sectors * SECTOR);
        if request.discard {
            run(
                "blkdiscard",
                &["-o", &offset.to_string(), "-l", &len.to_string(), node],
            )?;
        } else {
            let bytes = &mut space[lead..][..len];
            for (i, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
                sector.copy_from_slice(&content(number, request.first + i));
            }
            file.write_all_at(bytes, offset as u64)
                .with_context(|| format!("request {number} to {node}"))?;
        }
        if number.is_multiple_of(FLUSH_EVERY) {
            file.sync_data()
                .with_context(|| format!("flush {node} after request {number}"))?;
            flushed(number);
        }
        number = number.checked_add(1).context("no more numbers")?;
    }
}

/// How many requests the content is of, if it is of some number of them, `durable` at least.
fn look(node: &str, unit: usize, durable: u32) -> Result<u32> {
    let mut bytes = vec![0; REGION];
    File::open(node)
        .and_then(|file| file.read_exact_at(&mut bytes, 0))
        .with_context(|| format!("read {node}"))?;
    let mut found = Vec::with_capacity(REGION / SECTOR);
    for (sector, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
        let number = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let whole = match number {
            0 => bytes.iter().all(|b| *b == 0),
            _ => bytes == content(number, sector),
        };
        ensure!(whole, "sector {sector} has what no request wrote");
        found.push(number);
    }
    let newest = found.iter().copied().max().unwrap_or(0);
    let mut model = vec![0; found.len()];
    let mut number = 0;
    loop {
        if number >= newest && number >= durable && model == found {
            return Ok(number);
        }
        let next = Request::of(number + 1, unit);
        if number >= newest && !next.discard {
            let differs = (0..found.len()).find(|s| model[*s] != found[*s]);
            let Some(sector) = differs else {
                bail!("what {number} requests give, but {durable} were flushed");
            };
            bail!(
                "the newest request is {newest}, but sector {sector} is of request {}, expected {}; {durable} were flushed",
                found[sector],
                model[sector]
            );
        }
        number += 1;
        next.apply(number, &mut model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_understood_as_it_is_written() {
        let mut round = Round {
            last: false,
            durable: BTreeMap::new(),
        };
        assert_eq!(Round::parse(&round.to_string()).as_ref(), Some(&round));
        round.durable = BTreeMap::from([("of512".to_owned(), 16), ("of4k".to_owned(), 24)]);
        round.last = true;
        assert_eq!(Round::parse(&round.to_string()), Some(round));
        assert_eq!(Round::parse("nbd-ext4"), None);
        assert_eq!(Round::parse("power-loss/write/of512"), None);
    }

    #[test]
    fn only_what_some_number_of_requests_gives_is_accepted() -> Result<()> {
        let image = std::env::temp_dir().join(format!("walb-power-loss-{}", std::process::id()));
        let path = image.to_str().context("UTF-8")?;
        let gives = |numbers: &[u32]| -> Result<()> {
            let mut bytes = vec![0; REGION];
            for number in numbers {
                let request = Request::of(*number, 8);
                for sector in request.first..request.first + request.sectors {
                    let content = if request.discard {
                        [0; SECTOR]
                    } else {
                        content(*number, sector)
                    };
                    bytes[sector * SECTOR..][..SECTOR].copy_from_slice(&content);
                }
            }
            std::fs::write(path, bytes).context("write the image")
        };
        let all: Vec<u32> = (1..=40).collect();
        gives(&all)?;
        assert_eq!(look(path, 8, 40)?, 40);
        assert!(look(path, 8, 41).is_err(), "one that was flushed is missing");
        for hole in [1, 20, 39] {
            gives(&all.iter().copied().filter(|n| *n != hole).collect::<Vec<_>>())?;
            assert!(look(path, 8, 0).is_err(), "request {hole} is left out");
        }
        std::fs::remove_file(path).context("remove the image")
    }
}
