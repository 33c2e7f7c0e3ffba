//! `cargo xtask`: every developer command, as CI runs it. No other tool has to be installed first.
//!
//! Knows the product only by its binaries and their command lines, as an operator does.

mod bench;
mod build;
mod ci;
mod fuzz;
mod interrupt;
mod prerequisites;
mod quickstart;
mod run;
mod servers;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Example: cargo xtask quickstart --size 256m"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build, set up one of each daemon, protect a volume that is written to, restore two snapshots and check them.
    #[command(after_help = "Example: cargo xtask quickstart --size 256m --keep")]
    Quickstart(quickstart::Options),
    /// Run every test.
    #[command(after_help = "Example: cargo xtask test -- kill9")]
    Test {
        /// Passed on to the test binaries, e.g. a part of a test's name.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Measure beside yardsticks (optimised build): `formats`, `device`, `flow` or `latency`.
    #[command(after_help = "Example: cargo xtask bench formats --sizes 64m,256m --rounds 5 --only merge")]
    Bench {
        /// Which bench, and its options; `cargo xtask bench formats --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Feed hostile bytes to the parsers, led by coverage.
    #[command(after_help = "Example: cargo xtask fuzz wlog --seconds 600")]
    Fuzz(fuzz::Options),
    /// Our programs on Debian's newest stable kernel, in a virtual machine: NBD, ublk, file systems, kills, growth.
    #[command(after_help = "Example: cargo xtask vm nbd-ext4 nbd-xfs")]
    Vm(vm::Options),
    /// Everything CI checks: formatting, lints, a small quickstart, tests, an emulated machine, a short search with hostile bytes.
    #[command(after_help = "Example: cargo xtask ci")]
    Ci,
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::as_compiler() {
        return code;
    }
    if vm::is_guest() {
        return vm::guest_main();
    }
    let result = match Arguments::parse().command {
        Command::Quickstart(options) => quickstart::run(&options),
        Command::Test { arguments } => ci::test(&arguments),
        Command::Bench { arguments } => bench::run(&arguments),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Ci => ci::all(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
