//! Goal: a hash backup under circumstances: paced and cut in the middle, of a volume that grows, over thousands of diffs,
//! refused by the archive. Method: the whole system; what is restored is compared with what was read from the device, or
//! with a plain model of what was written.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;
use walb_common::lineage::{MetaDiff, Snapshot};
use walb_common::rest::storage::{HashBackupReport, Status, VolumeStatus};
use walb_common::testing::{MemImage, random_ios, sorted_wdiff};
use walb_common::types::{Compression, Gid, Lb, Uuid};
use walb_common::wire::identity;
use walb_tests::daemon::Daemon;
use walb_tests::image::digest;
use walb_tests::ports::{Port, reserve};
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Options, Role, VolumeSpec, binaries};
use walb_wdev::nbd::client::NbdClient;

const MIB: u64 = 1 << 20;

struct Noise(StdRng);

impl Noise {
    fn bytes(&mut self, bytes: u64) -> Vec<u8> {
        let mut noise = vec![0; usize::try_from(bytes).expect("small")];
        self.0.fill_bytes(&mut noise);
        noise
    }
}

fn noise(seed: u64) -> Noise {
    Noise(StdRng::seed_from_u64(seed))
}

fn status(cluster: &Cluster) -> Result<VolumeStatus> {
    let text = cluster.walbc(Role::Storage, &["--json", "status", "vol0"])?;
    Ok(serde_json::from_str(&text)?)
}

fn scan_limit(cluster: &Cluster) -> Result<u64> {
    let text = cluster.walbc(Role::Storage, &["--json", "status"])?;
    Ok(serde_json::from_str::<Status>(&text)?.global.full_scan_lb_per_sec)
}

fn set_scan_limit(cluster: &Cluster, limit: &str) -> Result<()> {
    cluster
        .walbc(Role::Storage, &["set-full-scan-bps", limit])
        .map(drop)
}

fn stop(cluster: &Cluster) -> Result<()> {
    cluster
        .walbc(Role::Storage, &["stop", "vol0", "--wait"])
        .map(drop)
}

fn hash_bkp(cluster: &Cluster, arguments: &[&str]) -> Result<HashBackupReport> {
    let mut all = vec!["--json", "--wait", "hash-bkp", "vol0"];
    all.extend(arguments);
    let job: Value = serde_json::from_str(&cluster.walbc(Role::Storage, &all)?)?;
    println!("{}", job["result"]);
    Ok(serde_json::from_value(job["result"].clone())?)
}

/// Waits for the end of a backup that goes on by itself, another one than `before`.
fn until_done(cluster: &Cluster, before: Option<&HashBackupReport>) -> Result<HashBackupReport> {
    until("the hash backup to be done", PATIENCE, || {
        let now = status(cluster)?;
        let done = now.last_hash_backup.filter(|_| now.state == "Target");
        if done.is_none() {
            anyhow::bail!("{}, healing {:?}, {:?}", now.state, now.healing, now.last_error);
        }
        Ok(done.filter(|report| Some(report) != before))
    })
}

/// What the archive has recorded of a hash backup that has begun.
fn record(cluster: &Cluster) -> Result<Option<Value>> {
    match std::fs::read_to_string(cluster.dir().join("a0/vol0/hash_backup")) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn connect(cluster: &Cluster) -> Result<NbdClient> {
    Ok(NbdClient::connect(&cluster.nbd_socket("vol0"), "vol0")?)
}

/// What the device holds now, as a client that comes new reads it.
fn captured(cluster: &Cluster) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    connect(cluster)?.copy_to(&mut image)?;
    Ok(image)
}

fn restored(cluster: &Cluster, gid: u64) -> Result<Vec<u8>> {
    let text = gid.to_string();
    cluster.walbc(Role::Archive, &["restore", "vol0", &text, "--wait"])?;
    let path = cluster.walbc(Role::Archive, &["get", "restored-path", "vol0", &text])?;
    let mut image = Vec::new();
    File::open(&path).context(path)?.read_to_end(&mut image)?;
    cluster.walbc(Role::Archive, &["del-restored", "vol0", &text])?;
    Ok(image)
}

/// A snapshot of what the device holds now, nobody writing, restores to just that.
fn check_snapshot(cluster: &Cluster) -> Result<u64> {
    let expected = captured(cluster)?;
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    let found = restored(cluster, gid)?;
    ensure!(
        found == expected,
        "snapshot {gid} of {} bytes differs from the device's {} bytes: {:?}, {:?}",
        found.len(),
        expected.len(),
        digest(found.as_slice())?,
        digest(expected.as_slice())?
    );
    Ok(gid)
}

#[test]
fn a_paced_backup_that_is_cut_goes_on_from_where_it_was() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let size = 16 * MIB;
    cluster.protect(&VolumeSpec {
        size,
        log_size: 64 * MIB,
        ..VolumeSpec::default()
    })?;
    let mut noise = noise(71);
    let result = (|| {
        let mut client = connect(&cluster)?;
        client.write(0, &noise.bytes(8 * MIB))?;
        client.flush()?;
        check_snapshot(&cluster)?;
        stop(&cluster)?;
        for at in [MIB, 7 * MIB, 15 * MIB] {
            client.write(at, &noise.bytes(4096))?;
        }
        client.flush()?;
        // The storage dies in the middle: sections are of 2 MiB here.
        cluster.daemon(Role::Storage).kill9();
        let fault = [("WALB_FAULT", "storage.hash.section=crash@5")];
        cluster.daemon(Role::Storage).set_environment(&fault);
        cluster.start_daemon(Role::Storage)?;
        cluster.until_up(Role::Storage)?;
        set_scan_limit(&cluster, "512m")?;
        ensure!(scan_limit(&cluster)? == 512 * MIB / 512);
        cluster.walbc(Role::Storage, &["hash-bkp", "vol0", "1k", "--full-compare"])?;
        cluster.daemon(Role::Storage).wait_for_death(PATIENCE)?;
        let address = until("the archive to keep what has come", PATIENCE, || {
            let state = cluster.walbc(Role::Archive, &["get", "state", "vol0"])?;
            let record = record(&cluster)?.context("no record")?;
            Ok((state == "Archived")
                .then(|| record["address"].as_u64())
                .flatten())
        })?;
        ensure!(
            (6 * MIB / 512..=10 * MIB / 512).contains(&address),
            "cut at block {address}"
        );
        cluster.daemon(Role::Storage).set_environment(&[]);
        cluster.start_daemon(Role::Storage)?;
        cluster.until_up(Role::Storage)?;
        // The configuration counts again, and what had come does not come again.
        ensure!(scan_limit(&cluster)? == 0);
        let report = until_done(&cluster, None)?;
        ensure!(
            report.method == "hashes" && report.read_bytes == size - address * 512,
            "{report:?}, went on from block {address}"
        );
        check_snapshot(&cluster)?;

        // A limit that is lifted counts for what runs: at this one it would never end.
        stop(&cluster)?;
        set_scan_limit(&cluster, "1")?;
        cluster.walbc(Role::Storage, &["hash-bkp", "vol0", "4k", "--full-compare"])?;
        until("it to begin", PATIENCE, || record(&cluster))?;
        set_scan_limit(&cluster, "0")?;
        until_done(&cluster, Some(&report))?;
        check_snapshot(&cluster)?;
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

/// Makes the device larger, with noise where it was not.
fn grow(cluster: &Cluster, to: u64, noise: &mut Noise) -> Result<()> {
    let mut data = File::options()
        .append(true)
        .open(cluster.dir().join("vol0.ddev"))?;
    let from = data.metadata()?.len();
    data.write_all(&noise.bytes(to - from))?;
    data.sync_all()?;
    cluster.wdevc(&["resize", "vol0", &(to / 512).to_string()])?;
    Ok(())
}

#[test]
fn a_volume_that_has_grown_or_grows_meanwhile_is_backed_up_whole() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 * MIB,
        log_size: 64 * MIB,
        ..VolumeSpec::default()
    })?;
    let mut noise = noise(72);
    let result = (|| {
        let mut client = connect(&cluster)?;
        client.write(0, &noise.bytes(MIB))?;
        client.flush()?;
        let old = captured(&cluster)?;
        let old_gid = check_snapshot(&cluster)?;

        // Of what the device holds in its new part only a little was ever written through it.
        grow(&cluster, 12 * MIB, &mut noise)?;
        connect(&cluster)?.write(11 * MIB, &noise.bytes(4096))?;
        stop(&cluster)?;
        let report = hash_bkp(&cluster, &[])?;
        ensure!(report.volume_bytes == 12 * MIB, "{report:?}");
        check_snapshot(&cluster)?;

        // The archive dies as its image has grown: nothing has begun, and nothing is given up.
        grow(&cluster, 14 * MIB, &mut noise)?;
        stop(&cluster)?;
        let before = status(&cluster)?;
        for point in ["archive.grow.image_grown", "archive.grow.size_stored"] {
            let fault = format!("{point}=crash");
            cluster.daemon(Role::Archive).kill9();
            cluster
                .daemon(Role::Archive)
                .set_environment(&[("WALB_FAULT", &fault)]);
            cluster.start_daemon(Role::Archive)?;
            cluster.until_up(Role::Archive)?;
            ensure!(cluster.walbc(Role::Storage, &["hash-bkp", "vol0"]).is_err());
            cluster.daemon(Role::Archive).wait_for_death(PATIENCE)?;
            cluster.daemon(Role::Archive).set_environment(&[]);
            cluster.start_daemon(Role::Archive)?;
            cluster.until_up(Role::Archive)?;
            let now = status(&cluster)?;
            ensure!(
                (now.state, now.uuid) == (before.state.clone(), before.uuid),
                "{point}"
            );
            if point == "archive.grow.image_grown" {
                // It has the new size now; the second point needs a volume that is larger still.
                grow(&cluster, 16 * MIB, &mut noise)?;
            }
        }
        let report = hash_bkp(&cluster, &["--full-compare"])?;
        ensure!(report.volume_bytes == 16 * MIB, "{report:?}");
        check_snapshot(&cluster)?;

        // While it runs: it begins again, as large as the volume is now.
        stop(&cluster)?;
        set_scan_limit(&cluster, "1")?;
        cluster.walbc(Role::Storage, &["hash-bkp", "vol0", "64k", "--full-compare"])?;
        until("it to begin", PATIENCE, || record(&cluster))?;
        grow(&cluster, 20 * MIB, &mut noise)?;
        set_scan_limit(&cluster, "0")?;
        let report = until_done(&cluster, Some(&report))?;
        ensure!(report.volume_bytes == 20 * MIB && report.cuts > 0, "{report:?}");
        check_snapshot(&cluster)?;

        // What was taken before is what it was, with zeros behind.
        let found = restored(&cluster, old_gid)?;
        let (kept, behind) = found.split_at(old.len());
        ensure!(kept == old && behind.iter().all(|byte| *byte == 0));
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

#[test]
fn what_the_archive_refuses_is_given_up_and_said_until_somebody_has_helped() -> Result<()> {
    let mut cluster = Cluster::start_with(&Options {
        storage_settings: "catch_up_seconds = 0\n".into(),
        ..Options::default()
    })?;
    cluster.protect(&VolumeSpec {
        size: 16 * MIB,
        log_size: 4 * MIB,
        ..VolumeSpec::default()
    })?;
    let result = (|| {
        let gid = check_snapshot(&cluster)?;
        let before = captured(&cluster)?;
        cluster.walbc(Role::Archive, &["stop", "vol0", "--wait"])?;
        cluster.daemon(Role::Storage).kill9();
        let mut client = connect(&cluster)?;
        for at in 0..12 {
            client.write(at * MIB, &noise(73 + at).bytes(MIB))?;
        }
        client.flush()?;
        ensure!(cluster.wdevc(&["is-log-overflow", "vol0"])? == "1", "no overflow");
        cluster.start_daemon(Role::Storage)?;
        cluster.until_up(Role::Storage)?;
        let told = until("healing to be given up", PATIENCE, || {
            Ok(status(&cluster)?
                .healing
                .filter(|told| told.starts_with("given up")))
        })?;
        for part in [
            "after 1 attempt: not accepted by archive",
            "Stopped",
            "run hash-bkp",
        ] {
            ensure!(told.contains(part), "{told}");
        }
        // The log is as lost as it was, but nothing more.
        let now = status(&cluster)?;
        ensure!(now.state == "Stopped" && record(&cluster)?.is_none(), "{now:?}");
        cluster.walbc(Role::Archive, &["start", "vol0"])?;
        let report = hash_bkp(&cluster, &[])?;
        ensure!(report.state == "Target", "{report:?}");
        ensure!(status(&cluster)?.healing.is_none());
        check_snapshot(&cluster)?;
        ensure!(restored(&cluster, gid)? == before, "snapshot {gid} differs");
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

#[test]
fn thousands_of_diffs_are_restored_and_compared_with_few_files_open() -> Result<()> {
    const DIFFS: u64 = 3000;
    let mut cluster = Cluster::start()?;
    let size = 16 * MIB;
    cluster.protect(&VolumeSpec {
        size,
        log_size: 64 * MIB,
        ..VolumeSpec::default()
    })?;
    let result = (|| {
        let mut client = connect(&cluster)?;
        client.write(3 * MIB, &noise(74).bytes(2 * MIB))?;
        client.flush()?;
        let first = check_snapshot(&cluster)?;
        let begin = restored(&cluster, first)?;
        stop(&cluster)?;
        let uuid: Uuid = cluster.walbc(Role::Archive, &["get", "uuid", "vol0"])?.parse()?;
        cluster.daemon(Role::Archive).kill9();

        // Diffs that lead on from there, and the image they come to by the plain model.
        let image = MemImage::filled(Lb(size / 512), 0);
        image.bytes().copy_from_slice(&begin);
        let dir = cluster.dir().join("a0/vol0");
        let at = |n: u64| Snapshot::clean(Gid(first + n));
        let mut half = Vec::new();
        for n in 0..DIFFS {
            let ios = random_ios(n, Lb(size / 512), 2);
            for io in &ios {
                image.apply(io, false);
            }
            let stored = sorted_wdiff(&ios, uuid, Compression::Lz4, Lb(0));
            let diff = MetaDiff::new(at(n), at(n + 1))?;
            std::fs::write(dir.join(diff.file_name()), stored)?;
            if n + 1 == DIFFS / 2 {
                half.clone_from(&image.bytes());
            }
        }
        cluster.daemon(Role::Archive).limit_open_files(1024);
        cluster.start_daemon(Role::Archive)?;
        cluster.until_up(Role::Archive)?;
        ensure!(cluster.latest_gid("vol0")? == first + DIFFS);
        ensure!(restored(&cluster, first + DIFFS / 2)? == half, "half way");
        ensure!(restored(&cluster, first + DIFFS)? == *image.bytes(), "the last");

        // The device holds something else by now: what differs is found, over all of them.
        let report = hash_bkp(&cluster, &["4k", "--full-compare"])?;
        ensure!(
            report.from == at(DIFFS) && report.read_bytes == size,
            "{report:?}"
        );
        check_snapshot(&cluster)?;
        ensure!(restored(&cluster, first + DIFFS / 2)? == half, "half way, again");
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}

/// A second archive with what the first one has now.
fn copy_of_the_archive(cluster: &mut Cluster) -> Result<(Daemon, Port)> {
    let (from, to) = (cluster.dir().join("a0"), cluster.dir().join("a1"));
    cluster.daemon(Role::Archive).kill9();
    copy_tree(&from, &to)?;
    cluster.start_daemon(Role::Archive)?;
    cluster.until_up(Role::Archive)?;
    let tls = cluster.pki.issue(identity::Role::Archive, "a1")?;
    let (port, config) = (reserve(), cluster.dir().join("a1.toml"));
    let text = format!(
        "[node]\nlisten = {:?}\ndata_dir = {to:?}\n\n[node.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        port.address(),
        tls.ca,
        tls.cert,
        tls.key
    );
    std::fs::write(&config, text)?;
    let arguments = vec!["--config".into(), config.to_str().context("UTF-8")?.to_owned()];
    let program = binaries::path("walb-archive");
    let mut daemon = Daemon::new("walb-archive", program, arguments, &cluster.dir().join("a1.log"));
    daemon.start()?;
    Ok((daemon, port))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else if !to.exists() {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[test]
fn a_second_archive_goes_on_once_it_has_been_given_the_diff_of_a_hash_backup() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 * MIB,
        log_size: 64 * MIB,
        ..VolumeSpec::default()
    })?;
    let mut noise = noise(75);
    let result = (|| {
        let mut client = connect(&cluster)?;
        client.write(0, &noise.bytes(MIB))?;
        client.flush()?;
        check_snapshot(&cluster)?;
        let (mut second, port) = copy_of_the_archive(&mut cluster)?;
        let at = |cluster: &Cluster, arguments: &[&str]| cluster.walbc_at(port.number, arguments);
        let has = |cluster: &Cluster, gid: u64| -> Result<bool> {
            let text = at(cluster, &["get", "restorable", "vol0"])?;
            Ok(text
                .lines()
                .any(|line| line.split(' ').next() == Some(&gid.to_string())))
        };
        let address = port.address();
        cluster.walbc(Role::Proxy, &["stop", "vol0", "--wait"])?;
        cluster.walbc(
            Role::Proxy,
            &["archive-info", "add", "vol0", "a1", &address, "lz4:0:1"],
        )?;
        cluster.walbc(Role::Proxy, &["start", "vol0"])?;
        client.write(2 * MIB, &noise.bytes(MIB))?;
        client.flush()?;
        let followed = check_snapshot(&cluster)?;
        until("the second archive to follow", PATIENCE, || {
            Ok(has(&cluster, followed)?.then_some(()))
        })?;

        // The diff of a hash backup goes to the first archive alone, and what follows on it is not for the second.
        stop(&cluster)?;
        client.write(4 * MIB, &noise.bytes(MIB))?;
        client.flush()?;
        hash_bkp(&cluster, &[])?;
        client.write(5 * MIB, &noise.bytes(MIB))?;
        client.flush()?;
        let missed = check_snapshot(&cluster)?;
        until("nothing to wait for the second archive", PATIENCE, || {
            let waiting = cluster.dir().join("p0/volumes/vol0/sendto/a1");
            Ok(std::fs::read_dir(waiting)?.next().is_none().then_some(()))
        })?;
        ensure!(has(&cluster, followed)? && !has(&cluster, missed)?);

        // Copied from the first while the second is down, which makes the proxies keep what comes from then on.
        second.kill9();
        client.write(6 * MIB, &noise.bytes(MIB))?;
        client.flush()?;
        let copied = check_snapshot(&cluster)?;
        copy_tree(&cluster.dir().join("a0/vol0"), &cluster.dir().join("a1/vol0"))?;
        second.start()?;
        client.write(7 * MIB, &noise.bytes(MIB))?;
        client.flush()?;
        let last = check_snapshot(&cluster)?;
        until("the second archive to follow again", PATIENCE, || {
            Ok(has(&cluster, last)?.then_some(()))
        })?;
        for gid in [followed, missed, copied, last] {
            let expected = restored(&cluster, gid)?;
            let text = gid.to_string();
            at(&cluster, &["restore", "vol0", &text, "--wait"])?;
            let path = at(&cluster, &["get", "restored-path", "vol0", &text])?;
            ensure!(
                std::fs::read(&path).context(path)? == expected,
                "snapshot {gid} differs"
            );
        }
        anyhow::Ok(())
    })();
    result.with_context(|| cluster.logs())
}
