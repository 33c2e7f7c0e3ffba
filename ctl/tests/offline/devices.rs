//! Log devices of the existing tools and of the kernel driver, in every state they were left in.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{each, each_of_driver, golden, names, sha256, walbc, zero_image};

fn log_device(arguments: &[&str], paths: &[&Path]) -> crate::support::Outcome {
    let mut words = vec!["log-device"];
    words.extend(arguments);
    words.extend(paths.iter().map(|p| p.to_str().unwrap()));
    walbc(&words)
}

fn each_device(mut check: impl FnMut(&str, &Path, &Value)) {
    each(&["ldev"], false, 24, |name, path, vector| {
        check(name, path, vector);
    });
    each_of_driver(|name, images, vector| check(name, &images.log, vector));
}

/// Lsids of intact headers behind the end of the log, found by looking at every block there.
fn stale(device: &[u8], vector: &Value) -> Vec<u64> {
    let expect = &vector["expect"];
    let fact = |key: &str| expect["super"][key].as_u64().unwrap();
    let (pbs, size, salt) = (fact("pbs"), fact("ring_buffer_size"), fact("salt"));
    let live_from = if expect["verdict"] == "overflow" {
        fact("written_lsid")
    } else {
        fact("oldest_lsid")
    };
    let end = expect["redo"]["written_lsid_after"].as_u64().unwrap();
    let is_header = |lsid: &u64| {
        let place = usize::try_from((fact("ring_buffer_offset") + lsid % size) * pbs).unwrap();
        let block = &device[place..][..usize::try_from(pbs).unwrap()];
        let words = block.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap()));
        let sum = words.fold(u32::try_from(salt).unwrap(), u32::wrapping_add);
        sum == 0 && block[4..6] == [3, 0] && block[8..16] == lsid.to_le_bytes()
    };
    let found: Vec<u64> = (end..live_from + size).filter(is_header).collect();
    if let Value::Array(known) = &vector["stale_valid_headers_at"] {
        assert_eq!(known, json!(found).as_array().unwrap());
    }
    found
}

#[test]
fn verify_tells_sound_torn_and_overflowed_logs_apart() {
    let mut verdicts = [0; 3];
    each_device(|name, path, vector| {
        let expect = &vector["expect"];
        let before = fs::read(path).unwrap();
        let outcome = log_device(&["verify", "--json"], &[path]);
        match expect["verdict"].as_str().unwrap() {
            "overflow" => {
                outcome.fails_with(&[
                    name,
                    "has overflowed",
                    &expect["super"]["oldest_lsid"].to_string(),
                ]);
                let json: Value = serde_json::from_slice(&outcome.stdout).unwrap();
                assert_eq!(json["ok"], false);
                verdicts[0] += 1;
            }
            verdict => {
                let json = outcome.json();
                assert_eq!(
                    (&json["ok"], json["verdict"].as_str()),
                    (&Value::Bool(true), Some(verdict)),
                    "{name}"
                );
                assert_eq!(json["torn"], expect["torn"], "{name}");
                assert_eq!(
                    json["latest_lsid"], expect["redo"]["written_lsid_after"],
                    "{name}"
                );
                let stale = stale(&before, vector);
                assert_eq!(json["stale_headers"], json!(stale), "{name}");
                verdicts[if verdict == "torn" { 1 } else { 2 }] += 1;
            }
        }
        assert!(fs::read(path).unwrap() == before, "{name} is only read");
    });
    assert_eq!(verdicts.iter().sum::<i32>(), 49);
    assert!(verdicts.iter().all(|&n| n > 1), "{verdicts:?}");
}

#[test]
fn the_log_is_copied_byte_for_byte_as_the_existing_tools_copy_it() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out.wlog");
    each_device(|name, path, vector| {
        let expect = &vector["expect"];
        let arguments = ["cat", "--json", "--force", "-o", out.to_str().unwrap()];
        let outcome = log_device(&arguments, &[path]);
        if expect["verdict"] == "overflow" {
            return outcome.fails_with(&[name, "has overflowed"]);
        }
        let told = outcome.json();
        let wlog = fs::read(&out).unwrap();
        assert_eq!(sha256(&wlog), expect["wlog_from_oldest_sha256"], "{name}");
        assert_eq!(told["end_lsid"], expect["log_end_lsid"], "{name}");
        assert_eq!(told["torn"], expect["torn"], "{name}");
        let streamed = log_device(&["cat", "-o", "-"], &[path]).ok();
        assert!(streamed == wlog, "{name} to stdout");
        walbc(&["wlog", "verify", out.to_str().unwrap()]).ok();
        assert_eq!(names(dir.path()), ["out.wlog"]);
    });
}

#[test]
fn a_copy_from_another_lsid_begins_at_a_pack_or_not_at_all() {
    let device = golden("l5.driver.wrapped.p512.ldev");
    let shown = log_device(&["show", "--json"], &[&device]).json();
    let packs = shown["log_from_oldest"].as_array().unwrap();
    let (oldest, end) = (
        shown["super"]["oldest_lsid"].as_u64().unwrap(),
        shown["log_end_lsid"].as_u64().unwrap(),
    );
    assert!(packs.len() > 2 && packs[0]["lsid"] == oldest);
    let dir = tempdir().unwrap();
    let out = dir.path().join("out.wlog");
    let cat = |from: u64| {
        let from = from.to_string();
        log_device(
            &["cat", "--force", "--from", &from, "-o", out.to_str().unwrap()],
            &[&device],
        )
    };
    for (n, pack) in packs.iter().enumerate() {
        cat(pack["lsid"].as_u64().unwrap()).ok();
        let wlog = walbc(&["wlog", "show", "--json", out.to_str().unwrap()]).json();
        assert_eq!(wlog["packs"].as_array().unwrap(), &packs[n..]);
        assert_eq!(wlog["header"]["begin_lsid"], pack["lsid"]);
    }
    cat(end).ok();
    let wlog = walbc(&["wlog", "show", "--json", out.to_str().unwrap()]).json();
    assert_eq!(
        (wlog["packs"].as_array().unwrap().len(), &wlog["real_end_lsid"]),
        (0, &Value::from(end))
    );
    fs::remove_file(&out).unwrap();
    cat(oldest - 1).fails_with(&["was released", &oldest.to_string()]);
    cat(oldest + 1).fails_with(&["no pack starts at lsid"]);
    cat(end + 1).fails_with(&["no pack starts at lsid", &end.to_string()]);
    assert!(names(dir.path()).is_empty());
}

/// Blocks of 512 bytes that differ.
fn changed_blocks(before: &[u8], after: &[u8]) -> Vec<usize> {
    assert_eq!(before.len(), after.len());
    let pairs = before.chunks(512).zip(after.chunks(512)).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect()
}

#[test]
fn redo_brings_any_data_device_to_the_end_of_the_log() {
    let check = |name: &str, path: &Path, vector: &Value, data_image: Option<&PathBuf>| {
        let expect = &vector["expect"];
        let (facts, dir) = (&expect["redo"], tempdir().unwrap());
        let (log, data) = (dir.path().join("log"), dir.path().join("data"));
        for (key, discard) in [("discard_zero", "zero"), ("discard_ignore", "ignore")] {
            let redo = || log_device(&["redo", "--json", "--discard", discard], &[&log, &data]);
            fs::copy(path, &log).unwrap();
            zero_image(&data, &facts["volume_bytes"]);
            let told = redo().json();
            let redone = fs::read(&data).unwrap();
            assert_eq!(sha256(&redone), facts[key], "{name}, discards {discard}");
            assert_eq!(told["written_lsid_after"], facts["written_lsid_after"], "{name}");
            assert_eq!(told["torn"], expect["torn"], "{name}");
            assert_eq!(told["overflow"], expect["verdict"] == "overflow", "{name}");
            let stale = stale(&fs::read(path).unwrap(), vector);
            assert_eq!(told["cleared"], json!(stale), "{name}");

            // On the log device: the super sector, the header of the torn pack, stale headers. Nothing else.
            let repairs = usize::from(expect["torn"]["record"].as_u64().is_some_and(|r| r > 0)) + stale.len();
            let pbs = usize::try_from(vector["pbs"].as_u64().unwrap()).unwrap();
            let after = fs::read(&log).unwrap();
            let mut places: Vec<_> = changed_blocks(&fs::read(path).unwrap(), &after)
                .iter()
                .map(|n| n * 512 / pbs)
                .collect();
            places.dedup();
            places.retain(|place| place * pbs != 4096);
            assert_eq!(places.len(), repairs, "{name}: {places:?}");

            // Now there is nothing left to redo, and nothing torn or stale.
            let shown = log_device(&["show", "--json"], &[&log]).json();
            assert_eq!(
                shown["super"]["written_lsid"], facts["written_lsid_after"],
                "{name}"
            );
            assert_eq!(
                shown["super"]["oldest_lsid"], expect["super"]["oldest_lsid"],
                "{name}"
            );
            if expect["verdict"] != "overflow" {
                let checked = log_device(&["verify", "--json"], &[&log]).json();
                assert_eq!(
                    (
                        checked["verdict"].as_str(),
                        checked["stale_headers"].as_array().map(Vec::len)
                    ),
                    (Some("ok"), Some(0))
                );
            }
            let again = redo().json();
            assert_eq!(
                (again["packs"].as_u64(), again["written"].as_u64()),
                (Some(0), Some(0)),
                "{name}"
            );
            assert!(
                fs::read(&data).unwrap() == redone && fs::read(&log).unwrap() == after,
                "{name} again"
            );

            if let Some(headers) = facts["headers_after_from_written"].as_array() {
                let log_now = shown["log_from_oldest"].as_array().unwrap();
                let written = expect["super"]["written_lsid"].as_u64();
                if expect["verdict"] != "overflow" {
                    let from_written: Vec<_> = log_now
                        .iter()
                        .filter(|p| p["lsid"].as_u64() >= written)
                        .cloned()
                        .collect();
                    assert_eq!(&from_written, headers, "{name}");
                }
            }
            if let Some(image) = data_image {
                fs::copy(path, &log).unwrap();
                fs::copy(image, &data).unwrap();
                redo().json();
                let found = sha256(&fs::read(&data).unwrap());
                assert_eq!(
                    found, expect["redo_on_data_image"][key],
                    "{name}, its own data device, {discard}"
                );
            }
        }
    };
    each(&["ldev"], false, 24, |name, path, vector| {
        check(name, path, vector, None);
    });
    each_of_driver(|name, images, vector| check(name, &images.log, vector, Some(&images.data)));
}

#[test]
fn a_stale_pack_behind_a_torn_one_can_never_come_back() {
    let mut seen = 0;
    each_of_driver(|name, images, vector| {
        let Some(places) = vector["stale_valid_headers_at"].as_array() else {
            return;
        };
        let told = log_device(&["redo", "--json"], &[&images.log, &images.data]).json();
        assert_eq!(told["cleared"].as_array().unwrap(), places, "{name}");
        seen += 1;
    });
    assert_eq!(seen, 2);
}

#[test]
fn redo_refuses_what_does_not_belong_together() {
    let dir = tempdir().unwrap();
    let (log, data) = (dir.path().join("log"), dir.path().join("data"));
    let golden_log = golden("l5.driver.wrapped.p512.ldev");
    fs::copy(&golden_log, &log).unwrap();
    let volume = 2048 * 512;
    fs::write(&data, vec![7; volume - 512]).unwrap();
    log_device(&["redo"], &[&log, &data]).fails_with(&["2047 blocks", "2048"]);
    log_device(&["redo"], &[&log, &log]).fails_with(&["log and as data device"]);
    log_device(&["redo"], &[&log, dir.path()]).fails_with(&["neither a regular file nor a block device"]);
    log_device(&["redo"], &[&data, &log]).fails_with(&["data", "super sector"]);
    assert!(fs::read(&data).unwrap() == vec![7; volume - 512]);
    assert!(fs::read(&log).unwrap() == fs::read(&golden_log).unwrap());
}

#[test]
fn bad_super_sectors_are_refused_by_every_command() {
    let dir = tempdir().unwrap();
    let (out, data) = (dir.path().join("out"), dir.path().join("data"));
    each(&["ldev"], true, 6, |name, path, _| {
        fs::write(&data, vec![7; 1 << 20]).unwrap();
        let log = dir.path().join(name);
        fs::copy(path, &log).unwrap();
        for (arguments, paths) in [
            (&["show"][..], &[log.as_path()][..]),
            (&["verify"], &[&log]),
            (&["cat", "-o", out.to_str().unwrap()], &[&log]),
            (&["redo"], &[&log, &data]),
        ] {
            // A file has no physical block size of its own that a wrong one could be compared with: the ring gives it away.
            let what = if name == "l9.badsuper-pbs.ldev" {
                "ring ends at byte"
            } else {
                "super sector"
            };
            log_device(arguments, paths).fails_with(&[name, what]);
        }
        assert!(
            fs::read(&log).unwrap() == fs::read(path).unwrap()
                && fs::read(&data).unwrap() == vec![7; 1 << 20]
        );
        fs::remove_file(&log).unwrap();
        assert_eq!(names(dir.path()), ["data"]);
    });
}

#[test]
fn damage_inside_the_log_is_not_taken_for_a_torn_end() {
    let device = golden("l5.driver.wrapped.p512.ldev");
    let shown = log_device(&["show", "--json"], &[&device]).json();
    let facts = |key: &str| shown["super"][key].as_u64().unwrap();
    let (first, size, written) = (
        facts("ring_buffer_offset"),
        facts("ring_buffer_size"),
        facts("written_lsid"),
    );
    // The first pack from the oldest lsid that has a write, below the written lsid.
    let packs = shown["log_from_oldest"].as_array().unwrap();
    let mut records = packs.iter().flat_map(|p| p["records"].as_array().unwrap());
    let record = records.find(|r| r[4] == "E--").unwrap();
    let lsid = record[0].as_u64().unwrap();
    assert!(lsid < written);
    let place = usize::try_from((first + lsid % size) * 512).unwrap();
    let mut bytes = fs::read(&device).unwrap();
    bytes[place] ^= 1;
    let dir = tempdir().unwrap();
    let (log, out) = (dir.path().join("log"), dir.path().join("out"));
    fs::write(&log, bytes).unwrap();
    log_device(&["verify"], &[&log]).fails_with(&[
        "is damaged",
        "below its written lsid",
        &format!("lsid {lsid}"),
    ]);
    log_device(&["cat", "-o", out.to_str().unwrap()], &[&log]).fails_with(&["damaged", &written.to_string()]);
    assert_eq!(
        log_device(&["show", "--json"], &[&log]).json()["verdict"],
        "damaged"
    );
    assert_eq!(names(dir.path()), ["log"]);
}
