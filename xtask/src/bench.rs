//! `cargo xtask bench`.

use anyhow::{Context, Result};

use crate::{build, prerequisites, run};

/// Builds with optimisation, then measures. The bench itself checks its `arguments`.
pub fn run(arguments: &[String]) -> Result<()> {
    prerequisites::root()?;
    prerequisites::ensure(match arguments.first().map(String::as_str) {
        Some("device" | "device-bytes" | "device-backup") => prerequisites::BENCH_DEVICE,
        _ => prerequisites::BENCH,
    })?;
    eprintln!("building with optimisation ...");
    let binaries = build::binaries(true)?;
    let bench = binaries.join("walb-bench");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    run::visibly(bench.to_str().context("path is not UTF-8")?, &arguments)
}
