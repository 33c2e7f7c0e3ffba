//! `cargo xtask vm`: our programs on a kernel that has what this machine's lacks (ublk, NBD, device-mapper), in a virtual machine.
//!
//! ```text
//!  kernel      Debian's, from bookworm-backports, by apt with a configuration of its own; kept in target/vm
//!  initramfs   this program as /init, all our programs, and Debian's tools with their libraries
//!  machines    qemu, emulated, two at once: no /dev/kvm is needed or touched
//!  guest       runs the scenarios and says how each went on its second serial line
//! ```
//! The same program is host and guest, so both know the same [`guest::SCENARIOS`].

mod guest;
mod initramfs;
mod kernel;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::FlockOperation;

use crate::{build, prerequisites};
use kernel::Kernel;
use machine::Machine;

use guest::Scenario;
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
    #[arg(long, value_name = "MINUTES", default_value_t = WITHIN_MINUTES)]
    within: u64,
}

impl Options {
    /// As CI runs it. A machine that is much slower than ours, or busy, is to pass too.
    pub fn ci() -> Self {
        Self {
            scenarios: Vec::new(),
            new_kernel: false,
            release: false,
            within: WITHIN_MINUTES,
        }
    }
}

/// All scenarios take a quarter of it on two quiet cores.
const WITHIN_MINUTES: u64 = 40;

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
    ("dd", "coreutils"),
    ("fsfreeze", "util-linux"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
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
    let binaries = build::binaries(options.release)?;
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
    let deadline = Instant::now() + Duration::from_secs(options.within * 60);
    let (second, first): (Vec<&Scenario>, Vec<&Scenario>) =
        wanted.iter().partition(|s| ON_THE_SECOND.contains(&s.name));
    let lanes = [("1", first), ("2", second)].map(|(name, scenarios)| Lane {
        dir: dir.join(name),
        scenarios,
    });
    let ended = thread::scope(|scope| {
        let (kernel, initramfs) = (&kernel, &initramfs);
        let running = lanes
            .each_ref()
            .map(|lane| scope.spawn(move || lane.run(kernel, initramfs, deadline)));
        running.map(|lane| lane.join().unwrap_or_else(|_| bail!("a thread panicked")))
    });
    // The consoles and the kernel are kept.
    initramfs::remove(&dir)?;
    let mut bad = Vec::new();
    for (lane, ended) in lanes.iter().zip(ended) {
        bad.append(&mut lane.judge(&ended?));
    }
    if !bad.is_empty() {
        let (n, all) = (bad.len(), wanted.len());
        bail!("{n} of {all} scenarios failed or did not run: {}", bad.join(" "));
    }
    println!("{} scenarios passed", wanted.len());
    Ok(())
}

/// What the second machine does, so that both take about as long.
const ON_THE_SECOND: &[&str] = &["node-kill", "node-upgrade", "node-grow", "backup", "power-loss"];

/// A machine with disks of its own, and what it is to do. There are two, since most scenarios wait a good part of their time.
struct Lane<'a> {
    dir: PathBuf,
    scenarios: Vec<&'a Scenario>,
}

impl Lane<'_> {
    /// All boots that the scenarios take.
    fn run(&self, kernel: &Kernel, initramfs: &Path, deadline: Instant) -> Result<machine::Ended> {
        let mut ended = machine::Ended::new();
        // Nothing of an earlier run is left to be taken for one of this.
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        }
        if self.scenarios.is_empty() {
            return Ok(ended);
        }
        fs::create_dir(&self.dir).with_context(|| format!("make directory {}", self.dir.display()))?;
        let machine = Machine {
            kernel: &kernel.image,
            initramfs,
            dir: &self.dir,
            deadline,
        };
        let (apart, together): (Vec<&Scenario>, Vec<&Scenario>) =
            self.scenarios.iter().partition(|s| s.loses_power());
        let names: Vec<_> = together.iter().map(|s| s.name).collect();
        let result = (|| {
            if !names.is_empty() {
                ended.append(&mut machine.run(&names)?);
            }
            if !apart.is_empty() {
                ended.append(&mut machine.lose_power()?);
            }
            Ok(ended)
        })();
        machine.remove_disks()?;
        result
    }

    /// The scenarios that failed or did not run; prints what the console has of them.
    fn judge(&self, ended: &machine::Ended) -> Vec<&'static str> {
        let good = |name: &str| ended.iter().any(|(n, result)| n == name && result.is_ok());
        let names = self.scenarios.iter().map(|s| s.name);
        let bad: Vec<_> = names.filter(|name| !good(name)).collect();
        if bad.is_empty() {
            return bad;
        }
        let console = console(&self.dir);
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for name in &bad {
            println!(
                "\n--- {name}, end of its part of {}\n{}",
                console.display(),
                excerpt(&text, name)
            );
        }
        bad
    }
}

/// The last lines that the console has of a scenario; of all if it never began.
fn excerpt(console: &str, name: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = console.lines().collect();
    let is_heading = |line: &&str| line.trim_end() == guest::heading(name);
    let of_it = match lines.iter().rposition(is_heading) {
        Some(begin) => {
            let rest = &lines[begin + 1..];
            let end = rest.iter().position(|line| line.starts_with(&guest::heading("")));
            &rest[..end.unwrap_or(rest.len())]
        }
        None => &lines[..],
    };
    of_it[of_it.len().saturating_sub(LINES)..].join("\n")
}

/// Where the guest's kernel writes.
fn console(dir: &Path) -> PathBuf {
    dir.join("console.log")
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(guest::SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        guest::SCENARIOS.iter().find(|s| s.name == name).with_context(|| {
            let all: Vec<_> = guest::SCENARIOS.iter().map(|s| s.name).collect();
            format!("no scenario {name:?}, expected one of: {}", all.join(" "))
        })
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn a_failed_scenario_is_shown_with_its_own_part_of_the_console() {
        let console = "booting\r\n=== one\r\n# a\r\n# b\r\n=== two\r\n# c\r\n";
        assert_eq!(excerpt(console, "one"), "# a\n# b");
        assert_eq!(excerpt(console, "two"), "# c");
        assert!(excerpt(console, "three").starts_with("booting"), "it never began");
    }
}
