//! `bench formats`: whole commands on files, beside tools that do something like it with the same bytes.
//!
//! Every table is measured in rounds: in each, every command of the table runs once, the yardstick first. Figures are
//! medians; ratios are over the yardstick of the same round. All inputs are in the page cache.
//! Nothing is judged here: what misses a goal is shown as such.

mod apply;
mod image_hash;
mod merge;
mod print;
mod restore;
mod table;
mod walbc;
mod wlog_to_wdiff;
mod yardstick;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use table::{Measured, Table};
use walb_common::types::parse_size;

use crate::scratch;

/// Measures the offline commands on files of several sizes.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench formats --sizes 64m,256m --rounds 5 --only merge,apply")]
pub struct Arguments {
    /// Sizes of the workload: bytes of log, of wdiffs' logs, of the image; the image hashed has four times as many.
    #[arg(long, value_delimiter = ',', default_value = "64m,256m,1g", value_parser = size)]
    sizes: Vec<u64>,
    /// How often everything is run; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// What to measure; everything if not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Work>,
    /// Where files go while it runs (up to twelve times the largest size); by default the target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One JSON object with every sample, instead of tables.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    WlogToWdiff,
    Merge,
    Apply,
    Restore,
    ImageHash,
}

impl Work {
    /// Makes the files and says what to run on them.
    fn tables(self, dir: &Path, size: u64) -> Result<Vec<Table>> {
        match self {
            Self::WlogToWdiff => wlog_to_wdiff::tables(dir, size),
            Self::Merge => merge::tables(dir, size),
            Self::Apply => apply::tables(dir, size),
            Self::Restore => restore::tables(dir, size),
            Self::ImageHash => image_hash::tables(dir, size),
        }
    }
}

/// At least a MiB, whole MiB, so that a hundredth of it is still a log.
fn size(text: &str) -> Result<u64, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if size == 0 || !size.is_multiple_of(1 << 20) {
        return Err(format!("{text}: expected whole MiB, found {size} bytes"));
    }
    Ok(size)
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let works = if arguments.only.is_empty() {
        Work::value_variants()
    } else {
        &arguments.only
    };
    let rounds = usize::from(arguments.rounds);
    let scratch = scratch::create(arguments.dir.as_deref())?;
    let mut all: Vec<Measured> = Vec::new();
    for work in works {
        for &size in &arguments.sizes {
            // Each set of files goes before the next is made.
            let dir = scratch::create(Some(scratch.path()))?;
            eprintln!("{work:?}, {} MiB: making files ...", size >> 20);
            let tables = work
                .tables(dir.path(), size)
                .with_context(|| format!("make the files for {work:?}"))?;
            for table in tables {
                let measured = table.measure(rounds)?;
                if !arguments.json {
                    print!("{}", print::markdown(&measured));
                }
                all.push(measured);
            }
        }
    }
    if arguments.json {
        println!("{}", print::json(&all, rounds)?);
    } else {
        println!("\nMedians of {rounds} rounds; page cache warm; ratios over the first row of each table.");
    }
    Ok(())
}
