//! `bench device-backup`: what a guest notices of the backup. The same small writes at the same fixed rate on a device of
//! ours (a) alone, (b) while its log is shipped through the real daemons, (c) while a full backup runs; all on one machine.
//! With `--elsewhere`, proxy and archive take from it as little as can be of what they would not, were they on another one.
//!
//! Each round has a device of its own: alone first, then the full backup, then the shipping that follows it. The log gets
//! the blocks of its first lap while the data are filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Options, Role, VolumeSpec};

use super::fio::{self, Job, Mode, Sample, Span, mode};
use super::seconds;
use crate::interrupt;

/// Measures a guest's latency while backups run.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench device-backup --rounds 3 --seconds 4")]
pub struct Arguments {
    /// Seconds of every single run.
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// How often everything is run; medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Size of each device; the full backup has to take longer than a run.
    #[arg(long, default_value = "2g", value_parser = |text: &str| walb_common::types::parse_size(text))]
    size: u64,
    /// The guest's rate, in per cent of what the device does alone.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100))]
    rate: u64,
    /// As if proxy and archive were on another machine: their files go into this directory, on another disk or in memory, and
    /// they get what CPU nobody else wants.
    #[arg(long)]
    elsewhere: Option<PathBuf>,
    /// One JSON object with every sample, instead of a table.
    #[arg(long)]
    json: bool,
}

const MODES: &[Mode] = &[
    mode("4 KiB random write, qd 8", "randwrite", "4k", "8", "0"),
    mode(
        "4 KiB random write, qd 8, flush after 8",
        "randwrite",
        "4k",
        "8",
        "8",
    ),
];

/// What goes on beside the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    Alone,
    FullBackup,
    Shipping,
}

impl Phase {
    const fn label(self) -> &'static str {
        match self {
            Self::Alone => "nothing",
            Self::Shipping => "its log is shipped",
            Self::FullBackup => "a full backup",
        }
    }
}

#[derive(serde::Serialize)]
struct Row {
    mode: &'static str,
    phase: Phase,
    /// The guest's rate.
    iops: u64,
    samples: Vec<Sample>,
    median: Sample,
    /// Median of each round's p50, p99 and p99.9 over those alone.
    ratio: [f64; 3],
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let elsewhere = arguments.elsewhere.as_deref().map(tempfile::tempdir_in);
    let elsewhere = elsewhere.transpose().context("make a directory elsewhere")?;
    let dir_of = |role: &str| elsewhere.as_ref().map(|dir| dir.path().join(role));
    let mut cluster = Cluster::start_with(&Options {
        proxy_dir: dir_of("proxy"),
        archive_dir: dir_of("archive"),
        ..Options::default()
    })?;
    if elsewhere.is_some() {
        for role in [Role::Proxy, Role::Archive] {
            give_way(&mut cluster, role)?;
        }
    }
    let mut measured: Vec<(usize, Phase, Sample)> = Vec::new();
    let mut rates = vec![0; MODES.len()];
    let mut covered = true;
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {} ...", arguments.rounds);
        let name = format!("vol{round}");
        let spec = VolumeSpec {
            name: &name,
            size: arguments.size,
            pbs: 4096,
            log_size: 1 << 30,
        };
        cluster.create_device(&spec)?;
        cluster.register(&name)?;
        let guest = Guest::of(&cluster, &spec)?;
        // Gives every block of the data its place, so that a backup has something to send, and most of the log.
        guest.work(
            &mode("fill", "write", "1m", "4", "0"),
            Span::Bytes(arguments.size),
            None,
        )?;
        let span = Span::Seconds(arguments.seconds);
        for (mode, rate) in MODES.iter().zip(&mut rates).filter(|(_, rate)| **rate == 0) {
            let most = guest.work(mode, span, None)?.iops;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            let most = most as u64;
            *rate = most * arguments.rate / 100;
            ensure!(*rate > 0, "the device does only {most} writes a second");
        }
        for phase in [Phase::Alone, Phase::FullBackup, Phase::Shipping] {
            match phase {
                Phase::Alone => {}
                Phase::FullBackup => drop(cluster.walbc(Role::Storage, &["full-bkp", &name])?),
                Phase::Shipping => until("the full backup to end", PATIENCE * 10, || {
                    Ok(is_target(&cluster, &name)?.then_some(()))
                })?,
            }
            for (at, mode) in MODES.iter().enumerate() {
                interrupt::check()?;
                measured.push((at, phase, guest.work(mode, span, Some(rates[at]))?));
            }
            if phase == Phase::FullBackup {
                covered &= !is_target(&cluster, &name)?;
            }
        }
        // What is left to ship must not disturb the next round.
        let gid = cluster.snapshot(&name)?;
        cluster.until_restorable(&name, gid, PATIENCE * 10)?;
    }
    print(&rows(&measured, &rates), covered, arguments.json)
}

/// All threads of a daemon get the lowest priority; those they start inherit it.
fn give_way(cluster: &mut Cluster, role: Role) -> Result<()> {
    let pid = cluster.daemon(role).pid().context("it is not running")?;
    let mut renice = Command::new("renice");
    renice.args(["-n", "19", "-p"]);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        renice.arg(thread?.file_name());
    }
    let done = renice.output().context("run renice")?;
    ensure!(
        done.status.success(),
        "renice: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// Whether the full backup is done.
fn is_target(cluster: &Cluster, volume: &str) -> Result<bool> {
    let state = cluster.walbc(Role::Storage, &["get", "state", volume])?;
    Ok(state == "Target")
}

/// What fio is told about a device of the cluster.
struct Guest<'a> {
    dir: &'a Path,
    size: u64,
    device: Vec<String>,
}

impl<'a> Guest<'a> {
    fn of(cluster: &'a Cluster, spec: &VolumeSpec<'_>) -> Result<Self> {
        let socket = cluster.nbd_socket(spec.name);
        let socket = socket.to_str().context("path is not UTF-8")?;
        let uri = format!("--uri=nbd+unix:///{}?socket={socket}", spec.name);
        Ok(Self {
            dir: cluster.dir(),
            size: spec.size,
            device: vec!["--ioengine=nbd".to_owned(), uri],
        })
    }

    fn work(&self, mode: &Mode, span: Span, iops: Option<u64>) -> Result<Sample> {
        let job = Job {
            mode,
            span,
            size: self.size,
            iops,
            device: &self.device,
        };
        let (sample, ..) = fio::measure(self.dir, &job).with_context(|| mode.name)?;
        Ok(sample)
    }
}

fn rows(measured: &[(usize, Phase, Sample)], rates: &[u64]) -> Vec<Row> {
    let of = |at: usize, phase: Phase| -> Vec<Sample> {
        let here = measured.iter().filter(|m| m.0 == at && m.1 == phase);
        here.map(|m| m.2).collect()
    };
    let row = |at: usize, phase: Phase| {
        let (samples, alone) = (of(at, phase), of(at, Phase::Alone));
        let ratio = |n: usize| {
            let pairs = samples.iter().zip(&alone);
            fio::median(pairs.map(|(s, a)| s.latency_us[n] / a.latency_us[n].max(f64::MIN_POSITIVE)))
        };
        Row {
            mode: MODES[at].name,
            phase,
            iops: rates[at],
            median: Sample::median(&samples),
            ratio: std::array::from_fn(ratio),
            samples,
        }
    };
    let phases = [Phase::Alone, Phase::Shipping, Phase::FullBackup];
    let modes = 0..MODES.len();
    modes
        .flat_map(|at| phases.map(|phase| (at, phase)))
        .map(|(at, phase)| row(at, phase))
        .collect()
}

fn print(rows: &[Row], covered: bool, json: bool) -> Result<()> {
    if json {
        let answer = serde_json::json!({ "backup_outlasted_the_runs": covered, "rows": rows });
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!(
        "\n| the guest | beside it | a second | p50 / 99 / 99.9 us | x alone | flush p50 / 99 / 99.9 us |"
    );
    println!("|:--|:--|--:|--:|--:|--:|");
    for row in rows {
        let three = |[a, b, c]: [f64; 3]| format!("{a:.0} / {b:.0} / {c:.0}");
        let [a, b, c] = row.ratio;
        println!(
            "| {} | {} | {} of {} | {} | {a:.2} / {b:.2} / {c:.2} | {} |",
            row.mode,
            row.phase.label(),
            row.median.iops.round(),
            row.iops,
            three(row.median.latency_us),
            three(row.median.flush_us),
        );
    }
    if !covered {
        println!("\nA full backup ended before the runs beside it did: give the devices a larger size.");
    }
    Ok(())
}
