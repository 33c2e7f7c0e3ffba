//! The program that searches; `cargo xtask fuzz` builds it with coverage and calls it, once per target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use walb_fuzz::{TARGETS, Target, target};
use walb_fuzz_engine::{Budget, Search, check, is_instrumented};

/// Feeds hostile bytes to the parsers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the targets.
    List,
    /// Searches in one target.
    Search {
        /// Its name.
        target: String,
        /// End after so many runs.
        #[arg(long, default_value_t = 20_000)]
        runs: u64,
        /// End after so many seconds instead.
        #[arg(long)]
        seconds: Option<u64>,
        /// Where chance starts from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// For findings, and the input that is running.
        #[arg(long)]
        directory: PathBuf,
        /// Inputs to begin with, besides the seeds; what opens new ways is added there.
        #[arg(long)]
        corpus: Option<PathBuf>,
    },
    /// Runs one input.
    Replay {
        /// The target's name.
        target: String,
        /// The input.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn named(name: &str) -> Result<&'static Target> {
    let names = || TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
    target::find(name).with_context(|| format!("no target {name:?}; there are {}", names()))
}

/// False if something was found.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::List => {
            for target in TARGETS {
                println!("{:15} {}", target.name, target.about);
            }
            Ok(true)
        }
        Command::Search {
            target,
            runs,
            seconds,
            seed,
            directory,
            corpus,
        } => {
            let budget = seconds.map_or(Budget::Runs(runs), |s| Budget::Time(Duration::from_secs(s)));
            search(named(&target)?, budget, seed, &directory, corpus.as_deref())
        }
        Command::Replay { target, file } => {
            let target = named(&target)?;
            let input = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            match check(target, &input) {
                Ok(()) => {
                    println!("{}: {} bytes, nothing found", target.name, input.len());
                    Ok(true)
                }
                Err(failure) => {
                    println!("{}: {}\n  {}", target.name, failure.place, failure.message);
                    Ok(false)
                }
            }
        }
    }
}

fn search(
    target: &'static Target,
    budget: Budget,
    seed: u64,
    directory: &Path,
    corpus: Option<&Path>,
) -> Result<bool> {
    if !is_instrumented() {
        bail!("this program was built without coverage: use `cargo xtask fuzz`");
    }
    let mut old = inputs(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("regressions")
            .join(target.name),
    )?;
    if let Some(corpus) = corpus {
        old.extend(inputs(corpus)?);
    }
    let search =
        Search::new(target, seed, directory).with_context(|| format!("use {}", directory.display()))?;
    let (summary, found) = search.run(old, budget).context("keep the running input")?;
    if let Some(corpus) = corpus {
        fs::create_dir_all(corpus).with_context(|| format!("make {}", corpus.display()))?;
        for (name, input) in found {
            fs::write(corpus.join(name), input).context("keep the corpus")?;
        }
    }
    println!(
        "{:15} {:>9} runs  {:>5} edges  {:>5} inputs kept  {:>6.1} s  {} findings",
        target.name,
        summary.runs,
        summary.reached,
        summary.corpus,
        summary.took.as_secs_f64(),
        summary.findings.len()
    );
    for finding in &summary.findings {
        let (failure, path) = (&finding.failure, finding.path.display());
        println!("  {}\n    {}", failure.place, failure.message);
        println!(
            "    input:  {path}\n    replay: cargo xtask fuzz {} --replay {path}",
            target.name
        );
    }
    Ok(summary.findings.is_empty())
}

/// The files of a directory that may not be there.
fn inputs(directory: &Path) -> Result<Vec<Vec<u8>>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let paths: BTreeSet<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
    paths.iter().map(read).collect()
}
