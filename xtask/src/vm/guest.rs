//! Inside the machine: this program is the first process, sets the machine up, runs scenarios, and turns it off.

mod backup;
mod daemon;
mod end_it;
mod filesystem;
mod front_end;
pub mod power_loss;
pub mod report;
mod servers;
mod tools;
mod use_it;

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use Run::{InTurn, LosesPower};
use daemon::Pair;
use filesystem::Kind;
use front_end::FrontEnd::{Nbd, Node, Ublk};
use power_loss::Round;
use report::Report;

/// A disk of the machine, known to the guest by its serial number.
pub struct Disk {
    pub name: &'static str,
    pub mib: u64,
    /// Logical and physical block size.
    pub block: u32,
}

impl Disk {
    /// Where the host has its content.
    pub fn file(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.raw", self.name))
    }
}

/// The disks: log and data with both block sizes, and one for files. xfs is at least 300 MiB.
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
    Disk {
        name: "store",
        mib: 512,
        block: 512,
    },
];

/// Something that is to hold.
pub struct Scenario {
    pub name: &'static str,
    pub shows: &'static str,
    run: Run,
}

/// How.
enum Run {
    /// One after the other, in one boot.
    InTurn(fn() -> Result<()>),
    /// Boots of its own: [`power_loss`].
    LosesPower,
}

impl Scenario {
    /// Whether it has boots of its own.
    pub fn loses_power(&self) -> bool {
        matches!(self.run, Run::LosesPower)
    }
}

/// All of them, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "claim",
        shows: "block devices are formatted with their own block size and claimed by one daemon",
        run: InTurn(daemon::claim),
    },
    Scenario {
        name: "nbd-ext4",
        shows: "ext4 over the kernel's NBD client, 512-byte blocks",
        run: InTurn(|| use_it::filesystem(Nbd, &Pair::of_512()?, Kind::Ext4)),
    },
    Scenario {
        name: "nbd-xfs",
        shows: "xfs over the kernel's NBD client, 4096-byte blocks",
        run: InTurn(|| use_it::filesystem(Nbd, &Pair::of_4k()?, Kind::Xfs)),
    },
    Scenario {
        name: "nbd-discard",
        shows: "a discard takes no log, and leaves zeros",
        run: InTurn(|| use_it::discard(Nbd, &Pair::of_512()?)),
    },
    Scenario {
        name: "nbd-grow",
        shows: "the device grows with its data device; a client sees it when it connects",
        run: InTurn(|| use_it::grow(Nbd, &Pair::of_512()?)),
    },
    Scenario {
        name: "node-kill",
        shows: "walb-wdev killed three times under checked writes to the /dev/nbdN that it keeps connected",
        run: InTurn(|| end_it::kill(Node, &Pair::of_512()?)),
    },
    Scenario {
        name: "node-upgrade",
        shows: "walb-wdev replaced twice under a mounted ext4 on the /dev/nbdN that it keeps connected",
        run: InTurn(|| end_it::upgrade(Node, &Pair::of_4k()?)),
    },
    Scenario {
        name: "node-grow",
        shows: "the /dev/nbdN that walb-wdev keeps connected grows with the device",
        run: InTurn(|| use_it::grow(Node, &Pair::of_512()?)),
    },
    Scenario {
        name: "ublk-ext4",
        shows: "ext4 over ublk, 4096-byte blocks",
        run: InTurn(|| use_it::filesystem(Ublk, &Pair::of_4k()?, Kind::Ext4)),
    },
    Scenario {
        name: "ublk-xfs",
        shows: "xfs over ublk, 512-byte blocks",
        run: InTurn(|| use_it::filesystem(Ublk, &Pair::of_512()?, Kind::Xfs)),
    },
    Scenario {
        name: "ublk-discard",
        shows: "a discard takes no log, and leaves zeros",
        run: InTurn(|| use_it::discard(Ublk, &Pair::of_4k()?)),
    },
    Scenario {
        name: "ublk-grow",
        shows: "the device grows with its data device; made anew, its node does too",
        run: InTurn(|| use_it::grow(Ublk, &Pair::of_512()?)),
    },
    Scenario {
        name: "ublk-kill",
        shows: "walb-wdev killed three times under checked writes: they pause, nothing is lost",
        run: InTurn(|| end_it::kill(Ublk, &Pair::of_512()?)),
    },
    Scenario {
        name: "ublk-upgrade",
        shows: "walb-wdev replaced twice under a mounted ext4 that is written to",
        run: InTurn(|| end_it::upgrade(Ublk, &Pair::of_4k()?)),
    },
    Scenario {
        name: "ublk-steps",
        shows: "walb-wdev dies at each step of adding and of taking over a ublk device",
        run: InTurn(|| end_it::crash_at_each_ublk_step(&Pair::of_512()?)),
    },
    Scenario {
        name: "ublk-number",
        shows: "a number that is taken is refused, and its device goes on",
        run: InTurn(|| end_it::ublk_number_in_use(&Pair::of_512()?, &Pair::of_4k()?)),
    },
    Scenario {
        name: "log-error",
        shows: "the log device fails: writes fail, nothing acknowledged is lost",
        run: InTurn(|| end_it::log_device_fails(Ublk, &Pair::of_512()?)),
    },
    Scenario {
        name: "data-error",
        shows: "a part of the data device fails: writes fail, it is told which device, the rest is read, nothing is lost",
        run: InTurn(|| end_it::data_device_fails(Ublk, &Pair::of_512()?)),
    },
    Scenario {
        name: "thin",
        shows: "a discard gives space of the data device back",
        run: InTurn(|| use_it::thin(Node, &Pair::of_512()?.log)),
    },
    Scenario {
        name: "backup",
        shows: "storage, proxy and archive: a snapshot is what dd read then; restored offline onto a block device too",
        run: InTurn(|| backup::snapshot_is_what_the_device_held(Ublk, &Pair::of_4k()?)),
    },
    Scenario {
        name: power_loss::NAME,
        shows: "the machine loses power twice under writes, 512 and 4096-byte blocks: no gap, nothing flushed is lost",
        run: LosesPower,
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
        if let InTurn(run) = scenario.run {
            perform(scenario.name, &mut report, |_| run())?;
        }
    }
    if let Some(round) = wanted.iter().find_map(|word| Round::parse(word)) {
        perform(power_loss::NAME, &mut report, |report| {
            power_loss::run_round(&round, report)
        })?;
    }
    Ok(())
}

fn perform(name: &str, report: &mut Report, run: impl FnOnce(&mut Report) -> Result<()>) -> Result<()> {
    println!("{}", heading(name));
    let begin = Instant::now();
    let result = run(report).map_err(|e| format!("{e:#}"));
    if let Err(reason) = &result {
        println!("{reason}");
        tools::clean_up();
        daemon::clean_up();
    }
    Ok(report.ended(name, begin.elapsed(), &result)?)
}

/// What the console has before what a scenario prints.
pub fn heading(name: &str) -> String {
    format!("=== {name}")
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("open {}", module.display()))?;
    // Partitions of NBD devices are of no use here, and cost a scan at each attach.
    let is = |name: &str| module.to_string_lossy().ends_with(&format!("-{name}.ko"));
    let parameters = if is("nbd") {
        c"max_part=0 nbds_max=4"
    } else if is("scsi_debug") {
        // Its blocks are given out when they are written to, and can be given back.
        c"dev_size_mb=64 lbpu=1 lbpws=1"
    } else {
        c""
    };
    finit_module(&file, parameters, 0).with_context(|| format!("load {}", module.display()))
}
