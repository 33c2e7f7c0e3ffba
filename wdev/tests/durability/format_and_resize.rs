//! The power goes at every write and every sync of a format and of a resize.

use camino::Utf8Path;
use walb_wdev::client::WalDevice;

use crate::faulty_fs::FaultyFs;
use crate::history::Death;
use crate::machine::{BLOCKS, Machine, SHAPES, Shape, format};

const QUIET: Shape = Shape {
    name: "quiet",
    limits: "checkpoint_interval_ms = 0\n",
    ..SHAPES[0]
};

const FILES: [(&str, u64); 2] = [
    ("quiet-log", QUIET.log_bytes),
    ("quiet-data", BLOCKS as u64 * 512),
];

#[test]
fn a_power_loss_in_a_format_leaves_a_device_that_says_so_or_a_good_one() {
    let (mut refused, mut served) = (0, 0);
    for after in 0.. {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let disks = FaultyFs::mount(&dir.join("disks"), &FILES, after);
        let mut machine = Machine::new(dir, &dir.join("disks"), &[QUIET], after);
        machine.start();
        machine.load(|answered| answered[0] > 50);
        machine.start();
        machine.settle(Death::Process, "before the format");
        machine.terminate();
        let [log, data] = ["quiet-log", "quiet-data"].map(|name| dir.join("disks").join(name));
        disks.cut(Some(after));
        let formatted = format(&log, &data, QUIET);
        assert_eq!(formatted, disks.powered());
        disks.cut(None);
        disks.power_on();
        if let Some(reason) = machine.start_and_list().first() {
            assert!(!formatted && reason.contains("format"), "{reason}");
            refused += 1;
        } else {
            machine.settle(Death::Power, "a format keeps the data");
            served += 1;
        }
        machine.kill();
        if formatted {
            break;
        }
        assert!(format(&log, &data, QUIET));
        machine.start();
        machine.settle(Death::Power, "the format again");
        machine.kill();
    }
    assert!(refused > 0 && served > 0, "{refused} {served}");
}

#[test]
fn a_power_loss_in_a_resize_leaves_the_old_size_or_the_new() {
    let mut found = [0, 0];
    for after in 0.. {
        let place = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(place.path()).unwrap();
        let disks = FaultyFs::mount(&dir.join("disks"), &FILES, 100 + after);
        let mut machine = Machine::new(dir, &dir.join("disks"), &[QUIET], after);
        machine.start();
        let client = machine.client(QUIET.name);
        let old = machine.block_on(client.status()).unwrap().size;
        disks.grow("quiet-data", old.bytes() * 2);
        disks.cut(Some(after));
        let resized = machine.block_on(client.resize(None));
        machine.kill();
        let was_last = disks.powered();
        disks.cut(None);
        disks.power_on();
        machine.start();
        let size = machine.block_on(client.status()).unwrap().size;
        assert!(size == old || size.0 == old.0 * 2, "{size}");
        assert!(resized.is_err() || size.0 == old.0 * 2, "it was answered");
        found[usize::from(size != old)] += 1;
        machine.settle(Death::Power, "a resize changes no data");
        machine.kill();
        if was_last {
            break;
        }
    }
    assert!(found.iter().all(|&n| n > 0), "{found:?}");
}
