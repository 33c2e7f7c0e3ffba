//! Goal: no order of the engine's steps, and no crash between any two of them, loses what was acknowledged, gives a state that
//! never was, or forgets a change. Method: a device of a few blocks ([`world`]), all states that any order of its steps
//! reaches, each visited once. Layout, pending set, changed chunks and what a start makes of them are the engine's own
//! values; disks, threads and the guest are a model of a few bytes.

mod world;

use std::collections::HashSet;

use world::{Budget, Step, World};

/// Visits every state that `from` leads to; how many there are, and how many a crash led to.
fn explore(from: World) -> (usize, usize) {
    let mut seen: HashSet<[u8; 16]> = HashSet::from([from.key()]);
    let mut recovered = 0;
    let steps = from.steps();
    // The way here: each state, with the step that led to it and those not yet taken from it.
    let mut path: Vec<(Option<Step>, World, Vec<Step>)> = vec![(None, from, steps)];
    while let Some((_, world, steps)) = path.last_mut() {
        let Some(step) = steps.pop() else {
            path.pop();
            continue;
        };
        let fault = match world.after(&step) {
            Ok(next) if !seen.insert(next.key()) => continue,
            Ok(next) => match next.check() {
                Ok(()) => {
                    recovered += usize::from(step.is_crash());
                    let steps = next.steps();
                    path.push((Some(step), next, steps));
                    continue;
                }
                Err(fault) => format!("{fault}: {next:?}"),
            },
            Err(fault) => fault,
        };
        let taken: Vec<_> = path.iter().filter_map(|(step, ..)| step.as_ref()).collect();
        panic!("after {taken:?} and {step:?}: {fault}");
    }
    (seen.len(), recovered)
}

#[test]
fn every_order_of_steps_and_crashes_on_a_tiny_device_keeps_what_was_promised() {
    let mut total = 0;
    let budget = |writes, releases, resets, crashes| Budget {
        writes,
        releases,
        resets,
        crashes,
    };
    for (ring, blocks, budget) in [
        (4, 2, budget(4, 0, 0, 1)),
        (5, 2, budget(3, 1, 0, 2)),
        (4, 2, budget(3, 1, 1, 1)),
        (4, 2, budget(2, 1, 2, 1)),
        (6, 3, budget(4, 0, 0, 0)),
    ] {
        let (states, recovered) = explore(World::new(ring, blocks, budget));
        println!(
            "ring of {ring} blocks, device of {blocks}, {budget:?}: {states} states, {recovered} after a crash"
        );
        assert!(states > 1000 && (recovered > 100 || budget.crashes == 0));
        total += states;
    }
    println!("{total} states in all");
}
