//! Death at every fault point of the program, found in its source: a point that no test reaches fails here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use camino::Utf8Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use walb_common::format::log_device::{LogpackHeader, RecordKind, SUPER_SECTOR_OFFSET, SuperSector};
use walb_common::types::{Lsid, PhysicalBlockSize};
use walb_wdev::client::WalDevice;
use walb_wdev::nbd::client::NbdClient;

use crate::history::{Death, Kind};
use crate::machine::{Machine, SHAPES, Shape};
use crate::support::daemon::PATIENCE;
use crate::writer::Writer;

/// How a point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// Guests write, an operator and a backup do what they do.
    Load,
    /// A start after a death under load.
    Start,
    /// A start after a power loss took one sector of the log.
    Torn(Sector),
    /// `wdevc format-ldev`.
    Format,
    /// Only a kernel with ublk gets there: the scenario `ublk-steps` of `cargo xtask vm`.
    Ublk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sector {
    /// Of the header of the first pack that was not synced.
    OfHeader,
    /// Of the data of the last record of one that has several.
    OfData,
}

fn scene_of(point: &str) -> Scene {
    match point {
        "wdev.redo.before_clear" => Scene::Torn(Sector::OfHeader),
        "wdev.redo.before_rewrite" => Scene::Torn(Sector::OfData),
        p if p.starts_with("wdev.redo.") => Scene::Start,
        p if p.starts_with("wdev.format.") => Scene::Format,
        p if p.starts_with("wdev.ublk.") => Scene::Ublk,
        _ => Scene::Load,
    }
}

/// Every fault point that the source names.
fn points_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points_in(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for call in text.split("fault::point(").skip(1) {
                let name = call
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|c| c.split('"').next());
                let name = name
                    .unwrap_or_else(|| panic!("{}: a fault point without a literal name", path.display()));
                found.insert(name.to_owned());
            }
        }
    }
}

fn points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    points_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20, "{found:?}");
    found
}

fn points_of(scene: impl Fn(Scene) -> bool) -> impl Iterator<Item = String> {
    points().into_iter().filter(move |p| scene(scene_of(p)))
}

/// The n-th time: early ones, and any.
fn turns(machine: &mut Machine) -> [u32; 5] {
    let random = &mut machine.random;
    [1, 2, 3, random.random_range(4..12), random.random_range(12..60)]
}

#[test]
fn killed_at_every_fault_point_under_load() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut machine = Machine::new(dir, dir, &SHAPES, 3);
    for point in points_of(|scene| scene == Scene::Load) {
        for turn in turns(&mut machine) {
            machine.launch(Some(&format!("{point}=crash@{turn}")));
            machine.wait_until_open();
            // The first time must come; not each point is reached often.
            let died = machine.load(|answered| turn > 1 && answered.iter().sum::<usize>() > 1500);
            assert!(died || turn > 1, "{point} was not reached");
            machine.start();
            machine.settle(Death::Process, &format!("{point}, time {turn}"));
            machine.kill();
        }
    }
}

#[test]
fn killed_at_every_fault_point_of_a_start() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut machine = Machine::new(dir, dir, &SHAPES, 4);
    for point in points_of(|scene| scene == Scene::Start) {
        for turn in turns(&mut machine) {
            let mut died = false;
            // The log may happen to be on the data device already.
            for _ in 0..20 {
                machine.start();
                let goal = machine.random.random_range(20..100);
                machine.load(|answered| answered.iter().sum::<usize>() >= goal);
                machine.launch(Some(&format!("{point}=crash@{turn}")));
                died = !machine.wait_until_open();
                machine.kill();
                machine.start();
                machine.settle(Death::Process, &format!("{point}, time {turn}"));
                machine.kill();
                if died || turn > 1 {
                    break;
                }
            }
            assert!(died || turn > 1, "{point} was not reached");
        }
    }
}

/// Nothing is synced unless it is asked for, and packs are short.
const UNSYNCED: Shape = Shape {
    name: "unsynced",
    pbs: PhysicalBlockSize::B512,
    log_bytes: 4 << 20,
    clients: 1,
    depth: 32,
    limits: "checkpoint_interval_ms = 0\nlog_sync_interval_ms = 60000\nlogpack_max_kib = 16\n",
};

/// Some requests, a flush, and more that are answered but not flushed. Where the unflushed log begins.
fn unflushed(machine: &Machine, seed: u64) -> Lsid {
    let (device, client) = (&machine.devices[0], machine.client(UNSYNCED.name));
    let history = &device.history;
    let mut nbd = NbdClient::connect(device.socket.as_std_path(), UNSYNCED.name).unwrap();
    nbd.set_timeout(Some(PATIENCE)).unwrap();
    let writer = Writer {
        client: 0,
        seed: 0,
        shape: UNSYNCED,
        flushes: false,
        errors_allowed: false,
    };
    // The ring demands no sync before it is half full.
    machine.block_on(client.reset_log()).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    writer.write_all(&mut nbd, history, &mut random, 40);
    let (number, _) = history.begin(0, Kind::Flush, 0..0, false);
    nbd.flush().unwrap();
    history.answer(number);
    let permanent = machine.block_on(client.status()).unwrap().lsids.permanent;
    writer.write_all(&mut nbd, history, &mut random, 60);
    let lsids = machine.block_on(client.status()).unwrap().lsids;
    assert!(
        lsids.permanent == permanent && permanent < lsids.completed,
        "{lsids:?}"
    );
    permanent
}

/// Takes a sector out of the log behind `from`; false if there is none of that kind.
fn tear(log: &Utf8Path, from: Lsid, sector: Sector) -> bool {
    let pbs = UNSYNCED.pbs;
    let file = File::options().read(true).write(true).open(log).unwrap();
    let mut block = vec![0; pbs.bytes()];
    file.read_exact_at(&mut block, SUPER_SECTOR_OFFSET).unwrap();
    let super_sector = SuperSector::decode(&block, pbs).unwrap();
    let (ring, salt) = (super_sector.ring(), super_sector.salt());
    let (mut headers, mut next) = (vec![], from);
    loop {
        file.read_exact_at(&mut block, ring.offset_of(next)).unwrap();
        let Ok(header) = LogpackHeader::decode(&block, pbs, salt, next) else {
            break;
        };
        next = header.next_lsid();
        headers.push(header);
    }
    // The last one has nothing behind it that could be taken for valid.
    headers.pop();
    let place = match sector {
        Sector::OfHeader => headers.first().map(LogpackHeader::lsid),
        Sector::OfData => headers.iter().find_map(|header| {
            let normal = |r: &&walb_common::format::log_device::LogRecord| r.kind == RecordKind::Normal;
            let last = header.records().iter().rfind(normal)?;
            (header.records()[0].lsid < last.lsid && header.records()[0].kind == RecordKind::Normal)
                .then_some(last.lsid)
        }),
    };
    let Some(place) = place else {
        return false;
    };
    file.read_exact_at(&mut block, ring.offset_of(place)).unwrap();
    for byte in &mut block {
        *byte ^= 0x5a;
    }
    file.write_all_at(&block, ring.offset_of(place)).unwrap();
    true
}

#[test]
fn killed_while_a_torn_log_is_repaired() {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut machine = Machine::new(dir, dir, &[UNSYNCED], 5);
    for point in points_of(|scene| matches!(scene, Scene::Torn(_))) {
        let Scene::Torn(sector) = scene_of(&point) else {
            unreachable!()
        };
        for turn in [1, 1, 1, 2] {
            let mut died = false;
            for _ in 0..20 {
                machine.start();
                let seed = machine.random.random();
                let from = unflushed(&machine, seed);
                machine.kill();
                let torn = tear(&dir.join("unsynced-log"), from, sector);
                machine.launch(Some(&format!("{point}=crash@{turn}")));
                died = !machine.wait_until_open();
                machine.kill();
                machine.start();
                if torn {
                    // An oracle that would not miss a lost write here would miss none anywhere.
                    machine.would_be_wrong(Death::Process);
                }
                machine.settle(Death::Power, &format!("{point}, time {turn}"));
                machine.kill();
                if torn && (died || turn > 1) {
                    break;
                }
            }
            assert!(died || turn > 1, "{point} was not reached");
        }
    }
}

#[test]
fn a_format_that_dies_leaves_no_device_that_looks_good_and_is_not() {
    for point in points_of(|scene| scene == Scene::Format) {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let mut machine = Machine::new(dir, dir, &[SHAPES[0]], 6);
        machine.start();
        machine.load(|answered| answered[0] > 50);
        machine.start();
        machine.settle(Death::Process, "before the format");
        machine.terminate();
        let format = |fault: &str| {
            let mut wdevc = Command::new(env!("CARGO_BIN_EXE_wdevc"));
            wdevc.args([
                "format-ldev",
                dir.join("deep-log").as_str(),
                dir.join("deep-data").as_str(),
            ]);
            wdevc.args(["-n", "deep", "-pbs", "512"]).env("WALB_FAULT", fault);
            wdevc.output().unwrap().status
        };
        assert_eq!(format(&format!("{point}=crash")).signal(), Some(9), "{point}");
        // The log was given back first: there is no device any more, and it says so.
        let refused = machine.start_and_list();
        assert!(refused[0].contains("format"), "{point}: {refused:?}");
        machine.terminate();
        assert!(format("").success());
        machine.start();
        machine.settle(Death::Process, "a format keeps the data");
        machine.terminate();
    }
}

#[test]
fn a_resize_that_dies_leaves_the_old_size_or_the_new() {
    const QUIET: Shape = Shape {
        name: "quiet",
        limits: "checkpoint_interval_ms = 0\n",
        ..SHAPES[0]
    };
    for (point, grown) in [
        ("wdev.super_sector.before_write", false),
        ("wdev.super_sector.stored", true),
    ] {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let mut machine = Machine::new(dir, dir, &[QUIET], 7);
        machine.launch(Some(&format!("{point}=crash")));
        machine.wait_until_open();
        let client = machine.client("quiet");
        let old = machine.block_on(client.status()).unwrap().size;
        let data = File::options().write(true).open(dir.join("quiet-data")).unwrap();
        data.set_len(old.bytes() * 2).unwrap();
        machine.block_on(client.resize(None)).unwrap_err();
        machine.died_by_itself();
        machine.start();
        let size = machine.block_on(client.status()).unwrap().size;
        assert_eq!(size.0, if grown { old.0 * 2 } else { old.0 }, "{point}");
        machine.settle(Death::Process, point);
        assert_eq!(machine.block_on(client.resize(None)).unwrap().size.0, old.0 * 2);
        machine.terminate();
    }
}
