//! The kernel's NBD client on the device's socket.

use anyhow::Result;

use super::daemon::{NAME, NBD, Pair, Wdev};
use super::filesystem::{Kind, exercise};
use super::tools::{block_number, run, same};

const DEVICE: &str = "/dev/nbd0";

/// ext4, small blocks.
pub fn ext4() -> Result<()> {
    filesystem(&Pair::of_512()?, Kind::Ext4)
}

/// xfs, large blocks.
pub fn xfs() -> Result<()> {
    filesystem(&Pair::of_4k()?, Kind::Xfs)
}

fn filesystem(pair: &Pair, kind: Kind) -> Result<()> {
    let wdev = Wdev::fresh()?;
    wdev.create(pair, &["-nbd", NBD])?;
    run("nbd-client", &["-unix", NBD, DEVICE, "-N", NAME])?;
    exercise(DEVICE, kind)?;
    wdev.wdevc(&["force-checkpoint", NAME])?;
    same(DEVICE, &pair.data, block_number(DEVICE, "size")? * 512)?;
    run("nbd-client", &["-d", DEVICE])?;
    wdev.stop()
}
