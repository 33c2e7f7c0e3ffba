//! `show --json` of every golden file says what its manifest says.

use std::fs;

use serde_json::{Value, json};

use crate::support::{each, each_of_driver, golden, walbc, walbc_fed};

#[test]
fn wlogs_are_shown_with_every_header_and_record() {
    each(&["wlog"], false, 18, |name, path, vector| {
        let shown = walbc(&[
            "wlog".as_ref(),
            "show".as_ref(),
            "--json".as_ref(),
            path.as_os_str(),
        ])
        .json();
        let expect = &vector["expect"];
        assert_eq!(shown["kind"], "wlog");
        for key in ["header", "packs", "real_end_lsid", "stat"] {
            assert_eq!(shown[key], expect[key], "{name}: {key}");
        }
        assert!(shown.get("error").is_none() && shown.get("following").is_none());
        let piped = walbc_fed(&["wlog", "show", "--json", "-"], &fs::read(path).unwrap()).json();
        assert_eq!(piped, shown, "{name} from a pipe");
    });
}

#[test]
fn logs_behind_the_first_in_one_file_are_shown_too() {
    let stream = golden("w7.concat.wlogs");
    let shown = walbc(&[
        "wlog".as_ref(),
        "show".as_ref(),
        "--json".as_ref(),
        stream.as_os_str(),
    ])
    .json();
    let part = |name: &str| {
        let path = golden(name);
        walbc(&[
            "wlog".as_ref(),
            "show".as_ref(),
            "--json".as_ref(),
            path.as_os_str(),
        ])
        .json()
    };
    let strip = |mut value: Value| {
        value.as_object_mut().unwrap().remove("kind");
        value
    };
    let (a, b, c) = (
        part("w7a.chain.wlog"),
        part("w7b.chain.wlog"),
        part("w7c.chain.wlog"),
    );
    for key in ["header", "packs", "real_end_lsid", "stat"] {
        assert_eq!(shown[key], a[key]);
    }
    assert_eq!(shown["following"], json!([strip(b), strip(c)]));
}

#[test]
fn wdiffs_are_shown_with_every_record_and_pack() {
    let mut with_packs = 0;
    each(&["wdiff", "wdiff-merge"], false, 48, |name, path, vector| {
        let shown = walbc(&[
            "wdiff".as_ref(),
            "show".as_ref(),
            "--json".as_ref(),
            path.as_os_str(),
        ])
        .json();
        let expect = &vector["expect"];
        assert_eq!(shown["kind"], "wdiff");
        assert_eq!(shown["header"], expect["header"], "{name}");
        assert!(shown["records"] == expect["records"], "{name}: records differ");
        if expect["packs"].is_array() {
            assert_eq!(shown["packs"], expect["packs"], "{name}");
            with_packs += 1;
        }
        if shown["header"]["type"] == "sorted" {
            let piped = walbc_fed(&["wdiff", "show", "--json", "-"], &fs::read(path).unwrap()).json();
            assert!(piped == shown, "{name} from a pipe");
        }
    });
    assert_eq!(with_packs, 1);
}

fn check_device(name: &str, shown: &Value, expect: &Value) {
    assert_eq!(shown["kind"], "ldev");
    for key in [
        "super",
        "headers_from_oldest",
        "header_end_lsid",
        "log_from_oldest",
        "log_end_lsid",
        "verdict",
        "torn",
    ] {
        assert_eq!(shown[key], expect[key], "{name}: {key}");
    }
    assert_eq!(
        shown["latest_lsid"], expect["redo"]["written_lsid_after"],
        "{name}"
    );
}

#[test]
fn log_devices_are_shown_with_super_sector_headers_and_log() {
    each(&["ldev"], false, 24, |name, path, vector| {
        let arguments = [
            "log-device".as_ref(),
            "show".as_ref(),
            "--json".as_ref(),
            path.as_os_str(),
        ];
        check_device(name, &walbc(&arguments).json(), &vector["expect"]);
    });
    each_of_driver(|name, images, vector| {
        let path = images.log.as_os_str();
        let arguments = ["log-device".as_ref(), "show".as_ref(), "--json".as_ref(), path];
        check_device(name, &walbc(&arguments).json(), &vector["expect"]);
    });
}

#[test]
fn the_text_has_a_line_for_each_record() {
    for (tool, name, records) in [
        ("wlog", "w1.p512.wlog", "packs"),
        ("wdiff", "w1.p512.sorted.wdiff", "records"),
        ("wdiff", "w1.p512.indexed.wdiff", "records"),
    ] {
        let path = golden(name);
        let json = walbc(&[
            tool.as_ref(),
            "show".as_ref(),
            "--json".as_ref(),
            path.as_os_str(),
        ])
        .json();
        let list = json[records].as_array().unwrap();
        let expected = match records {
            "packs" => list.iter().map(|p| p["records"].as_array().unwrap().len()).sum(),
            _ => list.len(),
        };
        let text = walbc(&[tool.as_ref(), "show".as_ref(), path.as_os_str()]).ok();
        let text = String::from_utf8(text).unwrap();
        let found = text.lines().filter(|line| line.starts_with("  record ")).count();
        assert_eq!(found, expected, "{name}");
    }
}
