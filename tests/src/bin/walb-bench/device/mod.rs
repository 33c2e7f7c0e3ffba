//! `bench device`: walb-wdev beside other block devices in user space, by fio, over files of one file system.
//!
//! Every mode is measured in rounds: in each, every device does the same for some seconds, the plain file first. Figures
//! are medians; ratios are over the plain file in the same round.

pub mod backup;
pub mod bytes;
mod fio;
mod picture;
mod print;
mod targets;

use std::path::PathBuf;

use anyhow::{Context, Result};
use fio::{Histogram, Mode, Sample};
use targets::{Setup, Target};
use walb_common::types::parse_size;

use crate::{generate, interrupt, scratch};

/// Measures the block device beside others in user space.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench device --rounds 3 --only file,walb-nbd")]
pub struct Arguments {
    /// Seconds of every single run.
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// How often everything is run; medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Size of each device.
    #[arg(long, default_value = "2g", value_parser = |text: &str| parse_size(text))]
    size: u64,
    /// Which devices; all if not given. The plain file is always measured.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Target>,
    /// Where files go while it runs (seven times the size, at most); by default the target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Draw how the latencies are distributed into this SVG file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// One JSON object with every sample, instead of tables.
    #[arg(long)]
    json: bool,
}

/// The size of the ring of our device's log.
const LOG_BYTES: u64 = 1 << 30;

/// What the rounds of a mode say about a device.
#[derive(serde::Serialize)]
struct Row {
    mode: &'static str,
    target: Target,
    samples: Vec<Sample>,
    /// Medians of the rounds.
    median: Sample,
    /// Latencies of all rounds.
    #[serde(skip)]
    histogram: Histogram,
    /// Median of each round's IOPS over those of the plain file in the same round.
    iops_ratio: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if !(0.05..=3600.0).contains(&seconds) {
        return Err(format!("{text}: expected 0.05 to 3600 seconds"));
    }
    Ok(seconds)
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let scratch = scratch::create(arguments.dir.as_deref())?;
    let mut chosen = vec![Target::File];
    for &target in Target::ALL {
        let asked = arguments.only.is_empty() || arguments.only.contains(&target);
        if asked && target != Target::File {
            chosen.push(target);
        }
    }
    eprintln!("making devices of {} MiB ...", arguments.size >> 20);
    let content = scratch.path().join("content");
    generate::image(&content, arguments.size, 1, generate::Data::Half)?;
    let mut setup = Setup::new(scratch.path(), &content);
    for &target in &chosen {
        interrupt::check()?;
        setup
            .start(target, LOG_BYTES)
            .with_context(|| format!("set up {target:?}"))?;
    }
    std::fs::remove_file(&content)?;
    let mut all = Vec::new();
    for mode in fio::MODES {
        let rows = measure(&setup, mode, &chosen, arguments)?;
        if !arguments.json {
            print!("{}", print::markdown(mode, &rows));
        }
        all.extend(rows);
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, picture::svg(&all)).with_context(|| format!("write {}", path.display()))?;
    }
    if arguments.json {
        println!("{}", print::json(&all, arguments)?);
    } else {
        println!(
            "\nMedians of {} rounds of {} s each; devices of {} MiB.",
            arguments.rounds,
            arguments.seconds,
            arguments.size >> 20
        );
    }
    Ok(())
}

fn measure(setup: &Setup, mode: &Mode, chosen: &[Target], arguments: &Arguments) -> Result<Vec<Row>> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); chosen.len()];
    let mut histograms = vec![Histogram::new(); chosen.len()];
    for round in 1..=arguments.rounds {
        eprintln!("{}, round {round} of {} ...", mode.name, arguments.rounds);
        for (at, &target) in chosen.iter().enumerate() {
            interrupt::check()?;
            let (sample, histogram) = fio::run(setup, target, mode, arguments.seconds, arguments.size)
                .with_context(|| format!("{} on {target:?}", mode.name))?;
            samples[at].push(sample);
            for (ns, count) in histogram {
                *histograms[at].entry(ns).or_default() += count;
            }
        }
    }
    let file: Vec<f64> = samples[0].iter().map(|s| s.iops).collect();
    let measured = chosen.iter().zip(samples).zip(histograms);
    let rows = measured.map(|((&target, samples), histogram)| Row {
        histogram,
        mode: mode.name,
        target,
        median: Sample::median(&samples),
        iops_ratio: fio::median(samples.iter().zip(&file).map(|(ours, file)| ours.iops / file)),
        samples,
    });
    Ok(rows.collect())
}
