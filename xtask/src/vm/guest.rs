//! Inside the machine: this program is the first process, sets the machine up, runs scenarios, and turns it off.

mod daemon;
mod filesystem;
mod nbd;
pub mod report;
mod tools;

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use report::Report;

/// A disk of the machine, known to the guest by its serial number.
pub struct Disk {
    pub name: &'static str,
    pub mib: u64,
    /// Logical and physical block size.
    pub block: u32,
}

/// The disks: log and data with both block sizes. xfs is at least 300 MiB.
pub const DISKS: &[Disk] = &[
    Disk {
        name: "log512",
        mib: 64,
        block: 512,
    },
    Disk {
        name: "data512",
        mib: 512,
        block: 512,
    },
    Disk {
        name: "log4k",
        mib: 64,
        block: 4096,
    },
    Disk {
        name: "data4k",
        mib: 512,
        block: 4096,
    },
];

/// Something that is to hold.
pub struct Scenario {
    pub name: &'static str,
    pub shows: &'static str,
    run: fn() -> Result<()>,
}

/// All of them, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "claim",
        shows: "block devices are formatted with their own block size and claimed by one daemon",
        run: daemon::claim,
    },
    Scenario {
        name: "nbd-ext4",
        shows: "ext4 over the kernel's NBD client, 512-byte blocks",
        run: nbd::ext4,
    },
    Scenario {
        name: "nbd-xfs",
        shows: "xfs over the kernel's NBD client, 4096-byte blocks",
        run: nbd::xfs,
    },
];

/// Whether this is the first process of a machine.
pub fn is_guest() -> bool {
    std::process::id() == 1
}

/// The first process. Does not return: the machine ends here.
pub fn main() -> ExitCode {
    let ended = match guest() {
        Ok(()) => RebootCommand::PowerOff,
        Err(error) => {
            eprintln!("error: {error:#}");
            RebootCommand::Restart
        }
    };
    rustix::fs::sync();
    // Unless we are no first process after all.
    let _ = reboot(ended);
    ExitCode::FAILURE
}

fn guest() -> Result<()> {
    let none = None::<&CStr>;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        mount(kind, at, kind, MountFlags::empty(), none).with_context(|| format!("mount {at}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    for module in modules {
        load(&module)?;
    }
    let port = OpenOptions::new()
        .write(true)
        .open("/dev/ttyS1")
        .context("open /dev/ttyS1")?;
    let mut report = Report::to(port);
    report.say(&format!(
        "linux {}",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    ))?;
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for scenario in SCENARIOS.iter().filter(|s| wanted.iter().any(|w| w == s.name)) {
        println!("=== {}", scenario.name);
        let begin = Instant::now();
        let result = (scenario.run)().map_err(|e| format!("{e:#}"));
        tools::clean_up();
        report.ended(scenario.name, begin.elapsed(), &result)?;
    }
    Ok(())
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("open {}", module.display()))?;
    // Partitions of NBD devices are of no use here, and cost a scan at each attach.
    let parameters = if module.to_string_lossy().ends_with("-nbd.ko") {
        c"max_part=0 nbds_max=4"
    } else {
        c""
    };
    finit_module(&file, parameters, 0).with_context(|| format!("load {}", module.display()))
}
