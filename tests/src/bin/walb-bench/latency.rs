//! `bench latency`: how long after a write to a volume under load it can be restored, with a snapshot taken right behind it.

use std::time::{Duration, Instant};

use anyhow::Result;
use walb_tests::guest::Load;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, Guest, VolumeSpec};
use walb_wdev::nbd::client::NbdClient;

/// Measures from a guest's write to the archive listing it as restorable.
#[derive(clap::Args)]
#[command(after_help = "Example: walb-bench latency --snapshots 15")]
pub struct Arguments {
    /// Snapshots measured from the write to restorable.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    snapshots: u32,
}

/// Takes snapshots one after the other while a guest writes, and prints the distribution.
pub fn run(arguments: &Arguments) -> Result<()> {
    let snapshots = arguments.snapshots;
    let cluster = Cluster::start()?;
    let spec = VolumeSpec {
        size: 256 << 20,
        log_size: 1 << 30,
        ..VolumeSpec::default()
    };
    cluster.protect(&spec)?;
    let load = Load {
        pace: Duration::ZERO,
        max_blocks: 32,
    };
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 1, load)?;
    let mut writer = NbdClient::connect(&cluster.nbd_socket("vol0"), "vol0")?;
    let began = Instant::now();
    let mut seconds = Vec::new();
    for _ in 0..snapshots {
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        // A write of its own: what is measured begins with it, not with the command.
        writer.write(0, &[0x5a; 4096])?;
        let gid = cluster.snapshot("vol0")?;
        cluster.until_restorable("vol0", gid, PATIENCE)?;
        seconds.push(asked.elapsed().as_secs_f64());
    }
    let elapsed = began.elapsed().as_secs_f64();
    let writes = guest.stop()?;
    seconds.sort_by(f64::total_cmp);
    let at = |share: usize| seconds[(seconds.len() - 1) * share / 100];
    #[expect(clippy::cast_precision_loss, reason = "a figure for reading")]
    let rate = writes as f64 / elapsed;
    println!(
        "\nGuest write to restorable (write, snapshot, listed), guest writing {rate:.0} times a second (8 KiB on average), {snapshots} snapshots: \
         median {:.2} s, 90 % {:.2} s, slowest {:.2} s.",
        at(50),
        at(90),
        at(100)
    );
    Ok(())
}
