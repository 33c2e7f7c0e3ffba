//! `cargo xtask fuzz`: the parsers against hostile bytes.
//!
//! Coverage comes from the compiler of every day: this program stands in for it (`RUSTC_WORKSPACE_WRAPPER`) and adds
//! the coverage pass for the crates of the workspace, so that their dependencies need not be built twice.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;

/// Set when cargo is to call us in place of the compiler.
const WRAPPER: &str = "WALB_XTASK_ADDS_COVERAGE";

/// A counter per edge, and the operands of comparisons.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=4",
];
/// Holds what the coverage pass calls.
const NOT_COVERED: &[&str] = &["walb_fuzz_engine"];

/// Runs per target in CI: the same ones each time.
const CI_RUNS: u64 = 15_000;

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Options {
    /// One target; without it all, one after the other. `list` prints them.
    target: Option<String>,
    /// Search so long in each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Search for so many runs instead, which are always the same ones.
    #[arg(long)]
    runs: Option<u64>,
    /// Where chance starts from; without it another place each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Run just this input, e.g. one that a search has found.
    #[arg(long, requires = "target")]
    replay: Option<PathBuf>,
}

impl Options {
    /// As CI searches.
    pub fn ci() -> Self {
        Self {
            target: None,
            seconds: 0,
            runs: Some(CI_RUNS),
            seed: Some(1),
            replay: None,
        }
    }
}

/// Called first in `main`: if cargo called us in place of the compiler, becomes it.
pub fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let name = arguments.iter().skip_while(|a| *a != "--crate-name").nth(1);
    let mut command = Command::new(compiler);
    command.args(&arguments);
    if let Some(name) = name.and_then(|n| n.to_str())
        && !NOT_COVERED.contains(&name)
    {
        command.args(COVERAGE);
    }
    eprintln!("error: cannot run the compiler: {}", command.exec());
    Some(ExitCode::FAILURE)
}

/// Builds with coverage and searches.
pub fn run(options: &Options) -> Result<()> {
    let program = program()?;
    if options.target.as_deref() == Some("list") {
        return crate::run::visibly(&program, &["list"]);
    }
    if let (Some(target), Some(input)) = (&options.target, &options.replay) {
        let input = input.to_str().context("path is not UTF-8")?;
        return crate::run::visibly(&program, &["replay", target, input]);
    }
    let targets: Vec<String> = if let Some(target) = &options.target {
        vec![target.clone()]
    } else {
        let list = crate::run::quietly(&program, &["list"])?;
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        list.lines().filter_map(first).collect()
    };
    let mut bad = Vec::new();
    for target in targets {
        if !search(&program, &target, options)? {
            bad.push(target);
        }
    }
    if !bad.is_empty() {
        bail!("findings in: {}", bad.join(", "));
    }
    Ok(())
}

/// Builds the program that searches; where it is.
fn program() -> Result<String> {
    std::env::set_current_dir(build::root()).context("enter the workspace")?;
    let us = std::env::current_exe().context("our own path")?;
    let profile = us.parent().context("our own directory")?.to_owned();
    // Cargo may have replaced us since we started, e.g. to test us: what stands in for the compiler is what runs now.
    let compiler = profile.join("xtask-as-compiler");
    fs::copy("/proc/self/exe", &compiler)
        .with_context(|| format!("copy ourselves to {}", compiler.display()))?;
    let built = profile.join("walb-fuzz");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "walb-fuzz", "--bins"])
        .env("RUSTC_WORKSPACE_WRAPPER", &compiler)
        .env(WRAPPER, "1")
        .stdin(Stdio::null())
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("building the fuzz targets failed: {status}");
    }
    // A build without coverage leaves its program in the same place.
    let kept = profile.join("walb-fuzz-with-coverage");
    fs::copy(&built, &kept).with_context(|| format!("copy {}", built.display()))?;
    kept.into_os_string()
        .into_string()
        .ok()
        .context("path is not UTF-8")
}

/// False if something was found.
fn search(program: &str, target: &str, options: &Options) -> Result<bool> {
    let directory = PathBuf::from(program).with_file_name("").join("../fuzz");
    let mut command = Command::new(program);
    command.args(["search", target, "--directory"]).arg(&directory);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    } else {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        command.args(["--seed", &now.to_string()]);
    }
    if let Some(runs) = options.runs {
        // Nothing of earlier searches: always the same runs.
        command.args(["--runs", &runs.to_string()]);
    } else {
        command.args(["--seconds", &options.seconds.to_string()]);
        command.arg("--corpus").arg(directory.join("corpus").join(target));
    }
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("run {program}"))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        Some(_) => bail!("searching in {target} failed: {status}"),
        None => {
            // Killed: by an abort, a hang, or the kernel. What ran is in a file.
            let running = directory.join(format!("{target}.running"));
            let kept = directory.join(format!("{target}-killed.bin"));
            fs::copy(&running, &kept).with_context(|| format!("copy {}", running.display()))?;
            let kept = kept.display();
            println!("{target}: {status}\n    input:  {kept}");
            println!("    replay: cargo xtask fuzz {target} --replay {kept}");
            Ok(false)
        }
    }
}
