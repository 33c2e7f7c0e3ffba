use super::super::fixture::{diff, diffs, snap};
use super::*;

#[test]
fn a_diff_has_to_move_forward() {
    for (begin, end, good) in [
        ("|0|", "|1|", true),
        ("|0|", "|0|", false),
        ("|1|", "|0|", false),
        ("|0,5|", "|1,5|", true),
        ("|0,5|", "|1,4|", false),
        ("|0|", "|0,5|", false),
    ] {
        assert_eq!(
            MetaDiff::new(snap(begin), snap(end)).is_ok(),
            good,
            "{begin}-->{end}"
        );
    }
}

#[test]
fn diffs_print_in_a_short_and_a_long_form() {
    let long = diff("|2|-->|3|")
        .with_timestamp(Timestamp::from_compact("20261122140300").unwrap())
        .with_size(293_920);
    assert_eq!(long.listing(), "|2|-->|3| M- 2026-11-22T14:03:00 293920");
    assert_eq!(diff("|8|-->|10,12| -C").listing(), "|8|-->|10,12| -C --- 0");
}

#[test]
fn a_serialised_diff_is_checked_when_read() {
    let good = diff("|0,1|-->|2,3| -C").with_size(7).with_timestamp(Timestamp(9));
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<MetaDiff>(&json).unwrap(), good);
    let bad = json.replace("|2,3|", "|0,3|");
    let error = serde_json::from_str::<MetaDiff>(&bad).unwrap_err().to_string();
    assert!(error.contains("later begin gid"), "{error}");
}

#[test]
fn relations_are_the_reference_values() {
    for (at, by, expected) in [
        ("|5|", "|4|-->|5|", Relation::TooOld),
        ("|5|", "|6|-->|7|", Relation::TooNew),
        ("|5|", "|4|-->|10| -C", Relation::NotApplicable),
        ("|4|", "|4|-->|10| -C", Relation::Applicable),
        ("|4,9|", "|4|-->|10| -C", Relation::Applicable),
        ("|5|", "|5|-->|6|", Relation::Applicable),
        ("|3|", "|0|-->|5|", Relation::Applicable),
    ] {
        assert_eq!(diff(by).relation(snap(at)), expected, "{at} {by}");
    }
}

#[test]
fn merging_gives_the_reference_values() {
    for (d0, d1, expected) in [
        ("|0|-->|2|", "|1|-->|3|", Some("|0|-->|3|")),
        ("|0|-->|1|", "|1|-->|2,3|", Some("|0|-->|2,3|")),
        ("|0,1|-->|5,10|", "|2|-->|7|", Some("|0,1|-->|7,10|")),
        ("|0,1|-->|5,10|", "|2|-->|12|", Some("|0,1|-->|12|")),
        ("|0|-->|2|", "|3|-->|5|", None),
        ("|0|-->|5|", "|1|-->|3|", None),
        ("|0|-->|5|", "|1|-->|5|", None),
        ("|1|-->|5|", "|0|-->|6|", None),
        ("|0|-->|1|", "|1|-->|2| --", None),
        ("|0|-->|1| --", "|1|-->|2|", Some("|0|-->|2| --")),
        ("|0|-->|1| MC", "|1|-->|2|", None),
        ("|0|-->|1|", "|1|-->|2| MC", None),
    ] {
        assert_eq!(diff(d0).merge(&diff(d1)), expected.map(diff), "{d0} and {d1}");
    }
}

#[test]
fn a_merge_takes_flag_and_start_from_the_first_and_time_from_the_last() {
    let list = [
        diff("|0|-->|1| --").with_timestamp(Timestamp(10)).with_size(3),
        diff("|1|-->|2|").with_timestamp(Timestamp(20)).with_size(4),
        diff("|2|-->|3|")
            .with_timestamp(Timestamp(30))
            .with_size(u64::MAX),
    ];
    let merged = MetaDiff::merge_all(&list).unwrap();
    let expected = diff("|0|-->|3| --")
        .with_timestamp(Timestamp(30))
        .with_size(u64::MAX);
    assert_eq!(merged, expected);
    assert_eq!(MetaDiff::merge_all(&[]), None);
    assert_eq!(MetaDiff::merge_all(&diffs(&["|0|-->|1|", "|2|-->|3|"])), None);
}

#[test]
fn a_diff_contains_those_within_its_begin_gids() {
    assert!(diff("|0|-->|5|").contains(&diff("|1|-->|4|")));
    assert!(diff("|0|-->|5|").contains(&diff("|0,2|-->|5,9|")));
    assert!(!diff("|0|-->|5|").contains(&diff("|1|-->|6|")));
}

#[test]
fn file_names_carry_everything_but_the_size() {
    for name in [
        "20261122140300-M--2-3.wdiff",
        "20261122140100----0-1.wdiff",
        "20261122141300-MC-13-15.wdiff",
        "20261122141300----5-10-15-20.wdiff",
        "20260102030405-M--0-1.wdiff",
        "20260102030405-M--1-3-4-9.wdiff",
        "20260102030405--C-255-4096.wdiff",
        "19700101000000----0-18446744073709551615.wdiff",
    ] {
        let diff = MetaDiff::from_file_name(name, 5).unwrap();
        assert_eq!((diff.file_name().as_str(), diff.size()), (name, 5));
    }
    let dirty = MetaDiff::from_file_name("20261122141300-M--5-10-15-20.wdiff", 0).unwrap();
    assert_eq!(dirty.listing(), "|5,10|-->|15,20| M- 2026-11-22T14:13:00 0");
}

#[test]
fn file_names_that_we_would_not_write_are_refused() {
    for name in [
        "",
        "wdiff",
        ".wdiff",
        "20261122140300-M--2-3",
        "20261122140300-M--2-3.wdiff.tmp",
        "20261322140300-M--2-3.wdiff",
        "20261122140300-m--2-3.wdiff",
        "20261122140300-CM-2-3.wdiff",
        "20261122140300-x--2-3.wdiff",
        "20261122140300-M--2.wdiff",
        "20261122140300-M--2-3-4.wdiff",
        "20261122140300-M--2-3-4-5-6.wdiff",
        "20261122140300-M--3-2.wdiff",
        "20261122140300-M--2-2.wdiff",
        "20261122140300-M--02-3.wdiff",
        "20261122140300-M--2-2-3-3.wdiff",
        "20261122140300-M--5-4-6-7.wdiff",
        "20261122140300-M--2-99999999999999999999.wdiff",
        "20261122140300-M--2-+3.wdiff",
        "20261122140300-M--2--3.wdiff",
        "2026112214030é-M--2-3.wdiff",
        "../20261122140300-M--2-3.wdiff",
    ] {
        assert!(MetaDiff::from_file_name(name, 0).is_err(), "{name}");
    }
}
