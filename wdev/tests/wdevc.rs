//! Goal: scripts written for the existing `wdevc` find its commands, outputs and exit codes. Method: run the binaries.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

struct Place {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in [("log", 1 << 20), ("data", 2 << 20)] {
            File::create(dir.path().join(name))
                .unwrap()
                .set_len(size)
                .unwrap();
        }
        Self { dir, daemon: None }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn wdevc(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wdevc"));
        command
            .args(args)
            .current_dir(self.path())
            .env("WALB_WDEV_SOCKET", self.path().join("control"));
        command.output().unwrap()
    }

    /// Standard output of a command that succeeds.
    fn good(&self, args: &[&str]) -> String {
        let output = self.wdevc(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line on standard error of a command that fails.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.wdevc(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), text.lines().count()),
            (Some(1), 1),
            "{args:?}: {text}"
        );
        assert!(
            output.stdout.is_empty() && text.contains(" ERROR wdevc:"),
            "{text}"
        );
        text
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walb-wdev"));
        command
            .arg("--dir")
            .arg(self.path().join("state"))
            .arg("--socket")
            .arg(self.path().join("control"));
        self.daemon = Some(command.env("WALB_LOG", "error").spawn().unwrap());
        // The socket accepts before the devices are open; calls wait there.
        while !self.path().join("control").exists() || !self.wdevc(&["list"]).status.success() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

#[test]
fn an_answer_nobody_reads_is_no_failure_and_one_that_cannot_be_written_is_told() {
    let place = Place::new();
    let format = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wdevc"));
        command
            .args(["format-ldev", "log", "data"])
            .current_dir(place.path())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(format(Stdio::from(writer)), (Some(0), String::new()));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (code, text) = format(Stdio::from(full));
    assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
    assert!(
        text.contains("ERROR wdevc:write to stdout: No space left"),
        "{text}"
    );
}

#[test]
fn format_prints_the_super_block_as_the_existing_tool_does() {
    let place = Place::new();
    let out = place.good(&["format-ldev", "log", "data", "-n", "vol0", "-nd", "-pbs", "4096"]);
    let keys: Vec<_> = out.lines().map(|l| l.split(": ").next().unwrap()).collect();
    let expected = "sectorType version checksum lbs pbs metadataSize salt name ringBufferSize oldestLsid writtenLsid \
                    deviceSize ringBufferOffset uuid";
    assert_eq!(keys.join(" ").trim_end(), expected);
    for line in [
        "pbs: 4096",
        "name: vol0",
        "ringBufferSize: 253",
        "deviceSize: 4096",
        "ringBufferOffset: 3",
    ] {
        assert!(out.lines().any(|l| l == line), "{line} in {out}");
    }
    assert!(out.ends_with("\n\n"));
    assert!(
        place
            .good(&["format-ldev", "log", "data"])
            .lines()
            .any(|l| l == "name: ")
    );
}

#[test]
fn a_device_lives_through_its_commands() {
    let mut place = Place::new();
    assert!(place.bad(&["list"]).contains("connect to walb-wdev at"));
    place.good(&["format-ldev", "log", "data", "-n", "vol0"]);
    place.start();
    let created = place.good(&[
        "create-wdev",
        "log",
        "data",
        "-maxl",
        "32",
        "-maxp",
        "32",
        "-minp",
        "16",
        "-bi",
        "1024",
    ]);
    assert_eq!(created, "name vol0\nmajor 0\nminor 0\n");
    assert_eq!(place.good(&["list"]), "0 0 walb/vol0\n");
    assert!(place.bad(&["format-ldev", "log", "data"]).contains("in use"));
    let refused = place.bad(&["create-wdev", "log", "data", "-n", "vol1"]);
    assert!(
        refused.contains("wdevc:device vol1: ") && refused.contains("in use"),
        "{refused}"
    );
    for (command, expected) in [
        ("get-oldest-lsid", "0"),
        ("get-written-lsid", "0"),
        ("get-permanent-lsid", "0"),
        ("get-completed-lsid", "0"),
        ("get-log-usage", "0"),
        ("get-log-capacity", "2038"),
        ("is-log-overflow", "0"),
        ("is-flush-capable", "1"),
        ("is-flozen", "0"),
        ("get-checkpoint-interval", "10000"),
    ] {
        for wdev in ["vol0", "wdev:vol0"] {
            assert_eq!(place.good(&[command, wdev]).trim_end(), expected, "{command}");
        }
    }
    for args in [
        &["freeze", "vol0"][..],
        &["force-checkpoint", "vol0"],
        &["melt", "vol0"],
        &["set-checkpoint-interval", "vol0", "5000"],
        &["set-oldest-lsid", "vol0", "0"],
        &["clear-wal", "vol0", "10"],
        &["reset-wal", "vol0"],
        &["resize", "vol0"],
        &["forget-changed", "vol0"],
        &["set-on-ring-full", "vol0", "throttle"],
    ] {
        assert_eq!(place.good(args), "", "{args:?}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&place.good(&["get-status", "vol0", "--json"])).unwrap();
    assert_eq!(
        (&status["checkpoint_interval_ms"], &status["pbs"]),
        (&5000.into(), &512.into())
    );
    assert_eq!(
        (&status["on_ring_full"], &status["changed_bytes"]),
        (&"throttle".into(), &0.into())
    );
    let stored = std::fs::read_to_string(place.path().join("state/devices/vol0.toml")).unwrap();
    assert!(stored.contains("on_ring_full = \"throttle\""), "{stored}");
    let uuid = status["uuid"].as_str().unwrap();
    assert_eq!(place.good(&["get-changed", "vol0"]), format!("{uuid} 0 16 0\n"));
    let changed: serde_json::Value =
        serde_json::from_str(&place.good(&["get-changed", "vol0", "--json"])).unwrap();
    assert_eq!(
        (&changed["base_uuid"], &changed["blocks"]),
        (&uuid.into(), &serde_json::json!([]))
    );
    assert_eq!(
        place
            .wdevc(&["set-on-ring-full", "vol0", "sometimes"])
            .status
            .code(),
        Some(1)
    );
    assert!(
        place
            .bad(&["set-oldest-lsid", "vol0", "7"])
            .contains("expected 0")
    );
    assert!(place.bad(&["resize", "vol0", "1"]).contains("never shrinks"));
    assert!(place.bad(&["get-oldest-lsid", "vol9"]).contains("known are vol0"));
    assert_eq!(place.good(&["delete-wdev", "vol0"]), "");
    assert_eq!(place.good(&["list"]), "");
}

#[test]
fn ublk_is_served_or_what_to_use_instead_is_said() {
    let mut place = Place::new();
    place.good(&["format-ldev", "log", "data", "-n", "vol0"]);
    place.start();
    // The largest number there is: nobody has it.
    let create = ["create-wdev", "log", "data", "-ublk", "1048575"];
    if Path::new("/dev/ublk-control").exists() {
        place.good(&create);
        let status = place.good(&["get-status", "vol0"]);
        assert!(status.contains("node /dev/ublkb1048575"), "{status}");
    } else {
        let error = place.bad(&create);
        assert!(
            error.contains("no ublk") && error.contains("use NBD or FUSE instead"),
            "{error}"
        );
        assert_eq!(place.good(&["list"]), "");
        place.good(&["create-wdev", "log", "data"]);
    }
    place.good(&["delete-wdev", "vol0"]);
}

#[test]
fn wrong_usage_fails_and_help_succeeds() {
    let place = Place::new();
    for args in [
        &[][..],
        &["nosuch"],
        &["freeze"],
        &["format-ldev", "log", "data", "-what"],
    ] {
        assert_eq!(place.wdevc(args).status.code(), Some(1), "{args:?}");
    }
    for args in [
        &["-h"][..],
        &["--help"],
        &["freeze", "-h"],
        &["get-version", "--help"],
    ] {
        assert!(place.good(args).contains("Example:"), "{args:?}");
    }
}

#[test]
fn a_device_of_the_kernel_driver_is_told_by_its_path() {
    let place = Place::new();
    // No driver has such a device: the message depends on whether there is a driver at all.
    for args in [
        &["get-status", "/dev/walb/no-such-device"][..],
        &["get-permanent-lsid", "/dev/walb/no-such-device"],
        &["set-checkpoint-interval", "/dev/walb/no-such-device", "1000"],
        &["is-flush-capable", "/dev/walb/no-such-device"],
        &["melt", "/dev/walb/no-such-device"],
    ] {
        let error = place.bad(args);
        assert!(
            error.contains("load walb-mod") || error.contains("no such device here"),
            "{error}"
        );
    }
    let error = place.bad(&["set-on-ring-full", "/dev/walb/no-such-device", "throttle"]);
    assert!(error.contains("always goes on"), "{error}");
    let error = place.bad(&["delete-wdev", "/dev/walb/no-such-device"]);
    assert!(error.contains("the tool that started it"), "{error}");
}
