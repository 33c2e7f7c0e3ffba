//! Programs, disks and files in the guest.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Nothing here takes this long unless it hangs; the machine is emulated, and may share its host.
const HANGS_AFTER: Duration = Duration::from_mins(10);
/// Where file systems are mounted.
pub const MOUNTPOINT: &str = "/mnt";

/// Runs a program; its output, or an error that has it.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with(program, arguments, &[])
}

/// The same, with variables in its environment.
pub fn run_with(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let mut running = Running::start_with(program, arguments, environment)?;
    let status = running.wait()?;
    let said = running.said();
    ensure!(
        status.success(),
        "`{program} {}`: {status}: {said}",
        arguments.join(" ")
    );
    Ok(said)
}

/// A program that runs, with its output in a file.
pub struct Running {
    child: Child,
    what: String,
    output: PathBuf,
}

impl Running {
    /// Starts it.
    pub fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_with(program, arguments, &[])
    }

    /// Starts it with variables in its environment.
    pub fn start_with(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let what = format!("{program} {}", arguments.join(" "));
        println!("# {what}");
        let output = PathBuf::from(format!("/tmp/{program}.out"));
        let file = File::create(&output).with_context(|| format!("create {}", output.display()))?;
        let child = Command::new(Path::new("/bin").join(program))
            .args(arguments)
            .env("PATH", "/bin")
            .env("DM_DISABLE_UDEV", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        Ok(Self { child, what, output })
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        let ended = until(&self.what, || Ok(child.try_wait()?));
        if ended.is_err() {
            // One that waits for a disk may be deaf to this.
            let _ = self.child.kill();
        }
        ended
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.what.clone())
    }

    /// What it has printed, without control characters; not more than a reader wants.
    pub fn said(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let printable = text.chars().filter(|c| !c.is_control() || *c == '\n');
        printable.take(2000).collect::<String>().trim().to_owned()
    }

    /// Its process id.
    pub fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }
}

/// Asks again and again until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + HANGS_AFTER;
    loop {
        if let Some(answer) = ask().with_context(|| what.to_owned())? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not after {} s", HANGS_AFTER.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The path of a disk of the machine.
pub fn disk(name: &str) -> Result<String> {
    for entry in fs::read_dir("/sys/block")? {
        let dir = entry?.path();
        let Ok(serial) = fs::read_to_string(dir.join("serial")) else {
            continue;
        };
        if serial.trim() == name {
            let device = dir.file_name().context("a directory has a name")?;
            return Ok(format!("/dev/{}", device.to_string_lossy()));
        }
    }
    bail!("no disk has the serial number {name}")
}

/// A number of `/sys/block/DEVICE/`.
pub fn block_number(device: &str, file: &str) -> Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let path = format!("/sys/block/{name}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("{path}: {text:?}"))
}

/// Writes that a device has completed since it appeared.
pub fn writes_done(device: &str) -> Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let path = format!("/sys/block/{name}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = text.split_whitespace().nth(4);
    field
        .and_then(|f| f.parse().ok())
        .with_context(|| format!("{path}: {text:?}"))
}

/// fio's options for a target: random writes in several sizes, each with a checksum that is verified afterwards.
pub fn fio_options(target: &str, mib: u32) -> Vec<String> {
    [
        "--name=verify",
        "--thread",
        "--ioengine=psync",
        "--direct=1",
        "--rw=randwrite",
        "--bsrange=4k-64k",
        "--blockalign=4k",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--fsync=32",
        "--randseed=7",
        &format!("--filename={target}"),
        &format!("--size={mib}m"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Runs fio to its end.
pub fn fio(target: &str, mib: u32) -> Result<()> {
    let options = fio_options(target, mib);
    run("fio", &options.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

/// Fails unless two devices have the same first `len` bytes.
pub fn same(a: &str, b: &str, len: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut files = [a, b].map(File::open);
    let [Ok(file_a), Ok(file_b)] = &mut files else {
        bail!("open {a} and {b}: {files:?}");
    };
    let (mut piece_a, mut piece_b, mut at) = (vec![0; PIECE], vec![0; PIECE], 0);
    while at < len {
        let n = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
        file_a
            .read_exact(&mut piece_a[..n])
            .with_context(|| format!("read {a} at {at}"))?;
        file_b
            .read_exact(&mut piece_b[..n])
            .with_context(|| format!("read {b} at {at}"))?;
        if let Some(i) = piece_a[..n].iter().zip(&piece_b[..n]).position(|(x, y)| x != y) {
            bail!("{a} and {b} differ at byte {}", at + i as u64);
        }
        at += n as u64;
    }
    Ok(())
}

/// A part of a disk as a device of its own, as a logical volume is: its first sectors.
pub fn linear(name: &str, sectors: u64, disk: &str) -> Result<String> {
    let table = format!("0 {sectors} linear {disk} 0");
    run("dmsetup", &["create", name, "--table", &table])?;
    Ok(format!("/dev/mapper/{name}"))
}

/// Puts another table in the place of a device-mapper device's; what is under way to it is not waited for.
pub fn switch(name: &str, table: &str) -> Result<()> {
    // On the command line a table has one line only.
    let file = "/tmp/table";
    fs::write(file, table).with_context(|| format!("write {file}"))?;
    run("dmsetup", &["load", name, file])?;
    run("dmsetup", &["suspend", "--noflush", "--nolockfs", name])?;
    run("dmsetup", &["resume", name]).map(drop)
}

/// Mounts a device.
pub fn mount_on(device: &str, kind: &str, at: &str) -> Result<()> {
    println!("# mount {device} {at}");
    fs::create_dir_all(at).with_context(|| format!("make directory {at}"))?;
    mount(device, at, kind, MountFlags::empty(), None::<&std::ffi::CStr>)
        .with_context(|| format!("mount {device} as {kind}"))
}

/// Mounts it where scenarios have the file system that they try.
pub fn mount_at(device: &str, kind: &str) -> Result<()> {
    mount_on(device, kind, MOUNTPOINT)
}

/// Mounts a disk with an empty file system for files of ours.
pub fn mount_store(device: &str, at: &str) -> Result<()> {
    run("mkfs.ext4", &["-q", "-F", device])?;
    mount_on(device, "ext4", at)
}

/// Unmounts.
pub fn unmount_from(at: &str) -> Result<()> {
    println!("# umount {at}");
    unmount(at, UnmountFlags::empty()).with_context(|| format!("unmount {at}"))
}

/// Unmounts what [`mount_at`] has mounted.
pub fn unmount_it() -> Result<()> {
    unmount_from(MOUNTPOINT)
}

/// Takes away what a failed scenario may have left.
pub fn clean_up() {
    // Each may be there or not.
    let _ = run("fsfreeze", &["-u", MOUNTPOINT]);
    for at in [MOUNTPOINT, "/store"] {
        let _ = unmount(at, UnmountFlags::DETACH);
    }
    let _ = run("nbd-client", &["-d", "/dev/nbd0"]);
    let _ = run("dmsetup", &["remove_all"]);
}
