//! Converting, merging, recompressing: what comes out is what the existing tools made of the same.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{each, golden, names, sha256, walbc, walbc_fed, zero_image};

fn show(path: &Path) -> Value {
    walbc(&[
        "wdiff".as_ref(),
        "show".as_ref(),
        "--json".as_ref(),
        path.as_os_str(),
    ])
    .json()
}

/// Address, size and kind of each record; of an indexed diff also the size of the image and the place in it.
fn shape(shown: &Value) -> Vec<Value> {
    let indexed = shown["header"]["type"] == "indexed";
    let records = shown["records"].as_array().unwrap().iter();
    records
        .map(|r| match indexed {
            true if r[9] == "--" => json!([r[0], r[1], r[5], r[6], r[9]]),
            true => json!([r[0], r[1], r[9]]),
            false => json!([r[0], r[1], r[6]]),
        })
        .collect()
}

fn layout(shown: &Value) -> String {
    shown["header"]["type"].as_str().unwrap().to_owned()
}

/// Applies a diff to zeros, both ways, and compares with the facts.
fn check_images(diff: &Path, facts: &Value, name: &str) -> usize {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image");
    let mut checked = 0;
    for (key, discard) in [("discard_zero", "zero"), ("discard_ignore", "ignore")] {
        let Some(expected) = facts[key].as_str() else {
            continue;
        };
        zero_image(&image, &facts["volume_bytes"]);
        let arguments = [
            "wdiff".as_ref(),
            "apply".as_ref(),
            diff.as_os_str(),
            image.as_os_str(),
            "--discard".as_ref(),
            discard.as_ref(),
        ];
        walbc(&arguments).ok();
        assert_eq!(
            sha256(&fs::read(&image).unwrap()),
            expected,
            "{name}, discards {discard}"
        );
        checked += 1;
    }
    checked
}

fn arguments(fixed: &[&str], paths: &[&Path]) -> Vec<OsString> {
    let fixed = fixed.iter().map(OsString::from);
    fixed
        .chain(paths.iter().map(|p| p.as_os_str().to_owned()))
        .collect()
}

#[test]
fn applying_a_wdiff_gives_the_image_of_the_existing_tools() {
    let mut checked = 0;
    each(&["wdiff", "wdiff-merge"], false, 48, |name, path, vector| {
        checked += check_images(path, &vector["expect"]["apply_to_zero_image_sha256"], name);
    });
    assert_eq!(checked, 91, "all images that are known");
}

#[test]
fn a_wlog_becomes_the_wdiff_the_existing_tools_made_of_it() {
    let mut converted = 0;
    each(&["wdiff"], false, 42, |name, path, vector| {
        let Some(source) = vector["source"].as_str() else {
            return;
        };
        let source = golden(source);
        let (dir, wanted) = (tempdir().unwrap(), show(path));
        let ours = dir.path().join("ours.wdiff");
        let max_io = vector["max_io_bytes"].as_u64().unwrap().to_string();
        let layout = layout(&wanted);
        let fixed = [
            "wlog", "to-wdiff", "--json", "--layout", &layout, "--max-io", &max_io,
        ];
        let told = walbc(&arguments(&fixed, &[&source, Path::new("-o"), &ours])).json();
        let shown = show(&ours);
        assert_eq!(shown["header"], wanted["header"], "{name}");
        assert!(shape(&shown) == shape(&wanted), "{name}: records differ");
        assert_eq!(told["records"], json!(shape(&shown).len()), "{name}");
        assert_eq!(told["bytes"], json!(fs::metadata(&ours).unwrap().len()), "{name}");
        check_images(&ours, &vector["expect"]["apply_to_zero_image_sha256"], name);

        let piped = [&fixed[..2], &fixed[3..], &["-", "-o", "-"]].concat();
        let piped = walbc_fed(&piped, &fs::read(&source).unwrap()).ok();
        assert!(piped == fs::read(&ours).unwrap(), "{name} through pipes");
        assert_eq!(names(dir.path()), ["ours.wdiff"]);
        converted += 1;
    });
    assert_eq!(converted, 25);
}

#[test]
fn logs_in_several_files_become_one_wdiff_if_they_follow_each_other() {
    let dir = tempdir().unwrap();
    let (a, b, c) = (
        golden("w7a.chain.wlog"),
        golden("w7b.chain.wlog"),
        golden("w7c.chain.wlog"),
    );
    for (layout, wanted) in [
        ("sorted", "w7.concat.sorted.wdiff"),
        ("indexed", "w7.concat.indexed.wdiff"),
    ] {
        let ours = dir.path().join(layout);
        let fixed = ["wlog", "to-wdiff", "--json", "--layout", layout];
        let told = walbc(&arguments(&fixed, &[&a, &b, &c, Path::new("-o"), &ours])).json();
        let (shown, wanted) = (show(&ours), show(&golden(wanted)));
        assert!(shape(&shown) == shape(&wanted) && shown["header"] == wanted["header"]);
        assert!(told["begin_lsid"].as_u64() < told["end_lsid"].as_u64());
    }
    let out = dir.path().join("none");
    let to_wdiff = |files: &[&Path]| {
        walbc(&arguments(
            &["wlog", "to-wdiff", "-o", out.to_str().unwrap()],
            files,
        ))
    };
    to_wdiff(&[&a, &c]).fails_with(&["w7c.chain.wlog", "starts at lsid", "ended at"]);
    to_wdiff(&[&b, &a]).fails_with(&["w7a.chain.wlog", "starts at lsid"]);
    to_wdiff(&[&a, &golden("w1.p512.wlog")]).fails_with(&["w1.p512.wlog", "uuid"]);
    assert_eq!(names(dir.path()), ["indexed", "sorted"]);
}

#[test]
fn merging_gives_what_the_existing_tools_merged() {
    each(&["wdiff-merge"], false, 6, |name, path, vector| {
        let inputs: Vec<_> = vector["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| golden(i.as_str().unwrap()))
            .collect();
        let inputs: Vec<&Path> = inputs.iter().map(AsRef::as_ref).collect();
        let facts = &vector["expect"]["apply_to_zero_image_sha256"];
        let (dir, wanted) = (tempdir().unwrap(), show(path));
        let max_io = vector["max_io_bytes"].as_u64().unwrap().to_string();
        for kind in ["none", "snappy", "gzip:9", "lzma:1", "lz4", "zstd:3"] {
            let ours = dir.path().join(kind);
            let out = ours.to_str().unwrap();
            let fixed = [
                "wdiff",
                "merge",
                "--pieces",
                "--compression",
                kind,
                "--max-io",
                &max_io,
                "-o",
                out,
            ];
            let told = walbc(&arguments(&[&fixed[..], &["--json"]].concat(), &inputs)).json();
            let shown = show(&ours);
            assert!(shape(&shown) == shape(&wanted), "{name}, {kind}: records differ");
            assert_eq!(told["records"], json!(shape(&shown).len()));
            check_images(&ours, facts, name);
        }
        let indexed = dir.path().join("indexed");
        let fixed = [
            "wdiff",
            "merge",
            "--layout",
            "indexed",
            "-o",
            indexed.to_str().unwrap(),
        ];
        walbc(&arguments(&fixed, &inputs)).ok();
        let shown = show(&indexed);
        assert_eq!(layout(&shown), "indexed");
        for record in shown["records"].as_array().unwrap() {
            let (address, blocks) = (record[0].as_u64().unwrap(), record[1].as_u64().unwrap());
            assert!(
                blocks.is_power_of_two() && address.is_multiple_of(blocks),
                "{name}: {record}"
            );
        }
        walbc(&arguments(&["wdiff", "verify"], &[&indexed])).ok();
        check_images(&indexed, facts, name);

        let joined = dir.path().join("joined");
        let fixed = ["wdiff", "merge", "-o", joined.to_str().unwrap()];
        walbc(&arguments(&fixed, &inputs)).ok();
        assert!(shape(&show(&joined)).len() <= shape(&wanted).len(), "{name}");
        check_images(&joined, facts, name);
    });
}

#[test]
fn a_merge_keeps_the_uuid_its_inputs_share_and_reads_one_of_them_from_a_pipe() {
    let (a, b, other) = (
        golden("w7a.sorted.wdiff"),
        golden("w7b.indexed.wdiff"),
        golden("w1.p512.sorted.wdiff"),
    );
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let merge = [
        "wdiff",
        "merge",
        "--pieces",
        "-o",
        out.to_str().unwrap(),
        "--force",
    ];
    walbc(&arguments(&merge, &[&a, &b])).ok();
    let shown = show(&out);
    assert_eq!(shown["header"]["uuid"], show(&a)["header"]["uuid"]);
    assert!(shape(&shown) == shape(&show(&golden("m1.ab.wdiff"))));

    let piped = walbc_fed(
        &arguments(&["wdiff", "merge", "--pieces", "-o", "-", "-"], &[&b]),
        &fs::read(&a).unwrap(),
    )
    .ok();
    assert!(piped == fs::read(&out).unwrap());
    walbc_fed(
        &arguments(&["wdiff", "merge", "-o", "-"], &[&a, Path::new("-")]),
        &fs::read(&b).unwrap(),
    )
    .fails_with(&["indexed", "pipe", "Name the file"]);

    walbc(&arguments(&merge, &[&a, &other])).ok();
    assert_eq!(show(&out)["header"]["uuid"], "00000000000000000000000000000000");
}

#[test]
fn more_diffs_than_files_may_usually_be_open_are_merged() {
    let (a, b) = (golden("w7a.sorted.wdiff"), golden("w7b.indexed.wdiff"));
    let mut paths = vec![a.as_path(); 1500];
    paths.push(&b);
    let words = arguments(&["wdiff", "merge", "-o", "-"], &paths);
    let mut limited = std::process::Command::new("sh");
    limited.args([
        "-c",
        "ulimit -Sn 1024; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_walbc"),
        "offline",
    ]);
    limited.args(words);
    let merged = crate::support::run(limited).ok();
    let of_two = walbc(&arguments(&["wdiff", "merge", "-o", "-"], &[&a, &b])).ok();
    assert!(merged == of_two);
}

#[test]
fn recompressing_changes_nothing_but_the_stored_form() {
    let dir = tempdir().unwrap();
    for name in [
        "w1.p512.sorted.wdiff",
        "w1.p512.indexed.wdiff",
        "c6.overlapshapes.indexed.wdiff",
        "w1.cmpr-lzma9.sorted.wdiff",
        "c1.cmpr-zstd.indexed.wdiff",
        "w4.rand.sorted.wdiff",
        "w6.empty.p512.indexed.wdiff",
    ] {
        let (path, wanted) = (golden(name), show(&golden(name)));
        let reference = merged_raw(&path);
        for kind in ["none", "snappy", "gzip", "lzma", "lz4", "zstd:9"] {
            let ours = dir.path().join("out");
            let fixed = [
                "wdiff",
                "recompress",
                "--force",
                "--compression",
                kind,
                "-o",
                ours.to_str().unwrap(),
            ];
            walbc(&arguments(&fixed, &[&path])).ok();
            let shown = show(&ours);
            assert_eq!(shown["header"], wanted["header"], "{name}");
            assert!(shape(&shown) == shape(&wanted), "{name} as {kind}");
            walbc(&arguments(&["wdiff", "verify"], &[&ours])).ok();
            assert!(merged_raw(&ours) == reference, "{name} as {kind}: data differ");
            let plain = kind.split(':').next().unwrap();
            let records = shown["records"].as_array().unwrap();
            assert!(
                records.iter().all(|r| r[2] == plain || r[2] == "none"),
                "{name} as {kind}"
            );
            // Records that shared an image still do: as many images as before.
            let images = |shown: &Value| {
                let records = shown["records"].as_array().unwrap().iter();
                let mut places: Vec<_> = records.filter(|r| r[4] != 0).map(|r| r[3].as_u64()).collect();
                places.sort_unstable();
                places.dedup();
                places.len()
            };
            if layout(&shown) == "indexed" {
                assert_eq!(images(&shown), images(&wanted), "{name} as {kind}");
            }
        }
    }
}

/// The diff as a sorted one without compression: bytes that depend on its records and data only.
fn merged_raw(path: &Path) -> Vec<u8> {
    walbc(&arguments(
        &["wdiff", "merge", "--compression", "none", "-o", "-"],
        &[path],
    ))
    .ok()
}
