//! `wlog redo`: the image is what the existing tools make of it, and nothing else is touched.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::support::{each, golden, names, sha256, walbc, walbc_fed, zero_image};

#[test]
fn redoing_a_wlog_gives_the_image_of_the_existing_tools() {
    let mut checked = 0;
    each(&["wlog", "wlog-stream"], false, 19, |name, path, vector| {
        let facts = &vector["expect"]["apply_to_zero_image_sha256"];
        for (key, discard) in [("discard_zero", "zero"), ("discard_ignore", "ignore")] {
            let Some(expected) = facts[key].as_str() else {
                continue;
            };
            let dir = tempdir().unwrap();
            let image = dir.path().join("image");
            zero_image(&image, &facts["volume_bytes"]);
            let mut arguments = vec!["wlog", "redo", path.to_str().unwrap(), image.to_str().unwrap()];
            arguments.extend(["--discard", discard]);
            if name == "c4.hugediscard.wlog" && discard == "zero" {
                // It has discards beyond the end, which the existing tools skip without a word.
                walbc(&arguments).fails_with(&["c4.hugediscard.wlog", "ends at block", "is unchanged"]);
                assert!(fs::read(&image).unwrap().iter().all(|&b| b == 0));
                arguments.push("--skip-beyond-end");
            }
            walbc(&arguments).ok();
            let first = fs::read(&image).unwrap();
            assert_eq!(sha256(&first), expected, "{name}, discards {discard}");
            arguments[2] = "-";
            walbc_fed(&arguments, &fs::read(path).unwrap()).ok();
            assert!(fs::read(&image).unwrap() == first, "{name} again, from a pipe");
            assert_eq!(names(dir.path()), ["image"]);
            checked += 1;
        }
    });
    assert_eq!(checked, 37);
}

/// Runs `command FILE IMAGE` with an image one block too small, and one that is just large enough.
fn fits_exactly_or_is_refused(command: [&str; 2], file: &Path, blocks: u64) {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image");
    let arguments = [
        command[0],
        command[1],
        file.to_str().unwrap(),
        image.to_str().unwrap(),
    ];
    let filled = vec![0x5a; usize::try_from(blocks * 512).unwrap()];
    fs::write(&image, &filled[512..]).unwrap();
    walbc(&arguments).fails_with(&["is unchanged", &format!("ends at block {blocks}")]);
    assert!(fs::read(&image).unwrap() == filled[512..], "untouched");
    fs::write(&image, &filled).unwrap();
    walbc(&arguments).ok();
    assert_eq!(
        fs::metadata(&image).unwrap().len(),
        blocks * 512,
        "it does not grow"
    );
    assert!(fs::read(&image).unwrap() != filled);
}

#[test]
fn an_image_that_is_too_small_is_refused_before_anything_is_changed() {
    let end_of_records = |name: &str, tool: &str| -> u64 {
        let path = golden(name);
        let shown = walbc(&[tool, "show", "--json", path.to_str().unwrap()]).json();
        let lists: Vec<_> = match shown["packs"].as_array() {
            Some(packs) if tool == "wlog" => packs.iter().map(|p| &p["records"]).collect(),
            _ => vec![&shown["records"]],
        };
        let (at, size) = if tool == "wlog" { (2, 3) } else { (0, 1) };
        let records = lists.into_iter().flat_map(|l| l.as_array().unwrap());
        records
            .map(|r| r[at].as_u64().unwrap() + r[size].as_u64().unwrap())
            .max()
            .unwrap()
    };
    for (name, tool, verb) in [
        ("w1.p512.wlog", "wlog", "redo"),
        ("w2.p4096.wlog", "wlog", "redo"),
        ("w1.p512.sorted.wdiff", "wdiff", "apply"),
        ("w1.p512.indexed.wdiff", "wdiff", "apply"),
    ] {
        fits_exactly_or_is_refused([tool, verb], &golden(name), end_of_records(name, tool));
    }
}

#[test]
fn several_diffs_are_applied_oldest_first() {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image");
    each(&["wdiff-merge"], false, 6, |name, _, vector| {
        let facts = &vector["expect"]["apply_to_zero_image_sha256"];
        zero_image(&image, &facts["volume_bytes"]);
        let inputs = vector["inputs"].as_array().unwrap().iter();
        let mut arguments = vec!["wdiff".into(), "apply".into()];
        arguments.extend(inputs.map(|i| golden(i.as_str().unwrap()).into_os_string()));
        arguments.push(image.clone().into_os_string());
        walbc(&arguments).ok();
        assert_eq!(
            sha256(&fs::read(&image).unwrap()),
            facts["discard_zero"],
            "{name}"
        );
    });
}
