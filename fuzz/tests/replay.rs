//! Goal: what was once found stays found, and every target takes its own seeds. Method: without coverage, run all seeds
//! and all regressions, and a fixed number of mutations of each.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use walb_fuzz::TARGETS;
use walb_fuzz_engine::{Mutator, check};

/// Memory is counted for the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn seeds_and_a_few_mutations_of_them_break_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for target in TARGETS {
        let mut mutator = Mutator::new(2, target.max_len);
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for (n, seed) in seeds.iter().enumerate() {
            check(target, seed).unwrap_or_else(|e| panic!("{} seed {n}: {e:?}", target.name));
            for turn in 0..4 {
                let mut input = seed.clone();
                mutator.mutate(&mut input, &seeds[(n + 1) % seeds.len()]);
                (target.repair)(&mut input, turn % 2 == 0);
                check(target, &input)
                    .unwrap_or_else(|e| panic!("{} seed {n}, turn {turn}: {e:?}", target.name));
            }
        }
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut seen = 0;
    for directory in fs::read_dir(all).unwrap() {
        let directory = directory.unwrap().path();
        let name = directory.file_name().unwrap().to_str().unwrap();
        let target = walb_fuzz::target::find(name).unwrap_or_else(|| panic!("no target {name}"));
        for file in fs::read_dir(&directory).unwrap() {
            let path = file.unwrap().path();
            let input = fs::read(&path).unwrap();
            check(target, &input).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
            seen += 1;
        }
    }
    assert!(seen > 0, "no regressions found");
}
