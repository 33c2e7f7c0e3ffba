//! Goal: after kill -9 of any daemon at any moment and a restart alone, without any command, everything goes on, and
//! every snapshot that was restorable stays so with the content it had.
//!
//! The seed is printed; `WALB_TEST_SEED=N` runs with that one, `WALB_TEST_ROUNDS=N` more rounds than the usual 20.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Guest, Recorded, Role, VolumeSpec};

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn check_all(cluster: &Cluster, recorded: &[Recorded]) -> Result<()> {
    let restorable = cluster.restorable("vol0")?;
    for snapshot in recorded {
        let gid = snapshot.gid;
        ensure!(
            restorable.contains(&gid),
            "snapshot {gid} was restorable and is no longer: {restorable:?}"
        );
        cluster.check("vol0", snapshot)?;
    }
    Ok(())
}

fn rounds(cluster: &mut Cluster, guest: &Guest, role: Role, random: &mut StdRng) -> Result<()> {
    let mut recorded: Vec<Recorded> = Vec::new();
    for round in 0..from_environment("WALB_TEST_ROUNDS").unwrap_or(20) {
        // A snapshot half of the time taken just before the kill, so that it is anywhere on its way when it comes.
        let on_its_way = if random.random() {
            Some(cluster.record("vol0", guest)?)
        } else {
            None
        };
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        cluster.daemon(role).kill9();
        std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
        let before = if role == Role::Archive {
            0
        } else {
            cluster.latest_gid("vol0")?
        };
        cluster.start_daemon(role)?;

        if let Some(snapshot) = on_its_way {
            cluster
                .until_restorable("vol0", snapshot.gid, PATIENCE)
                .with_context(|| format!("round {round}"))?;
            recorded.push(snapshot);
        }
        until("transfers to go on by themselves", PATIENCE, || {
            let latest = cluster.latest_gid("vol0")?;
            Ok((latest > before).then_some(()))
        })
        .with_context(|| format!("round {round}"))?;
        // The newest and one of the older ones now, all of them at the end.
        let sample = random.random_range(0..recorded.len().max(1));
        let some: Vec<Recorded> = recorded
            .get(sample)
            .into_iter()
            .chain(recorded.last())
            .cloned()
            .collect();
        check_all(cluster, &some).with_context(|| format!("round {round}"))?;
    }
    recorded.push(cluster.check_new("vol0", guest)?);
    check_all(cluster, &recorded)
}

fn survives_kills_of(role: Role) -> Result<()> {
    let seed = from_environment("WALB_TEST_SEED").unwrap_or_else(rand::random::<u64>);
    println!("{}: WALB_TEST_SEED={seed}", role.binary());
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start()?;
    let pbs = if random.random() { 512 } else { 4096 };
    let spec = VolumeSpec {
        size: 16 << 20,
        log_size: 64 << 20,
        pbs,
        ..VolumeSpec::default()
    };
    cluster.create_device(&spec)?;
    let load = Load {
        pace: Duration::from_millis(1),
        max_blocks: 64,
    };
    let guest = cluster.start_guest("vol0", seed, load)?;
    cluster.register("vol0")?;
    cluster.walbc(Role::Storage, &["full-bkp", "vol0", "--wait"])?;
    let result = rounds(&mut cluster, &guest, role, &mut random);
    let ended = guest.stop();
    let result = result.and(ended.map(drop));
    result.with_context(|| format!("seed {seed}\n{}", cluster.logs()))
}

#[test]
fn killing_walb_wdev_loses_nothing() -> Result<()> {
    survives_kills_of(Role::Wdev)
}

#[test]
fn killing_walb_storage_loses_nothing() -> Result<()> {
    survives_kills_of(Role::Storage)
}

#[test]
fn killing_walb_proxy_loses_nothing() -> Result<()> {
    survives_kills_of(Role::Proxy)
}

#[test]
fn killing_walb_archive_loses_nothing() -> Result<()> {
    survives_kills_of(Role::Archive)
}
