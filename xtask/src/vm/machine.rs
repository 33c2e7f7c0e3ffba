//! The virtual machine: its disks, its two serial lines, and its end, which may be a loss of power.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console;
use super::guest::power_loss::{self, Round};
use super::guest::{DISKS, report::Line};
use crate::interrupt;

/// What to boot, where its files go, and when it is to have ended.
pub struct Machine<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub dir: &'a Path,
    pub deadline: Instant,
}

/// Scenarios that ended, and how.
pub type Ended = Vec<(String, Result<(), String>)>;

/// What to do after a line.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    /// Not as an operator would: the process ends, and what the machine had in memory or under way is gone.
    PowerOff,
}

/// How a boot ended.
#[derive(PartialEq, Eq)]
enum End {
    ByItself,
    PowerOff,
    Late,
}

impl Machine<'_> {
    /// Runs scenarios, on new disks, in one boot.
    pub fn run(&self, scenarios: &[&str]) -> Result<Ended> {
        let mut ended = Ended::new();
        self.new_disks()?;
        self.boot(&scenarios.join(" "), |line| {
            if let Some(Line::Ended { name, result }) = Line::parse(line) {
                ended.push((name, result));
            }
            Then::GoOn
        })?;
        Ok(ended)
    }

    /// Runs the scenario in which the power goes; each boot finds the disks that the last one left.
    pub fn lose_power(&self) -> Result<Ended> {
        let mut ended = Ended::new();
        let mut durable = BTreeMap::new();
        self.new_disks()?;
        for number in 0..=power_loss::LOSSES {
            let last = number == power_loss::LOSSES;
            let round = Round {
                last,
                durable: durable.clone(),
            };
            let mut told: BTreeMap<String, u32> = BTreeMap::new();
            let end = self.boot(&round.to_string(), |line| {
                match Line::parse(line) {
                    Some(Line::Ended { name, result }) => ended.push((name, result)),
                    // Remembered out here, where no power is lost.
                    Some(Line::Durable { device, number }) => {
                        *told.entry(device.clone()).or_default() += 1;
                        durable.insert(device, number);
                    }
                    None => {}
                }
                let enough = |device: &&str| told.get(*device).is_some_and(|n| *n >= power_loss::ENOUGH);
                if power_loss::DEVICES.iter().all(enough) {
                    Then::PowerOff
                } else {
                    Then::GoOn
                }
            })?;
            // It failed, or the kernel did: either is told by there being no success.
            if end != End::PowerOff {
                break;
            }
        }
        Ok(ended)
    }

    /// Boots with arguments for /init, and waits until the machine is off, or a line makes that happen.
    fn boot(&self, arguments: &str, mut line_came: impl FnMut(&str) -> Then) -> Result<End> {
        interrupt::install()?;
        let mut qemu = Qemu(self.command(arguments).spawn().context("start qemu")?);
        let stdout = qemu.0.stdout.take().context("qemu has no output")?;
        let (sender, lines) = mpsc::channel();
        // Ends with qemu, which is ended when this function returns.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    if !matches!(Line::parse(&line), Some(Line::Durable { .. })) {
                        println!("  {}", line.trim_end());
                    }
                    if line_came(&line) == Then::PowerOff {
                        println!("  power off");
                        return Ok(End::PowerOff);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            interrupt::check()?;
            if Instant::now() > self.deadline {
                // Those that ended count; the others are named by whoever asked for them.
                println!("  the machine still runs after the time it was given, and is ended");
                return Ok(End::Late);
            }
        }
        let status = qemu.0.wait().context("wait for qemu")?;
        if !status.success() {
            bail!("qemu: {status}");
        }
        Ok(End::ByItself)
    }

    fn command(&self, arguments: &str) -> Command {
        // What is behind `--` are arguments of /init.
        let kernel_line = format!("console=ttyS0 loglevel=5 panic=-1 oops=panic -- {arguments}");
        // Should we be killed, the kernel ends it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "1536"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &kernel_line])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,append=on,path={}",
                console(self.dir).display()
            ))
            .args(["-serial", "chardev:console"])
            .args(["-chardev", "stdio,id=report,signal=off"])
            .args(["-serial", "chardev:report"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for disk in DISKS {
            let (name, block, path) = (disk.name, disk.block, disk.file(self.dir));
            // This machine's power is not at stake, so syncs may cost nothing.
            command.arg("-drive").arg(format!(
                "if=none,id={name},file={},format=raw,cache=unsafe,discard=unmap",
                path.display()
            ));
            command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name},logical_block_size={block},physical_block_size={block}")]);
        }
        command
    }

    /// Nothing of an earlier run may be found on them.
    fn new_disks(&self) -> Result<()> {
        self.remove_disks()?;
        for disk in DISKS {
            let path = disk.file(self.dir);
            let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            file.set_len(disk.mib << 20)
                .with_context(|| format!("size {}", path.display()))?;
        }
        Ok(())
    }

    /// Gives their space back.
    pub fn remove_disks(&self) -> Result<()> {
        for path in DISKS.iter().map(|disk| disk.file(self.dir)) {
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Never outlives us.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails if it has ended already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
