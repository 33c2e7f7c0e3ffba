//! Goal: a full backup that is cut by kill -9 of any daemon at any moment ends, after a restart alone, either as if
//! nothing had happened or as if it had never begun; then it can be taken again. Never anything between.
//!
//! The seed is printed; `WALB_TEST_SEED=N` runs with that one.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Role, VolumeSpec};

#[test]
fn a_backup_cut_anywhere_is_done_or_was_never_begun() -> Result<()> {
    let seed = std::env::var("WALB_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("WALB_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start()?;
    for (round, role) in Role::ALL.iter().cycle().take(12).enumerate() {
        let result = cut_one(&mut cluster, round, *role, &mut random);
        result.with_context(|| {
            format!(
                "seed {seed}, round {round}, {}\n{}",
                role.binary(),
                cluster.logs()
            )
        })?;
    }
    Ok(())
}

fn state(cluster: &Cluster, role: Role, volume: &str) -> Result<String> {
    cluster.walbc(role, &["get", "state", volume])
}

fn cut_one(cluster: &mut Cluster, round: usize, role: Role, random: &mut StdRng) -> Result<()> {
    let name = format!("vol{round}");
    let spec = VolumeSpec {
        name: &name,
        size: 24 << 20,
        log_size: 64 << 20,
        pbs: if round.is_multiple_of(2) { 512 } else { 4096 },
    };
    cluster.create_device(&spec)?;
    let load = Load {
        pace: Duration::from_millis(2),
        max_blocks: 64,
    };
    let guest = cluster.start_guest(&name, round as u64, load)?;
    std::thread::sleep(Duration::from_millis(200));
    cluster.register(&name)?;
    cluster.walbc(Role::Storage, &["full-bkp", &name, "64k"])?;
    std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
    cluster.daemon(role).kill9();
    std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
    cluster.start_daemon(role)?;
    if role != Role::Wdev {
        cluster.until_up(role)?;
    }
    let settled = until("the two sides to agree", PATIENCE, || {
        let states = (
            state(cluster, Role::Storage, &name)?,
            state(cluster, Role::Archive, &name)?,
        );
        match (states.0.as_str(), states.1.as_str()) {
            ("Target", "Archived" | "WdiffRecv") => Ok(Some(true)),
            ("SyncReady", "SyncReady") => Ok(Some(false)),
            _ => bail!("storage {}, archive {}", states.0, states.1),
        }
    })?;
    println!(
        "round {round}: {} killed, backup {}",
        role.binary(),
        if settled { "done" } else { "taken again" }
    );
    if !settled {
        cluster.walbc(Role::Storage, &["full-bkp", &name, "--wait"])?;
    }
    cluster.check_new(&name, &guest)?;
    guest.stop()?;
    Ok(())
}
