use super::super::fixture::{diff, snap};
use super::*;

#[test]
fn snapshots_print_and_parse() {
    for text in [
        "|0|",
        "|18446744073709551615|",
        "|0,10|",
        "|5,18446744073709551615|",
    ] {
        assert_eq!(snap(text).to_string(), text);
        let json = serde_json::to_string(&snap(text)).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snap(text));
    }
    assert!(snap("|5|").is_clean());
    assert!(!snap("|5,6|").is_clean());
    // Both forms of a clean one are read.
    assert_eq!(snap("|5,5|"), snap("|5|"));
}

#[test]
fn what_is_no_snapshot_is_refused() {
    for text in [
        "",
        "|",
        "||",
        "5",
        "|5",
        "5|",
        "|5,4|",
        "|+5|",
        "| 5|",
        "|5,|",
        "|,5|",
        "|5,6,7|",
        "|-1|",
        "|18446744073709551616|",
        "|0x5|",
        "|05|",
        "|00,5|",
        "|5||",
    ] {
        assert!(text.parse::<Snapshot>().is_err(), "{text}");
    }
    let error = Snapshot::new(Gid(5), Gid(4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad snapshot |5,4|: expected its begin gid not beyond its end gid"
    );
}

#[test]
fn applying_gives_the_reference_values() {
    for (from, by, to) in [
        ("|0,7|", "|0|-->|10|", "|10|"),
        ("|0,2|", "|0|-->|1|", "|1,2|"),
        ("|0,10|", "|0|-->|5|", "|5,10|"),
        ("|0,10|", "|0|-->|10|", "|10|"),
        ("|0,10|", "|0,10|-->|11,12|", "|11,12|"),
        ("|5,10|", "|0,5|-->|7,10|", "|7,10|"),
        ("|3|", "|0|-->|5|", "|5|"),
    ] {
        assert_eq!(snap(from).apply(&diff(by)), Some(snap(to)), "{from} + {by}");
    }
    assert_eq!(snap("|5|").apply(&diff("|4|-->|5|")), None);
    assert_eq!(snap("|5|").apply(&diff("|6|-->|7|")), None);
}
