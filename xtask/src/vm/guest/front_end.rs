//! The ways a device of walb-wdev becomes a block device of the guest.

use anyhow::{Context, Result};

use super::daemon::{NAME, NBD, Wdev};
use super::tools::run;

/// A way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    /// The kernel's NBD client on the device's socket.
    Nbd,
    /// The same, connected by walb-wdev.
    Node,
    /// ublk.
    Ublk,
}

impl FrontEnd {
    /// What create-wdev is to be told.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Nbd => &["-nbd", NBD],
            Self::Node => &["-nbd", NBD, "-nbd-node", "1"],
            Self::Ublk => &["-ublk", "0"],
        }
    }

    /// The block device, in place once this returns.
    pub fn attach(self, wdev: &Wdev) -> Result<&'static str> {
        match self {
            Self::Nbd => {
                run("nbd-client", &["-unix", NBD, "/dev/nbd0", "-N", NAME])?;
                Ok("/dev/nbd0")
            }
            Self::Node => named(wdev, "/dev/nbd1"),
            Self::Ublk => named(wdev, "/dev/ublkb0"),
        }
    }

    /// Takes it away.
    pub fn detach(self, wdev: Wdev) -> Result<()> {
        if self == Self::Nbd {
            run("nbd-client", &["-d", "/dev/nbd0"])?;
        }
        wdev.wdevc(&["delete-wdev", NAME])?;
        wdev.stop()
    }
}

/// The node, if the device's status has it.
fn named(wdev: &Wdev, node: &'static str) -> Result<&'static str> {
    let status = wdev.wdevc(&["get-status", NAME])?;
    let line = format!("node {node}");
    let found = status.lines().any(|l| l == line);
    found
        .then_some(node)
        .with_context(|| format!("no {line:?} in {status}"))
}
