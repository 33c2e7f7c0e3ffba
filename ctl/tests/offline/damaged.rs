//! Every damaged golden file is refused: exit status 1, what and where on stderr, nothing made of it.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::support::{Outcome, each, golden, names, walbc, walbc_fed};

fn says(verdict: &str) -> &'static str {
    match verdict {
        "bad-pack-header" => "header of logpack",
        "bad-data-checksum" => "data of record",
        "missing-end-block" => "without an end block",
        "truncated" => "wdiff ends at byte",
        "bad-pack" => "pack header at byte",
        "bad-record" => "record at byte",
        "bad-data" => "checksum",
        "missing-end-pack" => "without an end pack",
        "bad-index-super" => "index super at byte",
        _ => "file header",
    }
}

#[test]
fn damaged_wlogs_make_nothing_and_say_why() {
    let dir = tempdir().unwrap();
    let (out, image) = (dir.path().join("out"), dir.path().join("image"));
    each(&["wlog"], true, 10, |name, path, vector| {
        let (expect, file) = (&vector["expect"], path.to_str().unwrap());
        let says = match expect["verdict"].as_str().unwrap() {
            "truncated" => "wlog ends inside logpack",
            verdict => says(verdict),
        };
        let verified = walbc(&["wlog", "verify", "--json", file]);
        verified.fails_with(&[name, says]);
        let json: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(
            (&json["ok"], json["error"].as_str().unwrap().contains(says)),
            (&Value::Bool(false), true)
        );
        walbc_fed(&["wlog", "verify", "-"], &fs::read(path).unwrap()).fails_with(&["stdin", says]);

        walbc(&["wlog", "to-wdiff", file, "-o", out.to_str().unwrap()]).fails_with(&[name, says]);
        let filled = vec![0x5a; 1 << 20];
        fs::write(&image, &filled).unwrap();
        let redo = walbc(&["wlog", "redo", file, image.to_str().unwrap()]);
        redo.fails_with(&[name, says]);
        let unchanged = fs::read(&image).unwrap() == filled;
        if expect["verdict"] == "bad-data-checksum" {
            // Known only while it is applied: then the error says how far it is.
            assert!(redo.stderr.contains(if unchanged {
                "is unchanged"
            } else {
                "has the log up to lsid"
            }));
        } else {
            assert!(
                unchanged && redo.stderr.contains("is unchanged"),
                "{name}: {}",
                redo.stderr
            );
        }

        // Headers are shown as far as they go.
        let shown = walbc(&["wlog", "show", "--json", file]);
        let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
        if let Some(readable) = expect["headers_readable"].as_u64() {
            assert_eq!(json["packs"].as_array().unwrap().len() as u64, readable, "{name}");
            let end = json.get("header_end_lsid").unwrap_or(&json["real_end_lsid"]);
            assert_eq!(end, &expect["header_end_lsid"], "{name}");
        }
        if expect["verdict"] == "bad-data-checksum" {
            shown.ok();
        } else {
            shown.fails_with(&[name, says]);
            assert!(json["error"].as_str().unwrap().contains(says));
        }
        assert_eq!(names(dir.path()), ["image"], "{name}");
    });
}

#[test]
fn damaged_wdiffs_make_nothing_and_say_why() {
    let dir = tempdir().unwrap();
    let (out, image) = (dir.path().join("out"), dir.path().join("image"));
    let sound = golden("w1.p512.sorted.wdiff");
    each(&["wdiff"], true, 21, |name, path, vector| {
        let (verdict, file) = (
            vector["expect"]["verdict"].as_str().unwrap(),
            path.to_str().unwrap(),
        );
        let parts: &[&str] = &[name, says(verdict)];
        let verified = walbc(&["wdiff", "verify", "--json", file]);
        verified.fails_with(parts);
        let json: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(
            (&json["kind"], &json["ok"]),
            (&Value::from("wdiff"), &Value::Bool(false))
        );

        let to = out.to_str().unwrap();
        walbc(&["wdiff", "merge", sound.to_str().unwrap(), file, "-o", to]).fails_with(parts);
        walbc(&["wdiff", "merge", "--layout", "indexed", file, "-o", to]).fails_with(parts);
        walbc(&["wdiff", "recompress", file, "--compression", "zstd", "-o", to]).fails_with(parts);
        let filled = vec![0x5a; 1 << 20];
        fs::write(&image, &filled).unwrap();
        let applied = walbc(&["wdiff", "apply", file, image.to_str().unwrap()]);
        applied.fails_with(parts);
        if verdict == "bad-data" {
            assert!(
                applied.stderr.contains("may be partly changed"),
                "{}",
                applied.stderr
            );
        } else {
            assert!(
                applied.stderr.contains("is unchanged"),
                "{name}: {}",
                applied.stderr
            );
            assert!(fs::read(&image).unwrap() == filled, "{name}");
        }
        let shown = walbc(&["wdiff", "show", "--json", file]);
        let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
        if verdict == "bad-data" {
            shown.ok();
        } else {
            shown.fails_with(parts);
            assert!(json["error"].is_string());
        }
        assert_eq!(names(dir.path()), ["image"], "{name}");
    });
}

#[test]
fn every_cut_of_a_file_is_noticed_by_every_command() {
    let dir = tempdir().unwrap();
    let cut_file = dir.path().join("cut");
    let check = |tool: &str, name: &str, verbs: &[&[&str]]| {
        let whole = fs::read(golden(name)).unwrap();
        let ends = (0..12)
            .map(|n| whole.len() * n / 12)
            .chain([whole.len() - 1, 31, 4095, 4096]);
        for end in ends {
            fs::write(&cut_file, &whole[..end]).unwrap();
            for verb in verbs {
                let words = [&[tool], *verb, &[cut_file.to_str().unwrap()]].concat();
                let outcome: Outcome = walbc(&words);
                outcome.fails_with(&["cut"]);
            }
        }
    };
    let to = dir.path().join("out");
    let to = to.to_str().unwrap();
    check(
        "wlog",
        "w7a.chain.wlog",
        &[&["show"], &["verify"], &["to-wdiff", "-o", to]],
    );
    for name in ["w7a.sorted.wdiff", "w7b.indexed.wdiff"] {
        check("wdiff", name, &[&["show"], &["verify"], &["merge", "-o", to]]);
    }
    assert_eq!(names(dir.path()), ["cut"]);
}

#[test]
fn what_is_no_file_of_ours_is_told_from_a_damaged_one_by_its_name_at_least() {
    let dir = tempdir().unwrap();
    let (empty, text) = (dir.path().join("empty"), dir.path().join("text"));
    fs::write(&empty, "").unwrap();
    fs::write(&text, "walb ".repeat(4000)).unwrap();
    let missing = dir.path().join("missing");
    let paths: [&Path; 4] = [&empty, &text, &missing, dir.path()];
    for path in paths {
        let name = path.to_str().unwrap();
        for words in [
            ["wlog", "show", name],
            ["wlog", "verify", name],
            ["wdiff", "show", name],
            ["wdiff", "verify", name],
            ["log-device", "show", name],
            ["log-device", "verify", name],
        ] {
            walbc(&words).fails_with(&[name]);
        }
    }
}
