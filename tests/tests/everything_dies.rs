//! Goal: the host goes down with everything on it (all processes at once, kill -9), comes up in any order, and goes on.
//! And an archive that is away for long delays, and loses nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use walb_tests::guest::Load;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, Role, VolumeSpec};

#[test]
fn all_daemons_killed_at_once_come_up_in_any_order_and_go_on() -> Result<()> {
    let seed = std::env::var("WALB_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("WALB_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start()?;
    let spec = VolumeSpec {
        size: 16 << 20,
        log_size: 64 << 20,
        ..VolumeSpec::default()
    };
    let load = Load {
        pace: Duration::from_millis(1),
        max_blocks: 64,
    };
    let guest = cluster.protect_and_write(&spec, seed, load)?;
    let mut recorded = Vec::new();
    for round in 0..5 {
        std::thread::sleep(Duration::from_millis(random.random_range(50..400)));
        recorded.push(cluster.record("vol0", &guest)?);
        std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
        let mut order = Role::ALL;
        order.shuffle(&mut random);
        for role in order {
            cluster.daemon(role).kill9();
        }
        order.shuffle(&mut random);
        for role in order {
            cluster.start_daemon(role)?;
            std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
        }
        let gid = recorded[round].gid;
        cluster
            .until_restorable("vol0", gid, PATIENCE)
            .with_context(|| format!("seed {seed}, round {round}, order {order:?}\n{}", cluster.logs()))?;
    }
    for recorded in &recorded {
        cluster
            .check("vol0", recorded)
            .with_context(|| format!("seed {seed}\n{}", cluster.logs()))?;
    }
    guest.stop()?;
    Ok(())
}

#[test]
fn an_archive_that_is_away_delays_and_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let spec = VolumeSpec {
        size: 16 << 20,
        log_size: 256 << 20,
        ..VolumeSpec::default()
    };
    let load = Load {
        pace: Duration::from_millis(2),
        max_blocks: 64,
    };
    let guest = cluster.protect_and_write(&spec, 21, load)?;
    cluster.daemon(Role::Archive).kill9();
    let mut recorded = Vec::new();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(800));
        recorded.push(cluster.record("vol0", &guest)?);
    }
    // Meanwhile the log was taken off the device: it waits at the proxy.
    let waiting = cluster.walbc(Role::Proxy, &["get", "proxy-diff", "vol0", "a0"])?;
    ensure!(
        !waiting.is_empty(),
        "nothing waits at the proxy\n{}",
        cluster.logs()
    );
    cluster.start_daemon(Role::Archive)?;
    for recorded in &recorded {
        cluster.check("vol0", recorded).with_context(|| cluster.logs())?;
    }
    Ok(())
}
