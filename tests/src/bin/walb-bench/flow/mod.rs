//! `bench flow`: what each stage costs in CPU, as code without its commands.
//!
//! ```text
//! log read -> convert -> merge -> TLS stream          MB per CPU-second, on the same data as `lz4 -b1` and `cat`
//! ```

mod stages;
mod stream;
mod workload;
mod yardstick;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::scratch;

/// Measures the stages of the flow.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench flow --size-mib 256 --rounds 5")]
pub struct Arguments {
    /// Size of the log that the stages work on.
    #[arg(long, default_value_t = 256)]
    size_mib: u64,
    /// How often everything is run; medians are printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// One measured run.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Bytes worked on.
    pub bytes: u64,
    /// CPU time of the whole process (or child).
    pub cpu: Duration,
}

impl Cost {
    /// MB (10^6 bytes) per CPU-second.
    #[expect(clippy::cast_precision_loss, reason = "a figure for reading")]
    fn rate(self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// CPU time this process has used, all threads.
pub fn cpu_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Runs `work`, which says how many bytes it worked on.
pub fn measured(work: impl FnOnce() -> Result<u64>) -> Result<Cost> {
    let before = cpu_now();
    let bytes = work()?;
    Ok(Cost {
        bytes,
        cpu: cpu_now().saturating_sub(before),
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs every stage in each round, and prints the medians.
pub fn run(arguments: &Arguments) -> Result<()> {
    let dir = scratch::create(None)?;
    eprintln!("making {} MiB of log ...", arguments.size_mib);
    let work = workload::Workload::create(dir.path(), arguments.size_mib << 20)?;
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {} ...", arguments.rounds);
        let costs = [
            ("0 lz4 -b1", yardstick::lz4(work.wlog_path())?),
            ("0 cat", yardstick::cat(work.wlog_path())?.rate()),
            ("1 log read (parse, verify)", stages::read_log(&work)?.rate()),
            ("2 convert (to indexed, lz4)", stages::convert(&work)?.rate()),
            (
                "3 merge (10 wdiffs, same compression)",
                stages::merge(&work, true)?.rate(),
            ),
            (
                "3 merge (10 wdiffs, lz4 to zstd)",
                stages::merge(&work, false)?.rate(),
            ),
            ("4 TLS stream (both ends)", stream::run(&work)?.rate()),
        ];
        for (name, rate) in costs {
            rates.entry(name).or_default().push(rate);
        }
    }
    let medians: BTreeMap<_, _> = rates
        .iter_mut()
        .map(|(name, values)| (*name, median(values)))
        .collect();
    let (lz4, cat) = (medians["0 lz4 -b1"], medians["0 cat"]);
    println!("\n| stage | MB per CPU-second | x lz4 -b1 | x cat |");
    println!("|:--|--:|--:|--:|");
    for (name, rate) in &medians {
        println!(
            "| {} | {rate:.0} | {:.2} | {:.2} |",
            &name[2..],
            rate / lz4,
            rate / cat
        );
    }
    println!(
        "\nMedians of {} rounds over {} MiB of log (random 4 KiB writes, data that lz4 halves).",
        arguments.rounds, arguments.size_mib
    );
    Ok(())
}
