use super::super::fixture::{diff, diffs, one_by_one, set, snap};
use super::*;
use std::convert::Infallible;

fn base(text: &str) -> BaseState {
    text.parse().unwrap()
}

fn gids(list: &[Restorable]) -> Vec<u64> {
    list.iter().map(|r| r.gid.0).collect()
}

#[test]
fn the_short_list_has_the_explicit_snapshots_and_the_full_one_every_clean() {
    let held = set(&[
        "|0|-->|1| --",
        "|1|-->|2| --",
        "|2|-->|3|",
        "|3|-->|5|",
        "|5|-->|6| --",
        "|6|-->|7|",
    ]);
    let short = held.restorable(&base("<|0|>"), false).unwrap();
    assert_eq!(gids(&short), [0, 1, 5, 7]);
    assert_eq!(
        short.iter().map(|r| r.explicit).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    let all = held.restorable(&base("<|0|>"), true).unwrap();
    assert_eq!(gids(&all), [0, 1, 2, 3, 5, 6, 7]);
}

#[test]
fn dirty_snapshots_are_not_restorable() {
    let held = set(&["|0|-->|5|", "|5|-->|10|", "|10|-->|12|"]);
    assert_eq!(gids(&held.restorable(&base("<|0,10|>"), true).unwrap()), [10, 12]);
}

#[test]
fn while_applying_the_list_starts_after_the_minimum() {
    let held = one_by_one(5);
    assert_eq!(
        gids(&held.restorable(&base("<|0|-->|2|>"), true).unwrap()),
        [2, 3, 4, 5]
    );
    assert_eq!(held.materialise(&base("<|0|-->|2|>"), Gid(1), true), None);
    assert_eq!(
        held.materialise(&base("<|0|-->|2|>"), Gid(3), true)
            .map(|l| l.len()),
        Some(3)
    );
    assert_eq!(held.materialise(&base("<|0|-->|2|>"), Gid(0), true), None);
}

#[test]
fn an_image_torn_by_an_apply_whose_diffs_are_lost_is_never_listed() {
    let torn = base("<|0|-->|2|>");
    for held in [set(&[]), set(&["|0|-->|1|"]), set(&["|1|-->|2|"])] {
        assert!(held.restorable(&torn, true).is_err());
        assert!(held.apply_list(&torn, Gid(9), 9).is_err());
        assert_eq!(held.materialise(&torn, Gid(0), false), None);
    }
}

#[test]
fn only_what_is_reached_exactly_is_materialised() {
    let held = set(&["|0|-->|2|", "|2|-->|5|", "|5|-->|10|"]);
    let from = base("<|0,5|>");
    assert_eq!(
        held.materialise(&from, Gid(5), true),
        Some(diffs(&["|0|-->|2|", "|2|-->|5|"]))
    );
    assert_eq!(held.materialise(&from, Gid(2), true), None, "dirty");
    assert_eq!(
        held.materialise(&from, Gid(2), false),
        Some(diffs(&["|0|-->|2|"]))
    );
    assert_eq!(held.materialise(&from, Gid(4), false), None);
    assert_eq!(held.materialise(&base("<|0|>"), Gid(0), true), Some(vec![]));
}

#[test]
fn an_apply_goes_as_far_as_it_can_without_passing_the_gid() {
    let held = one_by_one(10);
    let len = |from: &str, gid, max| held.apply_list(&base(from), Gid(gid), max).unwrap().len();
    assert_eq!(len("<|0|>", 7, 100), 7);
    assert_eq!(len("<|0|>", 7, 3), 3);
    assert_eq!(len("<|5|>", 5, 3), 0);
    assert_eq!(len("<|0|-->|5|>", 7, 3), 5, "never less than the minimum");
    assert_eq!(len("<|0|-->|5|>", 2, 3), 5, "though that is beyond the gid");
}

#[test]
fn a_merge_starts_at_the_first_diff_from_the_gid_and_stops_at_what_is_explicit() {
    let held = set(&[
        "|0|-->|1|",
        "|2|-->|3|",
        "|2|-->|4|",
        "|3|-->|6|",
        "|5|-->|6|",
        "|6|-->|8| --",
        "|8|-->|9|",
    ]);
    assert_eq!(
        held.merge_list(Gid(1), MergeUntil::Size(u64::MAX)),
        Ok(diffs(&["|2|-->|4|", "|3|-->|6|"]))
    );
    assert_eq!(
        held.merge_list(Gid(0), MergeUntil::Size(u64::MAX)),
        Err(NoMergeableDiff)
    );
    assert_eq!(
        held.merge_list(Gid(6), MergeUntil::Size(u64::MAX)),
        Ok(diffs(&["|6|-->|8| --", "|8|-->|9|"]))
    );
    assert_eq!(
        held.merge_list(Gid(9), MergeUntil::Size(u64::MAX)),
        Err(NoMergeableDiff)
    );
}

#[test]
fn a_merge_is_cut_by_size_or_by_gid() {
    let held = one_by_one(10);
    let len = |gid, until| held.merge_list(Gid(gid), until).map(|l| l.len());
    assert_eq!(len(2, MergeUntil::Size(3)), Ok(3));
    assert_eq!(len(2, MergeUntil::Size(1)), Err(NoMergeableDiff));
    assert_eq!(len(2, MergeUntil::Gid(Gid(6))), Ok(4));
    assert_eq!(len(2, MergeUntil::Gid(Gid(3))), Err(NoMergeableDiff));
    let overlapping = set(&["|0|-->|2|", "|2|-->|9|"]);
    let to_five = overlapping.merge_list(Gid(0), MergeUntil::Gid(Gid(5))).unwrap();
    assert_eq!(to_five.len(), 2, "what starts before the gid is included whole");
}

#[test]
fn a_compared_diff_is_never_merged() {
    let held = set(&["|0|-->|1|", "|1|-->|2| MC", "|2|-->|3|"]);
    assert_eq!(held.merge_list(Gid(0), MergeUntil::Size(9)), Err(NoMergeableDiff));
    assert_eq!(held.merge_list(Gid(1), MergeUntil::Size(9)), Err(NoMergeableDiff));
}

#[test]
fn a_proxy_sends_the_oldest_of_one_uuid_within_the_limits() {
    let held = one_by_one(10);
    let uuid_of = |d: &MetaDiff| Ok::<_, Infallible>(Uuid([u8::from(d.begin().begin() >= Gid(4)); 16]));
    let len = |bytes, files| {
        held.proxy_send_list(MergeLimits { bytes, files }, uuid_of)
            .unwrap()
            .len()
    };
    assert_eq!(len(100, 100), 4);
    assert_eq!(len(3, 100), 3);
    assert_eq!(len(100, 2), 2);
    assert_eq!(len(0, 0), 1, "the first is always sent");
    let none = DiffSet::new().proxy_send_list(MergeLimits { bytes: 1, files: 1 }, uuid_of);
    assert_eq!(none, Ok(vec![]));
    let unreadable = held.proxy_send_list(MergeLimits { bytes: 9, files: 9 }, |_| Err("unreadable"));
    assert_eq!(unreadable, Err("unreadable"));
}

#[test]
fn an_archive_sends_the_longest_mergeable_prefix_of_what_the_other_lacks() {
    let held = set(&["|0|-->|1|", "|1|-->|2|", "|2|-->|3|", "|3|-->|4| --", "|4|-->|5|"]);
    let limits = MergeLimits {
        bytes: u64::MAX,
        files: 100,
    };
    let list = |at: &str| held.replication_send_list(snap(at), limits);
    assert_eq!(list("|1|"), diffs(&["|1|-->|2|", "|2|-->|3|"]));
    assert_eq!(list("|3|"), diffs(&["|3|-->|4| --", "|4|-->|5|"]));
    assert_eq!(list("|5|"), []);
    assert_eq!(
        held.replication_send_list(snap("|1|"), MergeLimits { bytes: 9, files: 1 }),
        diffs(&["|1|-->|2|"])
    );
}

#[test]
fn garbage_is_what_nobody_will_choose_again() {
    let held = set(&[
        "|0|-->|2|",
        "|1|-->|3|",
        "|2|-->|3|",
        "|2|-->|5|",
        "|3|-->|5|",
        "|5|-->|6|",
    ]);
    assert_eq!(
        held.garbage_before(Gid(3)),
        diffs(&["|0|-->|2|", "|1|-->|3|", "|2|-->|3|"])
    );
    assert_eq!(
        held.garbage_in_range(Gid(2), Gid(5)),
        diffs(&["|2|-->|3|", "|3|-->|5|"])
    );
    assert_eq!(
        held.garbage_full(&base("<|0|>")),
        diffs(&["|1|-->|3|", "|2|-->|3|", "|3|-->|5|"])
    );
}

#[test]
fn the_range_spares_every_diff_with_its_begin_gids() {
    let held = set(&["|2|-->|5|", "|2|-->|5,7|", "|2|-->|4|"]);
    assert_eq!(held.garbage_in_range(Gid(2), Gid(5)), [diff("|2|-->|4|")]);
}
