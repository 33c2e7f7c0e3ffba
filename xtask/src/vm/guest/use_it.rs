//! Uses of a device that is well: file systems, discards, growth.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::daemon::{NAME, Pair, Wdev};
use super::filesystem::{Kind, exercise};
use super::front_end::FrontEnd;
use super::tools::{block_number, fio, linear, run, same, until};

/// A file system, used and checked; in the end the data device has what the guest sees.
pub fn filesystem(front_end: FrontEnd, pair: &Pair, kind: Kind) -> Result<()> {
    let wdev = Wdev::fresh()?;
    wdev.create(pair, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    exercise(device, kind)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(device, &pair.data, block_number(device, "size")? * 512)?;
    front_end.detach(wdev)
}

/// A discard arrives as a discard: it takes next to no log, and reads are zeros afterwards.
pub fn discard(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    let wdev = Wdev::fresh()?;
    wdev.create(pair, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    fio(device, 16)?;
    let used = || -> Result<u64> { Ok(wdev.wdevc(&["get-log-usage", NAME])?.trim().parse()?) };
    let before = used()?;
    run("blkdiscard", &["-o", "4194304", "-l", "8388608", device])?;
    let grown = used()? - before;
    ensure!(
        (1..100).contains(&grown),
        "a discard of 8 MiB took {grown} blocks of log, expected one logpack or a few"
    );
    let mut bytes = vec![1; 16 << 20];
    File::open(device)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .with_context(|| format!("read {device}"))?;
    let (discarded, rest) = (&bytes[4 << 20..12 << 20], [&bytes[..4 << 20], &bytes[12 << 20..]]);
    ensure!(discarded.iter().all(|b| *b == 0), "discarded blocks are not zero");
    ensure!(
        rest.iter().all(|part| part.iter().any(|b| *b != 0)),
        "blocks beside the discarded ones are zero"
    );
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(device, &pair.data, 16 << 20)?;
    front_end.detach(wdev)
}

/// A discard goes down to the data device, which then has space for other things: this one says how much it uses.
pub fn thin(front_end: FrontEnd, log: &str) -> Result<()> {
    let data = until("the thin disk appears", || Ok(thin_disk().ok()))?;
    let pair = Pair {
        log: log.to_owned(),
        data,
    };
    let wdev = Wdev::fresh()?;
    wdev.create(&pair, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    fio(device, 16)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    let written = thin_used()?;
    ensure!(
        written > 12 << 20,
        "only {written} bytes are used after writing to 16 MiB"
    );
    run("blkdiscard", &["-o", "4194304", "-l", "8388608", device])?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    let left = thin_used()?;
    // How many of the 8 MiB fio wrote to is up to chance.
    ensure!(
        left + (6 << 20) < written && left <= 8 << 20,
        "{left} of {written} bytes are still used after a discard of 8 MiB"
    );
    same(device, &pair.data, 16 << 20)?;
    front_end.detach(wdev)
}

/// The disk that the kernel's `scsi_debug` makes.
fn thin_disk() -> Result<String> {
    for entry in std::fs::read_dir("/sys/block")? {
        let dir = entry?.path();
        let model = std::fs::read_to_string(dir.join("device/model")).unwrap_or_default();
        if model.trim() == "scsi_debug" {
            let name = dir.file_name().context("a directory has a name")?;
            return Ok(format!("/dev/{}", name.to_string_lossy()));
        }
    }
    bail!("no disk of scsi_debug")
}

/// Bytes of it that are used: it lists ranges of blocks, ends included.
fn thin_used() -> Result<u64> {
    let text = std::fs::read_to_string("/sys/bus/pseudo/drivers/scsi_debug/map").context("read the map")?;
    let mut blocks = 0;
    for range in text.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        blocks += last.parse::<u64>()? - first.parse::<u64>()? + 1;
    }
    Ok(blocks * 512)
}

/// The data device grows, then the device, then its users see it.
pub fn grow(front_end: FrontEnd, pair: &Pair) -> Result<()> {
    const SMALL: u64 = 320 << 11;
    const LARGE: u64 = 400 << 11;
    let table = |sectors: u64| format!("0 {sectors} linear {} 0", pair.data);
    let grown = Pair {
        log: pair.log.clone(),
        data: linear("grow", SMALL, &pair.data)?,
    };
    let wdev = Wdev::fresh()?;
    wdev.create(&grown, front_end.options())?;
    let device = front_end.attach(&wdev)?;
    let size = |expected: u64| -> Result<()> {
        let found = block_number(device, "size")?;
        ensure!(
            found == expected,
            "{device} has {found} sectors, expected {expected}"
        );
        Ok(())
    };
    size(SMALL)?;
    fio(device, 4)?;
    if wdev.wdevc(&["resize", NAME, &LARGE.to_string()]).is_ok() {
        bail!("grew beyond the data device");
    }
    run("dmsetup", &["load", "grow", "--table", &table(LARGE)])?;
    run("dmsetup", &["resume", "grow"])?;
    wdev.wdevc(&["resize", NAME])?;
    let status = wdev.wdevc(&["get-status", NAME])?;
    ensure!(status.contains(&LARGE.to_string()), "no {LARGE} in {status}");
    match front_end {
        // The kernel's client learns the size when it connects.
        FrontEnd::Nbd => {
            run("nbd-client", &["-d", device])?;
            front_end.attach(&wdev)?;
        }
        // walb-wdev has told it.
        FrontEnd::Node => {}
        // This kernel's ublk never does; the device must be made anew.
        FrontEnd::Ublk => {
            size(SMALL)?;
            wdev.wdevc(&["delete-wdev", NAME])?;
            let mut arguments = vec!["create-wdev", &grown.log, &grown.data, "-n", NAME];
            arguments.extend_from_slice(front_end.options());
            wdev.wdevc(&arguments)?;
        }
    }
    size(LARGE)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(device, &grown.data, LARGE * 512)?;
    front_end.detach(wdev)?;
    run("dmsetup", &["remove", "grow"]).map(drop)
}
