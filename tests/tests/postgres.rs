//! Goal: a database on the device loses nothing that it was told is durable, whatever dies, and starts from a restored
//! snapshot too. Method: PostgreSQL on ext4 on the FUSE file of walb-wdev, under pgbench, beside it a client that notes
//! what is committed; after each death PostgreSQL recovers by itself and checks itself.
//!
//! Needs root, /dev/fuse, loop devices, PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use walb_tests::mounted::{Mounted, make_ext4};
use walb_tests::postgres::Postgres;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Role};

const VOLUME: &str = "pg";
const SIZE: u64 = 192 << 20;

/// A device of the cluster as a file, and the place where a guest mounts it.
struct Place {
    fuse: PathBuf,
    file: PathBuf,
    mount: PathBuf,
    run: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    /// Makes a device with an ext4 on it.
    fn make(cluster: &Cluster) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("walb-pg-").tempdir()?;
        // The user postgres has to pass.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let path = |name: &str| -> Result<String> {
            Ok(cluster.dir().join(name).to_str().context("UTF-8")?.to_owned())
        };
        let (log, data, fuse) = (path("pg.ldev")?, path("pg.ddev")?, path("pg.fuse")?);
        for (file, size) in [(&log, 64 << 20), (&data, SIZE)] {
            std::fs::File::create(file)?.set_len(size)?;
        }
        cluster.wdevc(&["format-ldev", &log, &data, "-n", VOLUME])?;
        cluster.wdevc(&["create-wdev", &log, &data, "-n", VOLUME, "-fuse", &fuse])?;
        let place = Self {
            fuse: PathBuf::from(&fuse),
            file: Path::new(&fuse).join(VOLUME),
            mount: dir.path().join("mount"),
            run: dir.path().join("run"),
            _dir: dir,
        };
        make_ext4(&place.file)?;
        Ok(place)
    }

    /// Mounts it as soon as the device is there.
    fn mount(&self) -> Result<Mounted> {
        until("the device to come back", PATIENCE, || {
            Ok(Some(std::fs::metadata(&self.file)?))
        })?;
        Mounted::ext4(&self.file, &self.mount)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A daemon that is killed leaves its mount, and that would keep the cluster's directory.
        let _ = Command::new("umount").arg("-l").arg(&self.fuse).output();
    }
}

fn seed() -> StdRng {
    let seed = std::env::var("WALB_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("WALB_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn a_database_loses_no_commit_when_walb_wdev_is_killed() -> Result<()> {
    let mut random = seed();
    let mut cluster = Cluster::start()?;
    let place = Place::make(&cluster)?;
    let mut mounted = place.mount()?;
    let mut database = Postgres::new(&mounted.place().join("data"), &place.run)?;
    database.init()?;
    for round in 0..3 {
        let (load, noter) = (database.load()?, database.note()?);
        noter.until_more(random.random_range(20..150))?;
        cluster.daemon(Role::Wdev).kill9();
        // The dead disk takes the database with it.
        database.kill9()?;
        let (committed, asked) = (noter.committed(), noter.asked());
        drop((load, noter));
        mounted.abandon();
        cluster.start_daemon(Role::Wdev)?;
        mounted = place.mount()?;
        let noted = database
            .check()
            .with_context(|| format!("round {round}\n{}\n{}", database.log(), cluster.logs()))?;
        println!("round {round}: {committed} were committed, {asked} asked for, {noted} are there");
        ensure!(
            (committed..=asked).contains(&noted),
            "round {round}: {noted} of {committed} commits (asked for: {asked}) are there"
        );
        database.start()?;
    }
    database.stop()?;
    mounted.unmount()
}

/// A snapshot, and what was committed before it and asked for after it.
struct Taken {
    gid: u64,
    committed: u64,
    asked: u64,
}

#[test]
fn a_database_survives_the_death_of_everything_and_starts_from_each_snapshot() -> Result<()> {
    let mut random = seed();
    let mut cluster = Cluster::start()?;
    let place = Place::make(&cluster)?;
    let mut mounted = place.mount()?;
    let mut database = Postgres::new(&mounted.place().join("data"), &place.run)?;
    database.init()?;
    cluster.register(VOLUME)?;
    cluster.walbc(Role::Storage, &["full-bkp", VOLUME, "--wait"])?;
    let mut taken = Vec::new();
    for round in 0..2 {
        let (load, noter) = (database.load()?, database.note()?);
        noter.until_more(random.random_range(20..100))?;
        let committed = noter.committed();
        let gid = cluster.snapshot(VOLUME)?;
        taken.push(Taken {
            gid,
            committed,
            asked: noter.asked(),
        });
        noter.until_more(random.random_range(5..40))?;
        let mut order = Role::ALL;
        order.shuffle(&mut random);
        for role in order {
            cluster.daemon(role).kill9();
        }
        database.kill9()?;
        let (committed, asked) = (noter.committed(), noter.asked());
        drop((load, noter));
        mounted.abandon();
        order.shuffle(&mut random);
        for role in order {
            cluster.start_daemon(role)?;
        }
        mounted = place.mount()?;
        let noted = database
            .check()
            .with_context(|| format!("round {round}\n{}\n{}", database.log(), cluster.logs()))?;
        println!("round {round}: {committed} were committed, {asked} asked for, {noted} are there");
        ensure!(
            (committed..=asked).contains(&noted),
            "round {round}: {noted} of {committed} commits (asked for: {asked}) are there"
        );
        database.start()?;
    }
    database.stop()?;
    mounted.unmount()?;
    for Taken {
        gid,
        committed,
        asked,
    } in taken
    {
        cluster
            .until_restorable(VOLUME, gid, PATIENCE)
            .with_context(|| cluster.logs())?;
        let text = gid.to_string();
        cluster.walbc(Role::Archive, &["restore", VOLUME, &text, "--wait"])?;
        let image = cluster.walbc(Role::Archive, &["get", "restored-path", VOLUME, &text])?;
        let copy = Mounted::ext4(Path::new(&image), &place.mount)?;
        let noted = database
            .check()
            .with_context(|| format!("snapshot {gid}\n{}", database.log()))?;
        println!("snapshot {gid}: {committed} were committed, {asked} asked for, {noted} are there");
        ensure!(
            (committed..=asked).contains(&noted),
            "snapshot {gid}: {noted} of {committed} commits (asked for: {asked}) are there"
        );
        copy.unmount()?;
        cluster.walbc(Role::Archive, &["del-restored", VOLUME, &text])?;
    }
    Ok(())
}
