//! `cargo xtask vm`: our programs on a kernel that has what this machine's lacks (ublk, NBD, device-mapper), in a virtual machine.
//!
//! ```text
//!  kernel      Debian's, from bookworm-backports, by apt with a configuration of its own; kept in target/vm
//!  initramfs   this program as /init, walb-wdev, wdevc, and Debian's tools with their libraries
//!  machine     qemu, emulated: no /dev/kvm is needed or touched
//!  guest       runs the scenarios and says how each went on its second serial line
//! ```
//! The same program is host and guest, so both know the same [`guest::SCENARIOS`].

mod guest;
mod initramfs;
mod kernel;
mod machine;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::FlockOperation;

use crate::{build, prerequisites};
use machine::Machine;

pub use guest::{is_guest, main as guest_main};

/// Options of `vm`.
#[derive(Args)]
pub struct Options {
    /// Only these scenarios; `list` lists them.
    scenarios: Vec<String>,
    /// Ask Debian for the newest kernel, even if one is there.
    #[arg(long)]
    new_kernel: bool,
    /// Optimised binaries.
    #[arg(long)]
    release: bool,
    /// The whole run is ended after so long.
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    within: u64,
}

/// Programs on the host.
const NEEDS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("dpkg-deb", "dpkg"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("fstrim", "util-linux"),
    ("blkdiscard", "util-linux"),
    ("fio", "fio"),
    ("nbd-client", "nbd-client"),
    ("dmsetup", "dmsetup"),
];

/// Runs the scenarios.
pub fn run(options: &Options) -> Result<()> {
    if options.scenarios == ["list"] {
        for scenario in guest::SCENARIOS {
            println!("{:16} {}", scenario.name, scenario.shows);
        }
        return Ok(());
    }
    let wanted = choose(&options.scenarios)?;
    prerequisites::root()?;
    prerequisites::ensure(NEEDS)?;
    let binaries = build::binaries_of("walb-wdev", options.release)?;
    let dir = binaries.parent().context("target directory")?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("make directory {}", dir.display()))?;
    let lock = dir.join("lock");
    let lock = fs::File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another run uses {}", dir.display());
    }
    let kernel = kernel::get(&dir, options.new_kernel)?;
    println!("kernel {}", kernel.version);
    let initramfs = initramfs::make(&dir, &kernel, &binaries)?;
    let machine = Machine {
        kernel: &kernel.image,
        initramfs: &initramfs,
        dir: &dir,
    };
    let ended = machine.run(&wanted, Duration::from_secs(options.within * 60))?;
    let good = |name: &&&str| ended.iter().any(|(n, result)| n == **name && result.is_ok());
    let bad: Vec<_> = wanted.iter().filter(|name| !good(name)).copied().collect();
    if !bad.is_empty() {
        bail!(
            "{} of {} scenarios failed or did not run: {}; the machine's console: {}",
            bad.len(),
            wanted.len(),
            bad.join(" "),
            console(&dir).display()
        );
    }
    println!("{} scenarios passed", wanted.len());
    Ok(())
}

/// Where the guest's kernel writes.
fn console(dir: &Path) -> std::path::PathBuf {
    dir.join("console.log")
}

fn choose(names: &[String]) -> Result<Vec<&'static str>> {
    let all = || guest::SCENARIOS.iter().map(|s| s.name);
    if names.is_empty() {
        return Ok(all().collect());
    }
    let find = |name: &String| {
        all().find(|n| n == name).with_context(|| {
            format!(
                "no scenario {name:?}, expected one of: {}",
                all().collect::<Vec<_>>().join(" ")
            )
        })
    };
    names.iter().map(find).collect()
}
