//! The main job, end to end, on this machine: a file system on a WalB device is written to all the time; a backup runs
//! meanwhile; two snapshots are restored and compared with what the device held at their instants.

mod cleanup;
mod daemons;
mod disk;
mod report;
mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{build, interrupt, prerequisites};
use cleanup::Cleanup;
use daemons::Daemons;
use disk::Disk;
use report::{Report, SnapshotReport};
use writer::Writer;

/// Name of the volume.
pub const VOLUME: &str = "vol0";

/// Options of `cargo xtask quickstart`.
#[derive(Args, Clone)]
pub struct Options {
    /// Where everything is put; a fresh directory under /var/tmp unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Size of the volume, e.g. 256m or 4g.
    #[arg(long, default_value = "1g", value_parser = parse_size)]
    size: u64,
    /// Leave everything running and print the commands to play with.
    #[arg(long)]
    keep: bool,
    /// Tear down what `--keep` left behind in this directory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dir", "keep"])]
    stop: Option<PathBuf>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Build with optimisation (takes longer to build).
    #[arg(long)]
    release: bool,
}

impl Options {
    /// What CI runs.
    pub fn small() -> Self {
        Self {
            dir: None,
            size: 192 << 20,
            keep: false,
            stop: None,
            json: false,
            release: false,
        }
    }
}

fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.to_ascii_lowercase().pop() {
        Some('k') => (&text[..text.len() - 1], 10),
        Some('m') => (&text[..text.len() - 1], 20),
        Some('g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .context("expected a number with k, m or g behind it, e.g. 256m")?;
    let size = number.checked_mul(1 << shift).context("too large")?;
    ensure!(
        (64 << 20..=64 << 30).contains(&size),
        "expected 64m to 64g, found {text}"
    );
    ensure!(
        size % (1 << 20) == 0,
        "expected a multiple of 1 MiB, found {text}"
    );
    Ok(size)
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    prerequisites::root()?;
    if let Some(dir) = &options.stop {
        return cleanup::stop_kept(dir);
    }
    prerequisites::ensure(prerequisites::QUICKSTART)?;
    interrupt::install()?;
    let say = |text: &str| eprintln!("{text}");
    say("building ...");
    let binaries = build::binaries(options.release)?;
    interrupt::check()?;
    let dir = options
        .dir
        .clone()
        .unwrap_or_else(|| format!("/var/tmp/walb-quickstart-{}", std::process::id()).into());
    ensure!(
        !dir.exists(),
        "{} exists: give a directory that does not, it will be removed at the end",
        dir.display()
    );
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let mut cleanup = Cleanup::new(&dir);
    let result = perform(options, &binaries, &dir, &mut cleanup, &say);
    match &result {
        Ok(report) if options.json => println!("{}", serde_json::to_string_pretty(report)?),
        Ok(report) => print!("{report}"),
        Err(_) if interrupt::came() => {}
        Err(error) => eprintln!("\nfailed: {error:#}\n{}", daemons::log_tails(&dir)),
    }
    if options.keep && result.is_ok() {
        cleanup.keep();
        eprintln!("{}", report::commands_to_play_with(&binaries, &dir));
    } else {
        cleanup.run();
    }
    result.map(drop)
}

fn perform(
    options: &Options,
    binaries: &Path,
    dir: &Path,
    cleanup: &mut Cleanup,
    say: &dyn Fn(&str),
) -> Result<Report> {
    let began = Instant::now();
    say(
        "making a certificate authority and certificates, starting walb-wdev, walb-storage, walb-proxy, walb-archive ...",
    );
    let daemons = Daemons::start(binaries, dir, cleanup)?;
    say("making a WalB device with ext4 on it, copying a tree onto it ...");
    let disk = Disk::create(&daemons, dir, options.size, cleanup)?;
    let files = disk.fill()?;

    say("full backup, while a writer keeps writing ...");
    let writer = Writer::start(&disk.mount_point().join("busy"))?;
    daemons.register(VOLUME)?;
    let backup_began = Instant::now();
    daemons.storage(&["full-bkp", VOLUME, "--wait"])?;
    let backup_seconds = backup_began.elapsed().as_secs_f64();
    interrupt::check()?;

    let mut snapshots = Vec::new();
    for number in 1..=2 {
        say(&format!(
            "snapshot {number}, with the writer paused only for the capture we compare with ..."
        ));
        snapshots.push(take_snapshot(number, &daemons, &disk, &writer, dir)?);
        // Some more writing between the two, and after the second.
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let (files_written, bytes_written) = writer.stop()?;
    for (snapshot, expected) in &mut snapshots {
        say(&format!(
            "restoring snapshot {} and checking it ...",
            snapshot.gid
        ));
        check_restored(snapshot, expected, &daemons, dir)?;
        interrupt::check()?;
    }
    let wire_bytes = daemons.wire_bytes()?;
    Ok(Report {
        volume_bytes: options.size,
        tree_files: files.0,
        tree_bytes: files.1,
        writer_files: files_written,
        writer_bytes: bytes_written,
        backup_seconds,
        wire_bytes,
        snapshots: snapshots.into_iter().map(|(s, _)| s).collect(),
        total_seconds: began.elapsed().as_secs_f64(),
    })
}

/// What a restored snapshot is compared with.
struct Expected {
    sha256: String,
    tree: PathBuf,
}

fn take_snapshot(
    number: u32,
    daemons: &Daemons,
    disk: &Disk,
    writer: &Writer,
    dir: &Path,
) -> Result<(SnapshotReport, Expected)> {
    let pause = writer.pause();
    // Frozen: everything is on the device and nothing changes, so the device can be read for the comparison.
    let frozen = disk.freeze()?;
    let asked = Instant::now();
    let gid: u64 = daemons
        .storage(&["snapshot", VOLUME])?
        .parse()
        .context("gid of the snapshot")?;
    let tree = dir.join(format!("expected-{number}"));
    let (waited, captured) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| until_restorable(gid, daemons, asked));
        let captured = (|| {
            let sha256 = disk.digest()?;
            crate::run::quietly("cp", &["-a", text(disk.mount_point())?, text(&tree)?])?;
            anyhow::Ok(sha256)
        })();
        drop((frozen, pause));
        (waiting.join(), captured)
    });
    let restorable_seconds = waited.map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    let sha256 = captured?;
    let report = SnapshotReport {
        gid,
        restorable_seconds,
        restore_seconds: 0.0,
        sha256: sha256.clone(),
        identical: false,
    };
    Ok((report, Expected { sha256, tree }))
}

/// Seconds from `asked` to the moment the archive lists the snapshot.
fn until_restorable(gid: u64, daemons: &Daemons, asked: Instant) -> Result<f64> {
    let sought = format!("{gid} ");
    let patience = Duration::from_secs(120);
    loop {
        interrupt::check()?;
        let list = daemons.archive(&["get", "restorable", VOLUME])?;
        if list.lines().any(|line| line.starts_with(&sought)) {
            return Ok(asked.elapsed().as_secs_f64());
        }
        if asked.elapsed() > patience {
            bail!("snapshot {gid} did not become restorable within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn check_restored(
    snapshot: &mut SnapshotReport,
    expected: &Expected,
    daemons: &Daemons,
    dir: &Path,
) -> Result<()> {
    let gid = snapshot.gid.to_string();
    let began = Instant::now();
    daemons.archive(&["restore", VOLUME, &gid, "--wait"])?;
    snapshot.restore_seconds = began.elapsed().as_secs_f64();
    let image = daemons.archive(&["get", "restored-path", VOLUME, &gid])?;
    let found = disk::digest_file(Path::new(&image))?;
    ensure!(
        found == expected.sha256,
        "snapshot {gid}: restored image differs from the device: expected SHA-256 {}, found {found}",
        expected.sha256
    );
    crate::run::quietly("e2fsck", &["-fn", &image])
        .with_context(|| format!("snapshot {gid}: file system check"))?;
    let mounted = disk::ReadOnlyMount::of(Path::new(&image), &dir.join("restored"))?;
    crate::run::quietly(
        "diff",
        &[
            "-r",
            "--no-dereference",
            text(&expected.tree)?,
            text(mounted.path())?,
        ],
    )
    .with_context(|| format!("snapshot {gid}: files of the restored image"))?;
    snapshot.identical = true;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
