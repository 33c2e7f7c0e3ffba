//! Goal: what walb-wdev said is kept survives `kill -9` at any instant and at every fault point, and a device then holds
//! what it held after some prefix of the writes. Method: the real program, written to over NBD by guests that record
//! what they ask for and what is answered ([`writer`]), killed, started again, and judged ([`judge`]): 500 deaths. And the
//! same with disks below it that fail and lose power ([`faults`]).
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod faulty_fs;
mod format_and_resize;
mod history;
mod judge;
mod machine;
#[path = "../../src/engine/tests/power_loss/platter.rs"]
mod platter;
mod points;
mod writer;

use camino::Utf8Path;
use history::Death;
use machine::{Machine, SHAPES};
use rand::Rng;

/// Deaths at random instants: under load, or while it starts again after one.
fn random_deaths(seed: u64, rounds: usize) {
    let place = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(place.path()).unwrap();
    let mut machine = Machine::new(dir, dir, &SHAPES, seed);
    machine.start();
    let mut in_start = 0;
    for round in 0..rounds {
        let goal = 1 << machine.random.random_range(0..10);
        machine.load(|answered| answered.iter().sum::<usize>() >= goal);
        // Each is a death of its own: what the one before left must be redone all the same.
        while in_start < rounds / 4 && machine.random.random_bool(0.3) {
            let instant = machine.random.random_range(0..15_000);
            machine.launch(None);
            std::thread::sleep(std::time::Duration::from_micros(instant));
            machine.kill();
            in_start += 1;
        }
        machine.start();
        machine.settle(Death::Process, &format!("seed {seed}, round {round}"));
    }
    machine.terminate();
    machine.start();
    machine.settle(Death::Process, "after a clean stop");
    machine.terminate();
    let (there, all) = machine.tally;
    println!(
        "seed {seed}: {rounds} deaths under load, {in_start} in a start; {there} of {all} requests there"
    );
    assert!(
        there > rounds * 20 && there < all,
        "{there} of {all}: the deaths met too little"
    );
}

#[test]
fn killed_at_any_instant_every_device_holds_what_it_held_after_some_prefix_of_its_writes() {
    random_deaths(1, 200);
}

#[test]
fn the_same_with_another_seed() {
    random_deaths(2, 200);
}
