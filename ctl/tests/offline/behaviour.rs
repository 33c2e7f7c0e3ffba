//! What scripts rely on: outputs are whole or absent, pipes may close, statuses are 0 or 1, errors are one line.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::support::{command, golden, names, sha256, walbc};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_output_that_exists_is_replaced_only_when_forced_and_never_an_input() {
    let dir = tempdir().unwrap();
    let (source, wdiff, device) = (
        golden("w1.p512.wlog"),
        dir.path().join("a"),
        golden("l1.formatted.p512.ldev"),
    );
    fs::copy(golden("w1.p512.sorted.wdiff"), &wdiff).unwrap();
    let out = dir.path().join("out");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&wdiff, &link).unwrap();
    for words in [
        &["wlog", "to-wdiff", text(&source)][..],
        &["wdiff", "merge", text(&wdiff)],
        &["wdiff", "recompress", text(&wdiff), "--compression", "none"],
        &["log-device", "cat", text(&device)],
    ] {
        fs::write(&out, "precious").unwrap();
        let with = |more: &[&str]| walbc(&[words, more].concat());
        with(&["-o", text(&out)]).fails_with(&[text(&out), "exists already"]);
        assert_eq!(fs::read(&out).unwrap(), b"precious");
        with(&["-o", text(&out), "--force"]).ok();
        assert_ne!(fs::read(&out).unwrap(), b"precious");
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);

        with(&["-o", "/dev/null", "--force"]).fails_with(&["/dev/null", "no regular file"]);
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        with(&["-o", text(dir.path()), "--force"]).fails_with(&["no regular file"]);
        with(&["-o", "/nonexistent/out"]).fails_with(&["/nonexistent/out"]);
        let usage = with(&["-o", "-", "--json"]);
        assert!(
            usage.status == Some(1) && usage.stderr.starts_with("OptionError:"),
            "{usage:?}"
        );
    }
    let before = fs::read(&wdiff).unwrap();
    for same in [&wdiff, &link] {
        walbc(&["wdiff", "merge", text(&wdiff), "--force", "-o", text(same)])
            .fails_with(&["input and output"]);
    }
    assert!(fs::read(&wdiff).unwrap() == before);
    assert_eq!(names(dir.path()), ["a", "link", "out"]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_an_answer_quietly_and_cuts_a_stream() {
    // Larger than any pipe holds.
    let dir = tempdir().unwrap();
    let log = dir.path().join("logs");
    fs::write(&log, fs::read(golden("w8.many.wlog")).unwrap().repeat(20)).unwrap();
    let wdiff = golden("big.packlimit.sorted.wdiff");
    let first_bytes = |words: &[&str], count: usize| {
        let mut child = command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = vec![0; count];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (first, output.status.code())
    };
    let shown = walbc(&["wlog", "show", "--json", text(&log)]).ok();
    assert!(
        shown.len() > 200_000,
        "{} bytes would fit into a pipe",
        shown.len()
    );
    let (first, status) = first_bytes(&["wlog", "show", "--json", text(&log)], 10);
    assert_eq!((&first[..], status), (&shown[..10], Some(0)));
    let (first, status) = first_bytes(&["wlog", "show", text(&log)], 5);
    assert_eq!((&first[..], status), (&b"wlog "[..], Some(0)));
    let recompress = [
        "wdiff",
        "recompress",
        text(&wdiff),
        "--compression",
        "none",
        "-o",
        "-",
    ];
    assert_eq!(
        first_bytes(&recompress, 10).1,
        Some(1),
        "what the reader has is not whole"
    );
}

/// A file system of its own, of 1 MiB.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(
            mounted.unwrap().success(),
            "this test needs root, as the others with devices do"
        );
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind_and_is_told() {
    let small = Small::new();
    let out = small.0.path().join("out");
    let wdiff = golden("big.packlimit.sorted.wdiff");
    for layout in ["sorted", "indexed"] {
        let words = [
            "wdiff",
            "merge",
            text(&wdiff),
            "--compression",
            "none",
            "--layout",
            layout,
            "-o",
            text(&out),
        ];
        walbc(&words).fails_with(&["No space left on device"]);
        assert!(names(small.0.path()).is_empty());
    }
    fs::write(&out, "precious").unwrap();
    let words = [
        "wdiff",
        "recompress",
        text(&wdiff),
        "--compression",
        "none",
        "--force",
        "-o",
        text(&out),
    ];
    walbc(&words).fails_with(&["No space left on device"]);
    assert_eq!(
        fs::read(&out).unwrap(),
        b"precious",
        "what was there stays until the new one is whole"
    );
    assert_eq!(names(small.0.path()), ["out"]);
}

#[test]
fn a_failure_at_any_step_of_making_a_file_leaves_the_old_one_and_a_crash_no_half() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    // The second is so large that it is being written before it is complete.
    let small = ["wdiff", "merge", text(&golden("w1.p512.sorted.wdiff"))].map(str::to_owned);
    let large = ["wdiff", "recompress", text(&golden("big.packlimit.sorted.wdiff"))].map(str::to_owned);
    let with_fault = |words: &[String], fault: &str| {
        let more = ["--compression", "none", "--force", "-o", text(&out)].map(str::to_owned);
        let mut command = command(&[words, &more].concat());
        if !fault.is_empty() {
            command.env("WALB_FAULT", fault);
        }
        crate::support::run(command)
    };
    for (words, point, turn) in [
        (&small, "offline.out.before_sync", ""),
        (&small, "offline.out.before_rename", ""),
        (&small, "disk.direct_writer.write", ""),
        (&large, "disk.direct_writer.write", "@3"),
    ] {
        fs::write(&out, "precious").unwrap();
        for (action, told) in [
            ("eio", "Input/output error"),
            ("enospc", "No space left on device"),
        ] {
            with_fault(words, &format!("{point}={action}{turn}")).fails_with(&[told]);
            assert_eq!(
                (fs::read(&out).unwrap(), names(dir.path())),
                (b"precious".to_vec(), vec!["out".to_owned()])
            );
        }
        assert_eq!(with_fault(words, &format!("{point}=crash{turn}")).status, None);
        assert_eq!(fs::read(&out).unwrap(), b"precious");
        for name in names(dir.path()).iter().filter(|name| *name != "out") {
            assert!(
                name.starts_with("out.") && Path::new(name).extension().is_some_and(|e| e == "tmp"),
                "{name}"
            );
            fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
    with_fault(&small, "").ok();
    let whole = fs::read(&out).unwrap();
    fs::write(&out, "precious").unwrap();
    // Behind the rename it is there, but may not be durable: that is no success.
    with_fault(&small, "offline.out.before_dirsync=eio").fails_with(&["sync the directory"]);
    assert!(fs::read(&out).unwrap() == whole);
}

#[test]
fn a_crash_during_a_redo_is_healed_by_redoing_again() {
    let log = golden("l7.tornk.p512.ldev");
    let dir = tempdir().unwrap();
    let run = |name: &str, faults: &[&str]| {
        let (device, data) = (
            dir.path().join(format!("{name}.log")),
            dir.path().join(format!("{name}.data")),
        );
        fs::copy(&log, &device).unwrap();
        fs::write(&data, vec![0; 1 << 20]).unwrap();
        let words = ["log-device", "redo", text(&device), text(&data)].map(str::to_owned);
        for fault in faults {
            let mut command = command(&words);
            command.env("WALB_FAULT", fault);
            assert_eq!(crate::support::run(command).status, None, "{fault}");
        }
        walbc(&words).ok();
        (
            sha256(&fs::read(&device).unwrap()),
            sha256(&fs::read(&data).unwrap()),
        )
    };
    let undisturbed = run("undisturbed", &[]);
    for point in [
        "before_write=crash@2",
        "before_repair=crash",
        "before_data_sync=crash",
        "before_super_sector=crash",
    ] {
        let fault = format!("offline.redo.{point}");
        assert_eq!(run(point, &[&fault]), undisturbed, "{point}");
    }
}

/// A loop device over a file.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn over(file: PathBuf) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: this test needs root",
            String::from_utf8_lossy(&output.stderr)
        );
        let device = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Self { device, file }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[test]
fn block_devices_are_images_and_log_devices_too() {
    let dir = tempdir().unwrap();
    let make = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        Loop::over(path)
    };
    let log = make("log", &fs::read(golden("l5.driver.wrapped.p512.ldev")).unwrap());
    let data = make("data", &vec![0; 1 << 20]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(golden("manifest.json")).unwrap()).unwrap();
    let facts = |name: &str| {
        let vectors = manifest["vectors"].as_array().unwrap().iter();
        vectors.clone().find(|v| v["name"] == name).unwrap()["expect"].clone()
    };
    let expect = facts("l5.driver.wrapped.p512.ldev");
    let shown = walbc(&["log-device", "show", "--json", text(&log.device)]).json();
    assert_eq!(shown["log_from_oldest"], expect["log_from_oldest"]);
    let cat = walbc(&["log-device", "cat", text(&log.device), "-o", "-"]).ok();
    assert_eq!(sha256(&cat), expect["wlog_from_oldest_sha256"]);
    walbc(&["log-device", "redo", text(&log.device), text(&log.device)]).fails_with(&["log and as data"]);
    walbc(&["log-device", "redo", text(&log.device), text(&data.device)]).ok();
    assert_eq!(
        sha256(&fs::read(&data.file).unwrap()),
        expect["redo"]["discard_zero"]
    );
    let shown = walbc(&["log-device", "show", "--json", text(&log.device)]).json();
    assert_eq!(
        shown["super"]["written_lsid"],
        expect["redo"]["written_lsid_after"]
    );

    for (name, tool, verb) in [
        ("w1.p512.wlog", "wlog", "redo"),
        ("w1.p512.indexed.wdiff", "wdiff", "apply"),
    ] {
        let image = make(name, &vec![0; 1 << 20]);
        walbc(&[tool, verb, text(&golden(name)), text(&image.device)]).ok();
        let expected = &facts(name)["apply_to_zero_image_sha256"]["discard_zero"];
        assert_eq!(sha256(&fs::read(&image.file).unwrap()), *expected, "{name}");
    }
}

#[test]
fn an_image_in_use_is_refused() {
    let dir = tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let holder = fs::File::open(&image).unwrap();
    holder.lock().unwrap();
    for (name, tool, verb) in [
        ("w1.p512.wlog", "wlog", "redo"),
        ("w1.p512.sorted.wdiff", "wdiff", "apply"),
    ] {
        walbc(&[tool, verb, text(&golden(name)), text(&image)]).fails_with(&["image", "is in use"]);
    }
    drop(holder);
    assert!(fs::read(&image).unwrap() == vec![0; 1 << 20]);
}

#[test]
fn wrong_words_are_errors_of_usage_as_elsewhere() {
    let wdiff = golden("w1.p512.sorted.wdiff");
    for words in [
        &["wdiff"][..],
        &["wdiff", "show"],
        &["wdiff", "merge", "-o", "x"],
        &["wdiff", "merge", text(&wdiff)],
        &["wdiff", "merge", "-", "-", "-o", "x"],
        &["wdiff", "apply", text(&wdiff)],
        &["log-device", "cat", "x"],
        &["nothing"],
    ] {
        let outcome = walbc(words);
        assert_eq!((outcome.status, outcome.stdout.len()), (Some(1), 0), "{words:?}");
        assert!(
            outcome.stderr.starts_with("OptionError:") && outcome.stderr.lines().count() == 1,
            "{outcome:?}"
        );
    }
    for (option, value) in [
        ("--compression", "zip"),
        ("--compression", "lzma:9"),
        ("--max-io", "100"),
    ] {
        let words = [
            "wdiff",
            "merge",
            text(&wdiff),
            "-o",
            "/nonexistent/x",
            option,
            value,
        ];
        walbc(&words).fails_with(&["ERROR walbc error: offline", value]);
    }
}

#[test]
fn help_needs_nothing_and_has_an_example() {
    for words in [
        &["--help"][..],
        &["wlog", "--help"],
        &["log-device", "redo", "--help"],
    ] {
        let help = String::from_utf8(walbc(words).ok()).unwrap();
        assert!(help.contains("Example:\n  walbc offline "), "{help}");
    }
}
