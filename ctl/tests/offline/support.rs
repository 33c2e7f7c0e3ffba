//! The golden files with their facts, and `walbc offline` as a process.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Its stdout after success.
    #[track_caller]
    pub fn ok(self) -> Vec<u8> {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        assert_eq!(self.stderr, "", "an answer leaves stderr alone");
        self.stdout
    }

    /// Its JSON after success.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_slice(&self.ok()).unwrap()
    }

    /// Fails unless it failed with one line that has all these parts.
    #[track_caller]
    pub fn fails_with(&self, parts: &[&str]) {
        assert_eq!(self.status, Some(1), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in: {}", self.stderr);
        }
    }
}

/// The program without any configuration, in an empty environment.
pub fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walbc"));
    command.env_clear().env("HOME", "/nonexistent").arg("offline");
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn run(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        status: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn walbc<A: AsRef<OsStr>>(arguments: &[A]) -> Outcome {
    run(command(arguments))
}

/// The same with these bytes in a pipe to its stdin.
pub fn walbc_fed<A: AsRef<OsStr>>(arguments: &[A], stdin: &[u8]) -> Outcome {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It may end without having read everything.
        scope.spawn(move || pipe.write_all(stdin).ok());
        child.wait_with_output().unwrap()
    });
    Outcome {
        status: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// Where the golden files are.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../common/tests/golden")
        .join(name)
}

fn vectors(manifest: &str) -> Vec<Value> {
    let text = fs::read(golden(manifest)).unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    match manifest["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("vectors are {other}"),
    }
}

/// Golden files of these kinds: sound ones, or damaged ones. How many there are is asserted, so none is missed.
pub fn each(kinds: &[&str], damaged: bool, expected: usize, mut check: impl FnMut(&str, &Path, &Value)) {
    let mut seen = 0;
    for vector in vectors("manifest.json") {
        let verdict = vector["expect"]["verdict"].as_str();
        let is_damaged = !matches!(verdict, None | Some("ok" | "torn" | "overflow"));
        if kinds.contains(&vector["kind"].as_str().unwrap()) && is_damaged == damaged {
            let name = vector["name"].as_str().unwrap();
            println!("{name}");
            check(name, &golden(name), &vector);
            seen += 1;
        }
    }
    assert_eq!(seen, expected, "files of {kinds:?}");
}

/// A log device of the kernel driver, and its data device as it was left.
pub struct DriverImages {
    _dir: TempDir,
    pub log: PathBuf,
    pub data: PathBuf,
}

/// The kernel driver's log devices. They are kept compressed, beside the tests that take over such devices.
pub fn each_of_driver(mut check: impl FnMut(&str, &DriverImages, &Value)) {
    let vectors = vectors("driver/manifest.json");
    assert_eq!(vectors.len(), 25);
    for vector in vectors {
        let dir = tempfile::tempdir().unwrap();
        let unpack = |facts: &Value| {
            let name = facts["name"].as_str().unwrap();
            let packed =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../wdev/tests/golden/{name}.xz"));
            let mut plain = Vec::new();
            liblzma::read::XzDecoder::new(fs::File::open(packed).unwrap())
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(facts["sha256"], sha256(&plain), "{name} is not the golden file");
            let path = dir.path().join(name);
            fs::write(&path, plain).unwrap();
            path
        };
        let (log, data) = (unpack(&vector), unpack(&vector["data_image"]));
        let name = vector["name"].as_str().unwrap();
        println!("{name}");
        check(name, &DriverImages { _dir: dir, log, data }, &vector);
    }
}

/// An image of zeros.
pub fn zero_image(path: &Path, bytes: &Value) {
    let file = fs::File::create(path).unwrap();
    file.set_len(bytes.as_u64().unwrap()).unwrap();
}

/// Names of the files of a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
