//! The virtual machine: its disks, its two serial lines, and its end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::{DISKS, report::Line};
use crate::interrupt;

/// What to boot, and where its files go.
pub struct Machine<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub dir: &'a Path,
}

/// Scenarios that ended, and how.
pub type Ended = Vec<(String, Result<(), String>)>;

impl Machine<'_> {
    /// Boots, runs the scenarios, and waits until the machine is off; ends it after `within`.
    pub fn run(&self, scenarios: &[&str], within: Duration) -> Result<Ended> {
        interrupt::install()?;
        let mut qemu = Qemu(self.command(scenarios)?.spawn().context("start qemu")?);
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
        let (mut ended, deadline) = (Ended::new(), Instant::now() + within);
        loop {
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    println!("  {}", line.trim_end());
                    if let Some(Line::Ended { name, result }) = Line::parse(&line) {
                        ended.push((name, result));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            interrupt::check()?;
            if Instant::now() > deadline {
                bail!(
                    "the machine still ran after {} s and was ended; its console: {}",
                    within.as_secs(),
                    super::console(self.dir).display()
                );
            }
        }
        let status = qemu.0.wait().context("wait for qemu")?;
        if !status.success() {
            bail!("qemu: {status}");
        }
        Ok(ended)
    }

    fn command(&self, scenarios: &[&str]) -> Result<Command> {
        let console = super::console(self.dir);
        // What is behind `--` are arguments of /init.
        let kernel_line = format!(
            "console=ttyS0 loglevel=5 panic=-1 oops=panic -- {}",
            scenarios.join(" ")
        );
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "1536",
            ])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &kernel_line])
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-chardev",
                "stdio,id=report,signal=off",
                "-serial",
                "chardev:report",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for disk in DISKS {
            let path = self.dir.join(format!("{}.raw", disk.name));
            // Always a new one: nothing of an earlier run may be found on it.
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            file.set_len(disk.mib << 20)
                .with_context(|| format!("size {}", path.display()))?;
            let (name, block) = (disk.name, disk.block);
            // This machine's power is not at stake, so syncs may cost nothing.
            command.args([
                "-drive",
                &format!(
                    "if=none,id={name},file={},format=raw,cache=unsafe,discard=unmap",
                    path.display()
                ),
            ]);
            command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name},logical_block_size={block},physical_block_size={block}")]);
        }
        Ok(command)
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
