//! `cargo xtask bench`: what WalB costs, beside yardsticks run in turn in the same rounds.
//!
//! ```text
//! formats    whole commands on files: wlog to wdiff, merge, apply, restore, hash    wall, CPU, memory
//! flow       the same stages as code, and the TLS stream                            MB per CPU-second
//! device     the block device beside other ones in user space, by fio               IOPS, latency, CPU
//! device-bytes     bytes written below the device over those of the guest; how fast its log is read
//! device-backup    a guest alone, while its log is shipped, while a full backup runs  latency
//! latency    a guest's write to restorable, through the real daemons                seconds, under load
//! ```
//! Machines are shared and noisy: quote the ratios and medians, not single figures.

mod child;
mod device;
mod flow;
mod formats;
mod generate;
mod interrupt;
mod latency;
mod scratch;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures WalB beside yardsticks.
#[derive(Parser)]
#[command(after_help = "Example: walb-bench formats --sizes 64m --rounds 3")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Formats(formats::Arguments),
    Device(device::Arguments),
    Flow(flow::Arguments),
    DeviceBytes(device::bytes::Arguments),
    DeviceBackup(device::backup::Arguments),
    Latency(latency::Arguments),
}

fn main() -> Result<()> {
    interrupt::install()?;
    match Arguments::parse().bench {
        Bench::Formats(arguments) => formats::run(&arguments),
        Bench::Device(arguments) => device::run(&arguments),
        Bench::Flow(arguments) => flow::run(&arguments),
        Bench::DeviceBytes(arguments) => device::bytes::run(&arguments),
        Bench::DeviceBackup(arguments) => device::backup::run(&arguments),
        Bench::Latency(arguments) => latency::run(&arguments),
    }
}
