//! The devices: set up, asked for their CPU time, taken down again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use walb_tests::binaries;
use walb_tests::daemon::Daemon;
use walb_tests::wait::{PATIENCE, until};

/// Something fio can write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A plain file, past the page cache.
    File,
    /// nbdkit's file plugin, through the page cache.
    Nbdkit,
    /// qemu-nbd, past the page cache.
    QemuNbd,
    /// qemu-storage-daemon's FUSE export with a loop device on it.
    QemuFuse,
    /// Our device through NBD.
    WalbNbd,
    /// Our device through FUSE with a loop device on it.
    WalbFuse,
}

impl Target {
    /// All of them, in the order of the tables.
    pub const ALL: &[Self] = &[
        Self::File,
        Self::Nbdkit,
        Self::QemuNbd,
        Self::QemuFuse,
        Self::WalbNbd,
        Self::WalbFuse,
    ];

    /// Its name in tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::File => "plain file, O_DIRECT",
            Self::Nbdkit => "nbdkit file (page cache)",
            Self::QemuNbd => "qemu-nbd --cache=none --aio=native",
            Self::QemuFuse => "qemu-storage-daemon FUSE + loop",
            Self::WalbNbd => "**walb-wdev, NBD**",
            Self::WalbFuse => "**walb-wdev, FUSE + loop**",
        }
    }
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A mount, taken away when dropped, also from a server that is stuck.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

struct Running {
    fio: Vec<String>,
    /// Whose CPU time counts.
    server: Option<u32>,
}

/// What runs. Dropped in this order: who uses a device goes before it.
pub struct Setup {
    loops: Vec<Loop>,
    mounts: Vec<Mount>,
    daemons: Vec<Daemon>,
    running: BTreeMap<Target, Running>,
    dir: PathBuf,
    content: PathBuf,
    /// Of our devices.
    physical_block: u32,
    /// Log and data of our devices are loop devices, which count what is written to them.
    on_loops: bool,
}

impl Setup {
    /// Nothing runs yet. Every device begins with `content`.
    pub fn new(dir: &Path, content: &Path) -> Self {
        Self {
            loops: Vec::new(),
            mounts: Vec::new(),
            daemons: Vec::new(),
            running: BTreeMap::new(),
            dir: dir.to_owned(),
            content: content.to_owned(),
            physical_block: 4096,
            on_loops: false,
        }
    }

    /// Our devices have physical blocks of so many bytes, and loop devices as log and data.
    pub fn on_loops(mut self, physical_block: u32) -> Self {
        self.physical_block = physical_block;
        self.on_loops = true;
        self
    }

    /// Where our device behind NBD is controlled. Its name: `nbd`.
    pub fn control_socket(&self) -> PathBuf {
        self.path("walb-nbd.ctl")
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What fio needs to be told to use a device.
    pub fn fio_arguments(&self, target: Target) -> Result<&[String]> {
        Ok(&self.running.get(&target).context("not set up")?.fio)
    }

    /// CPU time that the process behind a device has used so far.
    pub fn cpu_seconds(&self, target: Target) -> Result<f64> {
        match self.running.get(&target).context("not set up")?.server {
            Some(id) => cpu_seconds(id),
            None => Ok(0.0),
        }
    }

    /// Starts a device; of ours `log_bytes` is the size of the ring.
    pub fn start(&mut self, target: Target, log_bytes: u64) -> Result<()> {
        let running = match target {
            Target::File => Running {
                fio: aio(&self.file("plain.img")?)?,
                server: None,
            },
            Target::Nbdkit => {
                let (file, socket) = (self.file("nbdkit.img")?, self.path("nbdkit.sock"));
                let server = self.spawn("nbdkit", &["-f", "-U", text(&socket)?, "file", text(&file)?])?;
                nbd(&socket, "", server)?
            }
            Target::QemuNbd => {
                let (file, socket) = (self.file("qemu-nbd.img")?, self.path("qemu-nbd.sock"));
                let mut arguments = vec!["-t", "-f", "raw", "--cache=none", "--aio=native", "-e", "4"];
                arguments.extend(["-k", text(&socket)?, text(&file)?]);
                let server = self.spawn("qemu-nbd", &arguments)?;
                nbd(&socket, "", server)?
            }
            Target::QemuFuse => self.qemu_fuse()?,
            Target::WalbNbd | Target::WalbFuse => self.walb(target, log_bytes)?,
        };
        self.running.insert(target, running);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file of its own with the common content, synced.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::copy(&self.content, &path).with_context(|| format!("make {name}"))?;
        std::fs::File::open(&path)?.sync_all()?;
        Ok(path)
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) -> Result<u32> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let log = self.path(&format!("{program}.log"));
        let path = match program {
            "walb-wdev" => binaries::path(program),
            _ => program.into(),
        };
        let mut daemon = Daemon::new(program, path, arguments, &log);
        daemon.start()?;
        let id = daemon.pid().context("just started")?;
        self.daemons.push(daemon);
        Ok(id)
    }

    fn attach(&mut self, file: &Path) -> Result<Vec<String>> {
        aio(&self.loop_on(file, 512)?)
    }

    fn loop_on(&mut self, file: &Path, sector: u32) -> Result<PathBuf> {
        let mut losetup = Command::new("losetup");
        losetup.args([
            "--find",
            "--show",
            "--direct-io=on",
            "--sector-size",
            &sector.to_string(),
        ]);
        let device = output(losetup.arg(file))?;
        self.loops.push(Loop(device.clone()));
        Ok(device.into())
    }

    fn qemu_fuse(&mut self) -> Result<Running> {
        let (file, mount) = (self.file("qemu-fuse.img")?, self.path("qemu-fuse"));
        std::fs::File::create(&mount)?;
        let below = format!(
            "driver=file,node-name=p,filename={},cache.direct=on,aio=native",
            text(&file)?
        );
        let export = format!(
            "type=fuse,id=e,node-name=n,mountpoint={},writable=on",
            text(&mount)?
        );
        let arguments = [
            "--blockdev",
            &below,
            "--blockdev",
            "driver=raw,node-name=n,file=p",
            "--export",
            &export,
        ];
        let server = self.spawn("qemu-storage-daemon", &arguments)?;
        self.mounts.push(Mount(mount.clone()));
        until("qemu-storage-daemon's export", PATIENCE, || {
            Ok((mount.metadata()?.len() > 0).then_some(()))
        })?;
        Ok(Running {
            fio: self.attach(&mount)?,
            server: Some(server),
        })
    }

    /// A daemon with a device for each front-end, so that none sees what the other has left to do.
    fn walb(&mut self, target: Target, log_bytes: u64) -> Result<Running> {
        let name = if target == Target::WalbNbd { "nbd" } else { "fuse" };
        let of = |suffix: &str| self.path(&format!("walb-{name}.{suffix}"));
        let (state, control, log, socket, mount) = (of("d"), of("ctl"), of("ldev"), of("sock"), of("mnt"));
        let data = self.file(&format!("walb-{name}.ddev"))?;
        // Written, as the blocks of a device are: a file of holes would have to get its blocks in the first lap.
        let zeros = std::io::Read::take(std::io::repeat(0), log_bytes);
        let mut file = std::fs::File::create(&log)?;
        std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, zeros), &mut file)?;
        file.sync_all()?;
        let (log, data) = if self.on_loops {
            (
                self.loop_on(&log, self.physical_block)?,
                self.loop_on(&data, self.physical_block)?,
            )
        } else {
            (log, data)
        };
        std::fs::create_dir(&state)?;
        std::fs::create_dir(&mount)?;
        let server = self.spawn(
            "walb-wdev",
            &["--dir", text(&state)?, "--socket", text(&control)?],
        )?;
        let wdevc = |arguments: &[&str]| {
            let mut command = Command::new(binaries::path("wdevc"));
            output(command.env("WALB_WDEV_SOCKET", &control).args(arguments))
        };
        until("walb-wdev to come up", PATIENCE, || wdevc(&["list"]).map(Some))?;
        let (log, data) = (text(&log)?, text(&data)?);
        let pbs = self.physical_block.to_string();
        wdevc(&["format-ldev", log, data, "-n", name, "-pbs", &pbs, "-nd"])?;
        let front = match target {
            Target::WalbNbd => ["-nbd", text(&socket)?],
            _ => ["-fuse", text(&mount)?],
        };
        wdevc(&[&["create-wdev", log, data, "-n", name], &front[..]].concat())?;
        if target == Target::WalbNbd {
            return nbd(&socket, name, server);
        }
        self.mounts.push(Mount(mount.clone()));
        let file = mount.join(name);
        ensure!(file.exists(), "{} is not there", file.display());
        Ok(Running {
            fio: self.attach(&file)?,
            server: Some(server),
        })
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

fn aio(path: &Path) -> Result<Vec<String>> {
    let filename = format!("--filename={}", text(path)?);
    Ok(vec!["--ioengine=libaio".into(), "--direct=1".into(), filename])
}

/// Waits for the socket.
fn nbd(socket: &Path, export: &str, server: u32) -> Result<Running> {
    until("an NBD socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let uri = format!("--uri=nbd+unix:///{export}?socket={}", text(socket)?);
    Ok(Running {
        fio: vec!["--ioengine=nbd".into(), uri],
        server: Some(server),
    })
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// CPU time of a process, all its threads, from proc(5); it counts in ticks of 10 ms.
fn cpu_seconds(id: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).context("has the server died?")?;
    // Fields 14 and 15, counted from behind the name, which may hold blanks.
    let rest = stat.rsplit(')').next().context("/proc/PID/stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("/proc/PID/stat")?.parse()?) };
    Ok((ticks()? + ticks()?) / 100.0)
}
