//! Power loss and errors of the disks under the real program, which makes its real system calls: to a file system of the
//! test's own ([`faulty_fs`](crate::faulty_fs)), and, for a full disk, to one that is full.

use std::fs::File;
use std::process::Command as Process;
use std::time::Instant;

use camino::Utf8Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_wdev::client::WalDevice;
use walb_wdev::nbd::client::{Command, NbdClient, NbdClientError};

use crate::faulty_fs::{Act, Failure, FaultyFs};
use crate::history::Death;
use crate::machine::{BLOCKS, Machine, SHAPES, Shape};
use crate::support::daemon::PATIENCE;
use crate::writer::Writer;

const FILES: [(&str, u64); 6] = [
    ("deep-log", SHAPES[0].log_bytes),
    ("deep-data", BLOCKS as u64 * 512),
    ("wide-log", SHAPES[1].log_bytes),
    ("wide-data", BLOCKS as u64 * 512),
    ("small-log", SHAPES[2].log_bytes),
    ("small-data", BLOCKS as u64 * 512),
];

#[test]
fn after_a_power_loss_every_device_holds_a_prefix_with_everything_that_was_flushed() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let disks = FaultyFs::mount(&dir.join("disks"), &FILES, 8);
    let mut machine = Machine::new(dir, &dir.join("disks"), &SHAPES, 8);
    machine.errors_allowed = true;
    for round in 0..40 {
        if round == 20 {
            disks.write_short();
        }
        machine.start();
        let goal = 1 << machine.random.random_range(0..10);
        let after = machine.random.random_range(0..200);
        let mut due = Some(after);
        machine.load(|answered| {
            if answered.iter().sum::<usize>() >= goal
                && let Some(after) = due.take()
            {
                disks.cut(Some(after));
            }
            !disks.powered()
        });
        disks.power_on();
        // It goes again, in the midst of the redo.
        for _ in 0..machine.random.random_range(0..3) {
            disks.cut(Some(machine.random.random_range(0..12)));
            machine.launch(None);
            machine.wait_until_open();
            machine.kill();
            disks.cut(None);
            disks.power_on();
        }
        machine.start();
        machine.settle(Death::Power, &format!("round {round}"));
        machine.kill();
        // What settled is the truth: it is not to be lost afterwards.
        disks.cut(None);
        disks.power_on();
    }
    let (short, lost) = disks.tally();
    let (there, all) = machine.tally;
    println!("{short} short writes, {lost} sectors lost; {there} of {all} requests there");
    assert!(short > 0 && lost > 0 && there > 0 && there < all);
}

/// Nothing but what a guest asks for.
const CALM: Shape = Shape {
    limits: "checkpoint_interval_ms = 0\nlog_sync_interval_ms = 60000\n",
    ..SHAPES[0]
};

/// Writes until a request fails; then every change and every flush must fail, and be told so, until a restart.
fn until_it_fails(machine: &Machine, seed: u64) {
    let device = &machine.devices[0];
    let mut nbd = NbdClient::connect(device.socket.as_std_path(), CALM.name).unwrap();
    nbd.set_timeout(Some(PATIENCE)).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let writer = Writer {
        client: 0,
        seed: 0,
        shape: CALM,
        flushes: true,
        errors_allowed: true,
    };
    let client = machine.client(CALM.name);
    let until = Instant::now() + PATIENCE;
    while !writer.write_some(&mut nbd, &device.history, &mut random) {
        // A checkpoint needs the data device.
        let _ = machine.block_on(client.checkpoint());
        assert!(Instant::now() < until, "the error was never told");
    }
    let data = &[7; 512];
    for command in [
        Command::Write {
            offset: 0,
            data,
            fua: false,
        },
        Command::Write {
            offset: 0,
            data,
            fua: true,
        },
        Command::Trim {
            offset: 0,
            length: 512,
        },
        Command::Flush,
    ] {
        // Not recorded: what it would have written is no allowed content.
        nbd.start(command).unwrap();
        let error = nbd.finish().unwrap().result.unwrap_err();
        let told = matches!(&error, NbdClientError::Failed { errno: libc::EIO, .. });
        assert!(told, "{error}");
    }
    assert!(machine.block_on(client.status()).unwrap().read_only);
    machine.block_on(client.flush()).unwrap_err();
    machine.block_on(client.checkpoint()).unwrap_err();
}

fn errors_are_told(shape: Shape, seed: u64) {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let disks = FaultyFs::mount(&dir.join("disks"), &FILES, seed);
    let mut machine = Machine::new(dir, &dir.join("disks"), &[shape], seed);
    for round in 0..18 {
        let (file, act, errno) = [
            ("deep-log", Act::Write, libc::EIO),
            ("deep-log", Act::Write, libc::ENOSPC),
            ("deep-log", Act::Sync, libc::EIO),
            ("deep-data", Act::Write, libc::EIO),
            ("deep-data", Act::Write, libc::ENOSPC),
            ("deep-data", Act::Sync, libc::EIO),
        ][round % 6];
        machine.start();
        disks.fail(Failure {
            file,
            act,
            after: machine.random.random_range(0..6),
            errno,
            stays: machine.random.random(),
        });
        let seed = machine.random.random();
        until_it_fails(&machine, seed);
        // A clean stop cannot be: it must not make things worse.
        if machine.random.random() {
            machine.kill();
        } else {
            machine.terminate();
        }
        assert!(disks.heal() > 0);
        machine.start();
        // A failed sync of the log takes what a power loss would.
        let death = if (file, act) == ("deep-log", Act::Sync) {
            Death::Power
        } else {
            Death::Process
        };
        machine.settle(death, &format!("round {round}: {act:?} of {file}, error {errno}"));
        machine.kill();
    }
}

#[test]
fn an_error_of_a_disk_is_told_and_nothing_after_it_succeeds_until_a_restart() {
    errors_are_told(CALM, 9);
}

#[test]
fn the_same_through_threads_and_with_the_data_past_the_page_cache() {
    let limits = "checkpoint_interval_ms = 0\nlog_sync_interval_ms = 60000\n\
                  io = 'threads'\nlog_direct = false\ndata_direct = true\n";
    errors_are_told(Shape { limits, ..CALM }, 10);
}

#[test]
fn a_read_error_is_told_and_what_cannot_be_read_is_not_served() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let disks = FaultyFs::mount(&dir.join("disks"), &FILES, 10);
    let mut machine = Machine::new(dir, &dir.join("disks"), &[CALM], 10);
    let failure = |file| Failure {
        file,
        act: Act::Read,
        after: 0,
        errno: libc::EIO,
        stays: true,
    };
    machine.start();
    machine.load(|answered| answered[0] > 100);
    machine.start();
    disks.fail(failure("deep-data"));
    let mut nbd = NbdClient::connect(machine.devices[0].socket.as_std_path(), CALM.name).unwrap();
    nbd.read(0, BLOCKS * 512).unwrap_err();
    assert!(disks.heal() > 0);
    machine.settle(Death::Process, "after a read error of the data device");
    machine.kill();
    disks.fail(failure("deep-log"));
    let refused = machine.start_and_list();
    assert!(
        refused.len() == 1 && refused[0].contains("deep-log"),
        "{refused:?}"
    );
    machine.kill();
    assert!(disks.heal() > 0);
    machine.start();
    machine.settle(Death::Process, "after a read error of the log");
    machine.terminate();
}

/// A small file system, taken away when dropped.
struct SmallFs<'a>(&'a Utf8Path);

impl SmallFs<'_> {
    fn mount(&self, options: &str) {
        let status = Process::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", self.0.as_str()])
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
    }
}

impl Drop for SmallFs<'_> {
    fn drop(&mut self) {
        // A test that fails may leave a daemon with open files.
        let _ = Process::new("umount").args(["-l", self.0.as_str()]).status();
    }
}

#[test]
fn a_file_system_that_is_full_under_a_sparse_disk_is_told_and_loses_nothing() {
    for full in ["log", "data"] {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let disks = dir.join("disks");
        std::fs::create_dir(&disks).unwrap();
        let small = SmallFs(&disks);
        small.mount("size=64k");
        let (there, elsewhere) = (disks.join(format!("deep-{full}")), dir.join("elsewhere"));
        let other = disks.join(if full == "log" { "deep-data" } else { "deep-log" });
        let size = |path: &Utf8Path| {
            if path.as_str().ends_with("log") {
                CALM.log_bytes
            } else {
                BLOCKS as u64 * 512
            }
        };
        File::create(&there).unwrap().set_len(size(&there)).unwrap();
        File::create(&elsewhere).unwrap().set_len(size(&other)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &other).unwrap();
        let mut machine = Machine::new(dir, &disks, &[CALM], 11);
        machine.start();
        until_it_fails(&machine, 11);
        machine.kill();
        small.mount("remount,size=16m");
        machine.start();
        machine.settle(Death::Process, full);
        machine.terminate();
    }
}
