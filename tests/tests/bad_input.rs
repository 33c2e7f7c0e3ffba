//! Goal: bad input gets one clear line (what, expected, found), exit status 1, and changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use walb_common::wire::identity;
use walb_tests::guest::Load;
use walb_tests::wait::{PATIENCE, until};
use walb_tests::{Cluster, Guest, Options, Role, VolumeSpec, binaries, pki};

/// Runs walbc, expects exit status 1, nothing on stdout and exactly one line on stderr; gives that line.
fn refusal(config: &Path, address: &str, arguments: &[&str]) -> Result<String> {
    let (host, port) = address.rsplit_once(':').context("address without port")?;
    let mut command = Command::new(binaries::path("walbc"));
    command
        .env("WALBC_CONFIG", config)
        .args(["-a", host, "-p", port, "-to", "5"])
        .args(arguments);
    let output = command.output()?;
    let (stdout, stderr) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    ensure!(
        output.status.code() == Some(1),
        "{arguments:?}: {}: {stdout}{stderr}",
        output.status
    );
    ensure!(stdout.is_empty(), "{arguments:?}: stdout: {stdout}");
    ensure!(
        stderr.lines().count() == 1,
        "{arguments:?}: not one line: {stderr}"
    );
    let form = stderr.contains("ERROR walbc error: ") || stderr.starts_with("OptionError:");
    ensure!(form, "{arguments:?}: {stderr}");
    Ok(stderr)
}

fn all_contain(line: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(line.contains(word), "{word:?} is missing in: {line}");
    }
    Ok(())
}

#[test]
fn commands_that_cannot_be_done_say_why_and_change_nothing() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 << 20,
        log_size: 16 << 20,
        ..VolumeSpec::default()
    })?;
    let config = cluster.dir().join("pki/admin.toml");
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    let state = |cluster: &Cluster| -> Result<_> {
        let mut all = Vec::new();
        for role in [Role::Storage, Role::Proxy, Role::Archive] {
            all.push(cluster.walbc(role, &["get", "vol"])?);
            all.push(cluster.walbc(role, &["get", "state", "vol0"])?);
        }
        all.push(cluster.walbc(Role::Archive, &["get", "restorable", "vol0", "all"])?);
        all.push(cluster.walbc(Role::Archive, &["get", "restored", "vol0"])?);
        Ok(all)
    };
    let before = state(&cluster)?;
    let cases: &[(Role, &[&str], &[&str])] = &[
        (
            Role::Storage,
            &["full-bkp", "nobody"],
            &["bad state:Clear", "nobody"],
        ),
        (
            Role::Storage,
            &["snapshot", "nobody"],
            &["bad state:Clear", "nobody"],
        ),
        (
            Role::Archive,
            &["restore", "nobody", "1"],
            &["bad state:Clear", "nobody"],
        ),
        (Role::Proxy, &["start", "nobody"], &["bad state:Clear", "nobody"]),
        (
            Role::Storage,
            &["full-bkp", "vol0"],
            &["bad state:Target", "SyncReady"],
        ),
        (
            Role::Storage,
            &["init-vol", "vol0", "wdev:vol0"],
            &["bad state:Target", "Clear"],
        ),
        (
            Role::Storage,
            &["start", "vol0", "target"],
            &["bad state:Target", "Stopped"],
        ),
        (
            Role::Storage,
            &["start", "vol0", "master"],
            &["master", "target", "standby"],
        ),
        (
            Role::Storage,
            &["init-vol", "vol1", "wdev:/nowhere.sock#vol1"],
            &["/nowhere.sock"],
        ),
        (Role::Storage, &["init-vol", "vol1"], &["WDEV"]),
        (
            Role::Archive,
            &["init-vol", "vol0"],
            &["bad state:Archived", "Clear"],
        ),
        (
            Role::Archive,
            &["restore", "vol0", "4711"],
            &["bad gid to restore", "4711"],
        ),
        (Role::Archive, &["restore", "vol0", "x1"], &["bad gid \"x1\""]),
        (Role::Archive, &["restore", "vol0", "-1"], &["-1"]),
        (
            Role::Archive,
            &["del-restored", "vol0", "1"],
            &["volume not found", "restored"],
        ),
        (Role::Archive, &["get", "restored-path", "vol0", "1"], &["1"]),
        (
            Role::Storage,
            &["snapshot", "vol_0"],
            &["bad volume name \"vol_0\"", "0-9 a-z A-Z -"],
        ),
        (Role::Archive, &["get", "state", "../etc"], &["bad volume name"]),
        (
            Role::Proxy,
            &["archive-info", "get", "vol0", "a9"],
            &["archive info not exists", "a9"],
        ),
        (
            Role::Proxy,
            &["archive-info", "add", "vol0", "a1", "127.0.0.1:1"],
            &["bad state:Started", "Stopped"],
        ),
        (Role::Proxy, &["stop", "vol0", "gently"], &["gently", "graceful"]),
        (Role::Storage, &["get", "nothing"], &["nothing"]),
    ];
    for (role, arguments, words) in cases {
        let line = refusal(&config, &cluster.address(*role), arguments)?;
        all_contain(&line, words).with_context(|| format!("{arguments:?}"))?;
    }
    ensure!(state(&cluster)? == before, "a refused command changed something");
    Ok(())
}

#[test]
fn whoever_has_no_right_certificate_is_refused_in_one_line() -> Result<()> {
    let cluster = Cluster::start()?;
    let address = cluster.address(Role::Archive);
    let viewer = cluster
        .pki
        .walbc_config(&cluster.pki.issue(identity::Role::Viewer, "eye")?, "eye")?;
    all_contain(
        &refusal(&viewer, &address, &["init-vol", "vol0"])?,
        &["viewer", "operator"],
    )?;
    ensure!(cluster.walbc_as(&viewer, Role::Archive, &["get", "host-type"])? == "archive");

    let expired = cluster.pki.issue_expired(identity::Role::Operator, "late")?;
    let expired = cluster.pki.walbc_config(&expired, "late")?;
    all_contain(
        &refusal(&expired, &address, &["init-vol", "vol0"])?.to_lowercase(),
        &["expired"],
    )?;

    let elsewhere = pki::Pki::create(&cluster.dir().join("foreign"))?;
    let mut foreign = elsewhere.issue(identity::Role::Operator, "stranger")?;
    foreign.ca = cluster.dir().join("pki/ca.pem");
    let foreign = cluster.pki.walbc_config(&foreign, "stranger")?;
    all_contain(
        &refusal(&foreign, &address, &["init-vol", "vol0"])?.to_lowercase(),
        &["certificate"],
    )?;

    // The other way round: a client that does not trust the server.
    let distrusting =
        elsewhere.walbc_config(&elsewhere.issue(identity::Role::Operator, "careful")?, "careful")?;
    all_contain(
        &refusal(&distrusting, &address, &["init-vol", "vol0"])?.to_lowercase(),
        &["certificate"],
    )?;

    // A storage may send, but not command.
    let storage = cluster
        .pki
        .walbc_config(&cluster.pki.issue(identity::Role::Storage, "s9")?, "s9")?;
    all_contain(
        &refusal(&storage, &address, &["init-vol", "vol0"])?,
        &["storage", "operator"],
    )?;
    ensure!(
        cluster.walbc(Role::Archive, &["get", "vol"])?.is_empty(),
        "somebody got in"
    );
    Ok(())
}

#[test]
fn strangers_on_the_port_do_no_harm() -> Result<()> {
    let cluster = Cluster::start()?;
    for role in [Role::Storage, Role::Proxy, Role::Archive] {
        let address = cluster.address(role);
        let mut plain = TcpStream::connect(&address)?;
        plain.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        all_contain(&answer, &["400", "expected TLS", "found plain text"])?;
        // Half a handshake, garbage, and silence.
        let mut silent = TcpStream::connect(&address)?;
        silent.write_all(&[0x16, 3, 1, 2])?;
        let mut garbage = TcpStream::connect(&address)?;
        garbage.write_all(&[0x16; 4096])?;
        ensure!(cluster.walbc(role, &["get", "vol"])?.is_empty());
    }
    Ok(())
}

#[test]
fn a_flipped_bit_in_the_log_is_named_and_nothing_wrong_is_delivered() -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 << 20,
        log_size: 32 << 20,
        ..VolumeSpec::default()
    })?;
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 3, Load::default())?;
    std::thread::sleep(Duration::from_millis(300));
    let captured = guest.capture(None)?;
    let good = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", good, PATIENCE)?;
    // While nobody reads the log, more is written; then one bit of it changes on the log device.
    cluster.daemon(Role::Storage).kill9();
    let from: u64 = cluster.wdevc(&["get-permanent-lsid", "vol0"])?.parse()?;
    guest.resume()?;
    until("more log", PATIENCE, || {
        let now: u64 = cluster.wdevc(&["get-permanent-lsid", "vol0"])?.parse()?;
        Ok((now > from + 2000).then_some(()))
    })?;
    guest.capture(None)?;
    cluster.wdevc(&["force-checkpoint", "vol0"])?;
    cluster.daemon(Role::Wdev).terminate(PATIENCE)?;
    // Ring offset 10 blocks at pbs 512; well inside what is new.
    let position = (10 + from + 1000) * 512 + 77;
    let path = cluster.dir().join("vol0.ldev");
    let mut log = std::fs::read(&path)?;
    let at = usize::try_from(position)?;
    log[at] ^= 0x10;
    std::fs::write(&path, &log)?;
    cluster.start_daemon(Role::Wdev)?;
    cluster.start_daemon(Role::Storage)?;
    let reason = until("the damage to be named", PATIENCE, || {
        let status = cluster.walbc(Role::Storage, &["--json", "status", "vol0"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let error = status["last_error"]
            .as_str()
            .or(status["failed"].as_str())
            .unwrap_or_default()
            .to_owned();
        Ok((error.contains("lsid") || error.contains("logpack")).then_some(error))
    })?;
    println!("named as: {reason}");
    // What was restorable stays so.
    ensure!(cluster.restored_digest("vol0", good)? == captured);
    Ok(())
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk {
    dir: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(dir: std::path::PathBuf, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let size = format!("size={bytes}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&dir)
            .status()?;
        ensure!(
            status.success(),
            "this test needs root, to mount a small file system"
        );
        Ok(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

#[test]
fn a_full_disk_at_the_proxy_delays_and_loses_nothing() -> Result<()> {
    let place = tempfile::tempdir()?;
    let disk = SmallDisk::mount(place.path().join("proxy"), 24 << 20)?;
    let options = Options {
        proxy_dir: Some(disk.dir.clone()),
        ..Options::default()
    };
    let cluster = Cluster::start_with(&options)?;
    cluster.protect(&VolumeSpec {
        size: 32 << 20,
        log_size: 128 << 20,
        ..VolumeSpec::default()
    })?;
    // The disk is filled to the brim by somebody else.
    let ballast = disk.dir.join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    let chunk = vec![1; 64 << 10];
    while file.write_all(&chunk).is_ok() {}
    let guest = Guest::start(&cluster.nbd_socket("vol0"), "vol0", 9, Load::default())?;
    let error = until("the full disk to be named", PATIENCE, || {
        let status = cluster.walbc(Role::Storage, &["--json", "status", "vol0"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let error = status["last_error"].as_str().unwrap_or_default().to_lowercase();
        Ok(error.contains("space").then_some(error))
    })?;
    println!("named as: {error}");
    let captured = guest.capture(None)?;
    let gid = cluster.snapshot("vol0")?;
    ensure!(!cluster.restorable("vol0")?.contains(&gid));
    drop(file);
    std::fs::remove_file(&ballast)?;
    // Space returns; it goes on by itself.
    cluster.until_restorable("vol0", gid, PATIENCE)?;
    ensure!(
        cluster.restored_digest("vol0", gid)? == captured,
        "{}",
        cluster.logs()
    );
    let left: Vec<_> =
        std::fs::read_dir(disk.dir.join("volumes/vol0/received"))?.collect::<Result<_, _>>()?;
    ensure!(left.is_empty(), "half files are left: {left:?}");
    drop(guest);
    drop(cluster);
    Ok(())
}
