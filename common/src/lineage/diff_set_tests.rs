use super::super::fixture::{diffs, one_by_one, set, snap};
use super::*;

fn base(text: &str) -> BaseState {
    text.parse().unwrap()
}

#[test]
fn equal_begin_and_end_replace_each_other() {
    let mut set = set(&["|0|-->|1| --"]);
    let again = diffs(&["|0|-->|1|"])[0];
    assert_eq!(set.insert(again), Some(diffs(&["|0|-->|1| --"])[0]));
    assert_eq!(set.len(), 1);
    assert_eq!(set.get(snap("|0|"), snap("|1|")), Some(&again));
    assert_eq!(set.remove(&again), Some(again));
    assert!(set.is_empty());
}

#[test]
fn the_chain_takes_what_reaches_farthest_and_then_what_starts_latest() {
    let set = set(&[
        "|0|-->|3|",
        "|0|-->|5|",
        "|1|-->|7|",
        "|5|-->|9|",
        "|3|-->|9|",
        "|4|-->|9,9|",
    ]);
    assert_eq!(set.chain(snap("|0|")), diffs(&["|0|-->|5|", "|5|-->|9|"]));
    assert_eq!(set.chain(snap("|9|")), []);
    assert_eq!(set.chain(snap("|4|")), diffs(&["|4|-->|9|"]));
}

#[test]
fn a_limit_is_asked_of_the_best_candidate_only() {
    let set = set(&["|0|-->|5|", "|0|-->|3|"]);
    assert_eq!(set.chain_by_gid(snap("|0|"), Gid(4)), []);
    assert_eq!(set.chain_by_gid(snap("|0|"), Gid(5)), diffs(&["|0|-->|5|"]));
}

#[test]
fn a_compared_diff_is_taken_only_where_it_starts() {
    let set = set(&[
        "|0|-->|2|",
        "|1|-->|9| MC",
        "|2|-->|4|",
        "|2|-->|6| MC",
        "|5|-->|7|",
    ]);
    assert_eq!(
        set.chain(snap("|0|")),
        diffs(&["|0|-->|2|", "|2|-->|6| MC", "|5|-->|7|"])
    );
}

#[test]
fn the_minimum_completes_an_interrupted_apply() {
    let held = set(&["|0|-->|1|", "|1|-->|2|", "|2|-->|3|"]);
    assert_eq!(held.minimum(&base("<|0|>")), Ok(vec![]));
    assert_eq!(
        held.minimum(&base("<|0|-->|2|>")),
        Ok(diffs(&["|0|-->|1|", "|1|-->|2|"]))
    );
    assert!(held.minimum(&base("<|0|-->|4|>")).is_err());
    assert!(
        held.minimum(&base("<|9|-->|12|>")).is_err(),
        "not even the first of them is left"
    );
    // A diff that covers more has come since: the minimum passes the target.
    let more = set(&["|0|-->|1|", "|1|-->|2|", "|0|-->|3|"]);
    assert_eq!(more.minimum(&base("<|0|-->|2|>")), Ok(diffs(&["|0|-->|3|"])));
}

#[test]
fn the_latest_state_follows_the_whole_chain() {
    let held = set(&["|0|-->|1|", "|1|-->|2|", "|3|-->|4|"]);
    assert_eq!(held.latest(&base("<|0,9|>")), Ok(base("<|2,9|>")));
    assert_eq!(held.latest(&base("<|0|-->|1|>")), Ok(base("<|2|>")));
    assert!(held.latest(&base("<|0|-->|3|>")).is_err());
    assert!(held.latest(&base("<|9|-->|12|>")).is_err());
}

#[test]
fn snapshots_are_made_explicit_all_or_none() {
    let mut held = set(&["|0|-->|1|", "|1|-->|2|", "|1|-->|3|", "|3|-->|4| --"]);
    let before = held.clone();
    assert_eq!(
        held.set_explicit(&[Gid(1), Gid(4)], true),
        Err(NoSuchSnapshot { gid: Gid(4) })
    );
    assert_eq!(held, before);
    let changes = held.set_explicit(&[Gid(1), Gid(3)], true).unwrap();
    assert_eq!(changes.len(), 2, "both that start at 1; that at 3 was explicit");
    assert!(
        changes
            .iter()
            .all(|c| c.old.is_mergeable() && !c.new.is_mergeable())
    );
    assert_eq!(
        held,
        set(&["|0|-->|1|", "|1|-->|2| --", "|1|-->|3| --", "|3|-->|4| --"])
    );
    assert_eq!(held.set_explicit(&[Gid(1)], false).unwrap().len(), 2);
}

/// Takes minutes if a step of the chain looks at every diff.
#[test]
fn a_hundred_thousand_diffs_are_chained_at_once() {
    let many = one_by_one(100_000);
    assert_eq!(many.chain(snap("|0|")).len(), 100_000);
    assert_eq!(many.chain_by_gid(snap("|0,5|"), Gid(70_000)).len(), 70_000);
}
