//! Goal: the benches cannot rot. Method: a short run of each; what they measure is not judged.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::process::Command;

use walb_tests::binaries;

fn bench(arguments: &[&str]) -> String {
    let output = Command::new(binaries::path("walb-bench"))
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arguments:?}: {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_format_is_measured_and_no_file_stays() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let printed = bench(&[
        "formats", "--sizes", "16m", "--rounds", "1", "--json", "--dir", dir_text,
    ]);
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for table in json["tables"].as_array().unwrap() {
        for row in table["rows"].as_array().unwrap() {
            let cpu = row["median"]["cpu_seconds"].as_f64().unwrap();
            assert!(cpu > 0.0, "{row}");
            *rows.entry(table["work"].as_str().unwrap()).or_default() += 1;
        }
    }
    // Each with its yardsticks.
    let expected = [
        ("apply", 10),
        ("image-hash", 2),
        ("merge", 16),
        ("restore", 4),
        ("wlog-to-wdiff", 25),
    ];
    assert_eq!(rows, expected.into());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_stages_of_the_flow_are_measured() {
    let printed = bench(&["flow", "--size-mib", "16", "--rounds", "1"]);
    for stage in ["lz4 -b1", "log read", "convert", "merge (10 wdiffs", "TLS stream"] {
        assert!(printed.contains(stage), "{stage} is not in {printed}");
    }
}

#[test]
fn every_device_is_measured_in_every_mode() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let printed = bench(&[
        "device",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--size",
        "64m",
        "--json",
        "--dir",
        dir_text,
    ]);
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6 * 8);
    for row in rows {
        assert!(row["median"]["iops"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_guest_is_measured_beside_its_backup() {
    let printed = bench(&[
        "device-backup",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--size",
        "32m",
        "--json",
    ]);
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 3);
    for row in rows {
        assert!(row["median"]["latency_us"][0].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn large_writes_cost_twice_their_bytes_and_the_log_is_read_back() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let printed = bench(&[
        "device-bytes",
        "--amount",
        "16m",
        "--size",
        "128m",
        "--json",
        "--dir",
        dir_text,
    ]);
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 5);
    for row in rows {
        let (log, data) = (row["log"].as_f64().unwrap(), row["data"].as_f64().unwrap());
        // Every byte once in the log; twice at most with a block of header for each block.
        assert!((1.0..=2.2).contains(&log), "{row}");
        if row["mode"] == "1 MiB sequential, qd 4" {
            assert!(log < 1.15 && (0.95..1.2).contains(&data), "{row}");
        }
    }
    for read in json["log_reads"].as_array().unwrap() {
        assert!(read["ours"].as_f64().unwrap() > 0.0, "{read}");
    }
}
