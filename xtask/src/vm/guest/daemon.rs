//! walb-wdev in the guest.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use rustix::process::{Signal, kill_process};

use super::tools::{Running, block_number, disk, run, until};

const DIR: &str = "/run/wdev";
/// Its control socket.
pub const CONTROL: &str = "/run/wdev/control.sock";
/// The socket of the device.
pub const NBD: &str = "/run/wdev/nbd.sock";
/// Its name.
pub const NAME: &str = "vol";

/// A log device and a data device.
pub struct Pair {
    pub log: String,
    pub data: String,
}

impl Pair {
    /// With blocks of 512 bytes.
    pub fn of_512() -> Result<Self> {
        Ok(Self {
            log: disk("log512")?,
            data: disk("data512")?,
        })
    }

    /// The pair with the other block size.
    pub fn other_than(pair: &Self) -> Result<Self> {
        let of_512 = Self::of_512()?;
        if of_512.data == pair.data {
            Self::of_4k()
        } else {
            Ok(of_512)
        }
    }

    /// With blocks of 4096 bytes.
    pub fn of_4k() -> Result<Self> {
        Ok(Self {
            log: disk("log4k")?,
            data: disk("data4k")?,
        })
    }
}

/// A daemon with one device.
pub struct Wdev {
    running: Running,
}

impl Wdev {
    /// A daemon that knows no device yet.
    pub fn fresh() -> Result<Self> {
        Self::fresh_with(&[])
    }

    /// The same, with variables in its environment.
    pub fn fresh_with(environment: &[(&str, &str)]) -> Result<Self> {
        if fs::exists(DIR)? {
            fs::remove_dir_all(DIR).context("remove the last daemon's directory")?;
        }
        fs::create_dir(DIR).context("make the daemon's directory")?;
        Self::run("walb-wdev", environment)
    }

    /// A daemon that finds what the last one left.
    pub fn again() -> Result<Self> {
        Self::run("walb-wdev", &[])
    }

    /// The same, from a program file, with variables in its environment.
    pub fn run(program: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let mut running = Running::start_with(program, &["--dir", DIR, "--socket", CONTROL], environment)?;
        until("walb-wdev answers", || {
            if let Some(status) = running.ended()? {
                bail!("walb-wdev ended: {status}: {}", running.said());
            }
            Ok(run("wdevc", &["--socket", CONTROL, "get-version"]).ok())
        })?;
        Ok(Self { running })
    }

    /// Formats the log device and makes the device, with more options.
    pub fn create(&self, pair: &Pair, options: &[&str]) -> Result<()> {
        self.wdevc(&["format-ldev", &pair.log, &pair.data, "-n", NAME])?;
        let mut arguments = vec!["create-wdev", &pair.log, &pair.data, "-n", NAME];
        arguments.extend(options);
        self.wdevc(&arguments).map(drop)
    }

    /// One command.
    pub fn wdevc(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--socket", CONTROL];
        all.extend(arguments);
        run("wdevc", &all).with_context(|| format!("walb-wdev said: {}", self.running.said()))
    }

    /// Whether it has a file open past the page cache.
    pub fn goes_past_the_cache(&self, path: &str) -> Result<bool> {
        let proc = format!("/proc/{}", self.running.id());
        for entry in fs::read_dir(format!("{proc}/fd")).context("list the daemon's files")? {
            let fd = entry?.file_name();
            let fd = fd.to_string_lossy();
            let info = format!("{proc}/fdinfo/{fd}");
            // It may be closed by now.
            let (Ok(target), Ok(info)) = (fs::read_link(format!("{proc}/fd/{fd}")), fs::read_to_string(info))
            else {
                continue;
            };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.context("no flags in fdinfo")?.trim(), 8)?;
            if target.to_str() == Some(path) && flags & OFlags::DIRECT.bits() != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As a power switch would, for this process.
    pub fn kill(mut self) -> Result<()> {
        kill_process(self.running.id(), Signal::KILL).context("kill walb-wdev")?;
        self.running.wait().map(drop)
    }

    /// As an operator would.
    pub fn stop(mut self) -> Result<()> {
        kill_process(self.running.id(), Signal::TERM).context("stop walb-wdev")?;
        let status = self.running.wait()?;
        ensure!(
            status.success(),
            "walb-wdev stopped: {status}: {}",
            self.running.said()
        );
        Ok(())
    }
}

impl Drop for Wdev {
    fn drop(&mut self) {
        // Of a scenario that failed, and has its reason.
        let _ = kill_process(self.running.id(), Signal::KILL);
        let _ = self.running.wait();
    }
}

/// Takes a device away that a failed scenario left, so that the next one finds none.
pub fn clean_up() {
    if let Ok(wdev) = Wdev::again() {
        // There may be none.
        let _ = wdev.wdevc(&["delete-wdev", NAME, "-f"]);
    }
}

/// Block devices keep their block size, are used past the page cache where that is asked for, and are claimed.
pub fn claim() -> Result<()> {
    let wdev = Wdev::fresh()?;
    for (pair, block) in [(Pair::of_512()?, 512), (Pair::of_4k()?, 4096)] {
        ensure!(
            block_number(&pair.log, "queue/physical_block_size")? == block,
            "{} has no blocks of {block}",
            pair.log
        );
        let said = wdev.wdevc(&["format-ldev", &pair.log, &pair.data, "-n", NAME])?;
        ensure!(said.contains(&block.to_string()), "no {block} in: {said}");
        for options in [&[][..], &["-data-direct"]] {
            let create = [&["create-wdev", &pair.log, &pair.data, "-n", NAME], options].concat();
            wdev.wdevc(&create)?;
            for (disk, expected) in [(&pair.log, true), (&pair.data, !options.is_empty())] {
                ensure!(
                    wdev.goes_past_the_cache(disk)? == expected,
                    "{disk} with {options:?}: past the page cache or not, expected {expected}"
                );
            }
            if options.is_empty() {
                wdev.wdevc(&["delete-wdev", NAME])?;
            }
        }
        let Err(refused) = run("mkfs.ext4", &["-q", "-F", &pair.data]) else {
            bail!("mkfs wrote to a data device in use");
        };
        println!("{refused:#}");
        wdev.wdevc(&["delete-wdev", NAME])?;
        run("mkfs.ext4", &["-q", "-F", &pair.data])?;
    }
    wdev.stop()
}
