//! Goal: whatever was answered as durable survives a power loss at any instant, and what is left of the rest is a prefix.
//! Method: the engine on two disks in memory that keep unsynced sectors apart ([`fault_disk`]), random requests whose order
//! is recorded ([`volume`]), the power cut at a seeded write or sync, also during the redo that follows.
//!
//! Requests, tears and instants come from the seed; which thread runs first does not.

mod fault_disk;
mod platter;
mod volume;

use rand::Rng;
use walb_common::types::PhysicalBlockSize;

use crate::block::{IoErrno, IoOp};
use fault_disk::{Act, Failure, Outage, Which};
use volume::{BLOCKS, Volume};

const BLOCK: u64 = walb_common::types::LB_SIZE;

/// One random step of a guest, an operator or a backup.
fn step(volume: &mut Volume) {
    let at = volume.rng.random_range(0..BLOCKS);
    let len = volume.rng.random_range(1..24).min(BLOCKS - at);
    let (offset, bytes) = (at as u64 * BLOCK, len as u64 * BLOCK);
    let fua = volume.rng.random_bool(0.2);
    match volume.rng.random_range(0..100) {
        0..45 => {
            let op = volume.write_op(at, len, fua);
            volume.submit(op);
        }
        45..52 => volume.submit(IoOp::Discard {
            offset,
            len: bytes,
            fua,
        }),
        52..58 => volume.submit(IoOp::WriteZeroes {
            offset,
            len: bytes,
            fua,
            no_hole: at.is_multiple_of(2),
        }),
        58..68 => volume.submit(IoOp::Flush),
        68..76 => {
            let count = volume.rng.random_range(2..40);
            let mut ops = vec![];
            for _ in 0..count {
                let at = volume.rng.random_range(0..BLOCKS);
                ops.push(volume.write_op(at, 1, false));
            }
            volume.burst(ops);
        }
        76..82 => {
            volume.settle();
        }
        82..86 => volume.check_reads(),
        86..91 => volume.checkpoint(),
        91..99 => volume.follow(),
        _ => volume.reset_log(),
    }
}

/// Opens the device again, with the power going in the midst of it now and then.
fn recover(volume: &mut Volume, mut power_lost: bool) {
    while volume.rng.random_bool(0.4) {
        let outage = if volume.rng.random_bool(0.5) {
            Outage::Event(volume.rng.random_range(0..40))
        } else {
            Outage::Sync(volume.rng.random_range(0..4))
        };
        volume.machine.arm(Some(outage));
        if volume.open().is_ok() {
            volume.machine.arm(None);
            if volume.machine.powered() {
                return volume.check_found(power_lost);
            }
            volume.die();
        }
        power_lost |= !volume.machine.powered();
        assert!(
            !volume.machine.powered(),
            "only a power loss can keep it from opening"
        );
        volume.machine.power_on();
    }
    volume.open().unwrap();
    volume.check_found(power_lost);
}

fn pbs_of(seed: u64) -> PhysicalBlockSize {
    if seed.is_multiple_of(2) {
        PhysicalBlockSize::B512
    } else {
        PhysicalBlockSize::B4096
    }
}

/// What the rounds met, so that a test that met nothing fails.
#[derive(Debug, Default)]
struct Met {
    taken: usize,
    lost_sectors: usize,
    wrapped: usize,
    overflowed: usize,
    not_overflowed: usize,
    unchanged: usize,
}

impl Met {
    fn add(&mut self, volume: &Volume) {
        self.taken += volume.taken;
        self.lost_sectors += volume.machine.lost_sectors();
        self.wrapped += usize::from(volume.laps > 0);
        self.overflowed += usize::from(volume.overflowed);
        self.unchanged += volume.unchanged;
        self.not_overflowed += usize::from(volume.laps > 0 && !volume.overflowed);
    }
}

/// One machine: several lives, each ended by the power, or by the death of the process.
fn lives(seed: u64, dir: &tempfile::TempDir, met: &mut Met) {
    let mut volume = Volume::new(seed, dir, pbs_of(seed), 20 + seed % 7 * 30);
    for _ in 0..4 {
        let until = volume.rng.random_range(0..80);
        volume.machine.arm(Some(Outage::Event(until)));
        let mut steps = volume.rng.random_range(10..80);
        while steps > 0 && volume.machine.powered() {
            step(&mut volume);
            steps -= 1;
        }
        let dies_first = volume.rng.random_bool(0.5);
        if dies_first {
            volume.machine.arm(None);
            volume.die();
        }
        // Half of those that only died keep what they wrote.
        let power = !volume.machine.powered() || !dies_first || volume.rng.random_bool(0.5);
        if power {
            volume.machine.cut();
        }
        if !dies_first {
            volume.die();
        }
        if power {
            volume.machine.power_on();
        }
        recover(&mut volume, power);
    }
    volume.stop();
    volume.machine.cut();
    volume.machine.power_on();
    volume.open().unwrap();
    volume.check_found(true);
    volume.die();
    met.add(&volume);
}

#[test]
fn a_power_loss_at_any_instant_leaves_a_prefix_with_everything_that_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let mut met = Met::default();
    for seed in 0..200 {
        // Shown when it fails.
        println!("seed {seed}");
        lives(seed, &dir, &mut met);
    }
    assert!(met.taken > 0 && met.lost_sectors > 0, "{met:?}");
    assert!(met.unchanged > 1000, "{met:?}");
    assert!(
        met.wrapped > 0 && met.overflowed > 0 && met.not_overflowed > 0,
        "{met:?}"
    );
}

#[test]
fn the_power_goes_at_every_sync_in_turn_and_at_every_sync_of_the_redo_after_it() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1000..1012 {
        for nth in 0.. {
            println!("seed {seed}, sync {nth}");
            let mut volume = Volume::new(seed, &dir, pbs_of(seed), 20 + seed % 7 * 30);
            volume.machine.arm(Some(Outage::Sync(nth)));
            for _ in 0..60 {
                if volume.machine.powered() {
                    step(&mut volume);
                }
            }
            volume.settle();
            let was_last = volume.machine.powered();
            volume.machine.cut();
            volume.die();
            for nth in 0.. {
                volume.machine.power_on();
                volume.machine.arm(Some(Outage::Sync(nth)));
                if volume.open().is_ok() {
                    break;
                }
            }
            volume.machine.arm(None);
            volume.check_found(true);
            volume.die();
            if was_last {
                assert!(nth > 1, "seed {seed} had hardly a sync");
                break;
            }
        }
    }
}

#[test]
fn a_power_loss_while_redo_cuts_a_torn_pack_leaves_no_write_that_the_log_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut cut_down = 0;
    for seed in 4000..4300 {
        println!("seed {seed}");
        let mut volume = Volume::new(seed, &dir, PhysicalBlockSize::B4096, 100);
        volume.die();
        // One pack of so many records that its header spans sectors: half of a new header is none.
        volume.config.limits.logpack_max_kib = 1024;
        volume.config.limits.log_sync_interval_ms = 60_000;
        volume.open().unwrap();
        let ops = (0..40).map(|n| volume.write_op(n, 1, false)).collect();
        volume.burst(ops);
        volume.settle();
        volume.machine.cut();
        volume.die();
        volume.machine.power_on();
        // The first sync comes before the redo.
        volume.machine.arm(Some(Outage::Sync(1)));
        assert!(volume.open().is_err());
        volume.machine.power_on();
        volume.open().unwrap();
        volume.check_found(true);
        cut_down += usize::from(volume.taken > 0 && volume.taken < 40);
        volume.die();
    }
    assert!(cut_down > 10, "{cut_down}");
}

#[test]
fn an_error_below_is_told_and_nothing_that_needed_it_is_ever_answered_with_success() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        (Which::Log, Act::Write, libc::EIO),
        (Which::Log, Act::Write, libc::ENOSPC),
        (Which::Log, Act::Sync, libc::EIO),
        (Which::Data, Act::Write, libc::EIO),
        (Which::Data, Act::Write, libc::ENOSPC),
        (Which::Data, Act::Sync, libc::EIO),
    ];
    for seed in 2000..2120 {
        println!("seed {seed}");
        let (which, act, errno) = kinds[usize::try_from(seed).unwrap() % kinds.len()];
        let mut volume = Volume::new(seed, &dir, pbs_of(seed / 6), 140);
        let after = volume.rng.random_range(0..10);
        let stays = volume.rng.random_bool(0.5);
        volume.machine.fail(Failure {
            which,
            act,
            after,
            errno,
            stays,
        });
        for n in 0.. {
            assert!(n < 10_000, "the error never came");
            step(&mut volume);
            if !volume.machine.struck().is_empty() {
                break;
            }
        }
        volume.check_that_it_failed();
        let lost_in_cache = volume.machine.lost_in_cache();
        let power = volume.rng.random_bool(0.5);
        if power {
            volume.machine.cut();
        }
        volume.die();
        volume.machine.power_on();
        volume.machine.heal();
        // A failed sync takes what a power loss would.
        volume.open().unwrap();
        volume.check_found(power || lost_in_cache || (which, act) == (Which::Log, Act::Sync));
        let op = volume.write_op(0, 5, true);
        volume.submit(op);
        assert_eq!(volume.settle(), 0);
        volume.check_reads();
        volume.stop();
    }
}

#[test]
fn log_that_is_lost_in_the_page_cache_fails_the_next_flush_and_everything_after_it() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 5000..5020 {
        println!("seed {seed}");
        let mut volume = Volume::new(seed, &dir, PhysicalBlockSize::B4096, 100);
        volume.die();
        volume.config.limits.log_cached_after = 0;
        volume.config.limits.log_sync_interval_ms = 60_000;
        volume.open().unwrap();
        let op = volume.write_op(1, 8, true);
        volume.submit(op);
        assert_eq!(volume.settle(), 0);
        volume.machine.fail(Failure {
            which: Which::Log,
            act: Act::Write,
            after: 0,
            errno: libc::EIO,
            stays: false,
        });
        let op = volume.write_op(2, 8, false);
        volume.submit(op);
        assert_eq!(volume.settle(), 0, "acknowledged: the kernel has it");
        assert!(volume.machine.lost_in_cache());
        volume.submit(IoOp::Flush);
        assert_eq!(volume.settle(), 1, "the flush fails");
        volume.check_that_it_failed();
        volume.die();
        volume.machine.heal();
        volume.open().unwrap();
        volume.check_found(true);
        volume.stop();
    }
}

#[test]
fn a_read_error_is_told_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(3000, &dir, PhysicalBlockSize::B512, 100);
    volume.machine.fail(Failure {
        which: Which::Data,
        act: Act::Read,
        after: 0,
        errno: libc::EIO,
        stays: false,
    });
    assert_eq!(volume.read(), Err(IoErrno::EIO));
    volume.machine.heal();
    let op = volume.write_op(0, 5, true);
    volume.submit(op);
    volume.check_reads();
    volume.stop();
}
