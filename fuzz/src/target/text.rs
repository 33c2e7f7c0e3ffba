//! What people and other programs write as text.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use walb_common::daemon::config::{self, NodeConfig};
use walb_common::format::wdiff::WdiffFileName;
use walb_common::lineage::{BaseState, MetaDiff, Snapshot};
use walb_common::rest::{self, ApiError, archive, proxy, storage};
use walb_common::types::{
    Compression, CompressionSetting, Gid, Lsid, Timestamp, Uuid, VolumeName, format_size, parse_size,
};
use walb_fuzz_engine::memory::bounded;
use walb_wdev::client::DeviceSpec;
use walb_wdev::config::DeviceConfig;

use super::{Target, nothing_to_repair};

fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Parses within a bound of a few times the text.
fn parsed<T: FromStr>(text: &str) -> Option<T> {
    bounded(8 * text.len() + 4096, || text.parse().ok())
}

/// What parses prints so that it parses to the same.
fn prints_back<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let value: T = parsed(text)?;
    let printed = value.to_string();
    assert_eq!(
        printed.parse::<T>().ok().as_ref(),
        Some(&value),
        "{text:?} printed as {printed:?}"
    );
    Some(value)
}

/// Input: a file name, or the text of a base state.
pub const NAMES: Target = Target {
    name: "names",
    about: "wdiff file names, snapshots and base states",
    seeds: || {
        lines(&[
            "20260102030405-M--0-1.wdiff",
            "20260102030405-MC-1-3-4-18446744073709551615.wdiff",
            "<|5|>",
            "<|0,10|-->|25|>-20261122140000",
            "<|0,1|>-20261122140000",
            "|7,9|",
        ])
    },
    repair: nothing_to_repair,
    run: |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Some(name) = prints_back::<WdiffFileName>(text) {
            // One name, one diff: nothing else is read as the same.
            assert_eq!(name.to_string(), text);
        }
        if let Ok(diff) = MetaDiff::from_file_name(text, 7) {
            assert_eq!(diff.file_name(), text);
            assert_eq!(diff.size(), 7);
            assert!(diff.begin().begin() < diff.end().begin() && diff.begin().end() <= diff.end().end());
        }
        prints_back::<Snapshot>(text);
        if let Some(state) = parsed::<BaseState>(text) {
            let printed = state.with_time();
            let again: BaseState = printed.parse().expect("as printed");
            assert_eq!((again, again.timestamp()), (state, state.timestamp()), "{text:?}");
            if let Some(target) = state.target() {
                assert!(state.snapshot().begin() < target.begin());
            }
        }
    },
    max_len: 256,
};

/// Input: a value of a command line.
pub const VALUES: Target = Target {
    name: "values",
    about: "numbers, sizes, times, uuids, names and the like of the command line",
    seeds: || {
        lines(&[
            "0",
            "12m",
            "18446744073709551615",
            "16e",
            "20261122140300",
            "99991231235959",
            "0123456789abcdef0123456789ABCDEF",
            "vol-0",
            "snappy:0:1",
            "zstd:9",
            "wdev:vol0",
            "wdev:/run/walb.sock#vol0",
            "/dev/walb/vol0",
            "graceful",
        ])
    },
    repair: nothing_to_repair,
    run: |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        prints_back::<Gid>(text);
        prints_back::<Lsid>(text);
        prints_back::<Uuid>(text);
        prints_back::<VolumeName>(text);
        prints_back::<CompressionSetting>(text);
        prints_back::<DeviceSpec>(text);
        parsed::<Compression>(text);
        parsed::<rest::StopMode>(text);
        if let Ok(size) = parse_size(text) {
            assert_eq!(parse_size(&format_size(size)), Ok(size), "{text:?}");
        }
        if let Ok(time) = Timestamp::from_compact(text) {
            assert_eq!(time.compact(), text);
            assert!(!time.to_string().is_empty());
        }
        if let Ok(name) = VolumeName::new(text) {
            assert!(
                !name.as_str().contains(['/', '.', '_']),
                "safe as a part of a path"
            );
        }
        if let Ok(bytes) = input.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).ok_or(()) {
            let time = Timestamp(bytes);
            let compact = time.compact();
            assert_eq!(compact.len(), 14, "{bytes}");
            assert!(!time.to_string().is_empty());
        }
    },
    max_len: 128,
};

/// Input: a TOML file.
pub const CONFIGURATION: Target = Target {
    name: "configuration",
    about: "configuration files: of a daemon, of a device",
    seeds: || {
        lines(&[
            "listen = \"127.0.0.1:0\"\ndata_dir = \"/x\"\ngrace_seconds = 5\n[tls]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"\n",
            "name = \"v\"\nldev = \"/l\"\nddev = \"/d\"\nnbd = \"/s\"\n[limits]\npending_max_mib = 64\n",
            "listen = \"é\"\nx = '''\n'''\ny = [{ a = 1979-05-27T07:32:00Z }]\n",
        ])
    },
    repair: nothing_to_repair,
    run: |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let limit = 400 * text.len() + (64 << 10);
        if let Ok(device) = bounded(limit, || toml::from_str::<DeviceConfig>(text)) {
            let printed = toml::to_string(&device).expect("what was read can be stored");
            assert_eq!(toml::from_str::<DeviceConfig>(&printed).ok(), Some(device));
        }
        // Through a file, as the daemons do: it also tells the line of an error.
        let file = super::wdiff::file_of(input);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        if let Err(error) = config::load::<NodeConfig>(path.as_ref()) {
            assert!(error.to_string().lines().count() < 20);
        }
    },
    max_len: 1024,
};

/// Input: a byte that chooses the body, then JSON.
pub const REST: Target = Target {
    name: "rest",
    about: "bodies of REST requests, and answers of other daemons",
    seeds: || {
        let bodies = [
            r#"{"role":"target"}"#,
            r#"{"mode":"empty"}"#,
            r#"{"force":true}"#,
            r#"{"address":"a:1","compression":"snappy:0:1","delay_seconds":0}"#,
            r#"{"volume":"v","archive":null}"#,
            r#"{"device":"wdev:v"}"#,
            r#"{"gid":18446744073709551615}"#,
            r#"{"bulk_bytes":4096}"#,
            r#"{"begin":"|0|","end":"|1|","mergeable":true,"compared":false,"timestamp":1,"size":0}"#,
            r#"{"code":"busy","message":"m"}"#,
            "{}",
        ];
        let bodies = bodies.iter().enumerate();
        bodies
            .map(|(n, body)| [&[n as u8][..], body.as_bytes()].concat())
            .collect()
    },
    repair: nothing_to_repair,
    run: |input| {
        let Some((&kind, body)) = input.split_first() else {
            return;
        };
        match kind % 14 {
            0 => json::<rest::StartRequest>(body),
            1 => json::<rest::StopRequest>(body),
            2 => json::<rest::ShutdownRequest>(body),
            3 => json::<proxy::ArchiveInfo>(body),
            4 => json::<proxy::KickRequest>(body),
            5 => json::<storage::InitRequest>(body),
            6 => json::<storage::ResetRequest>(body),
            7 => json::<storage::BackupRequest>(body),
            8 => json::<MetaDiff>(body),
            9 => json::<ApiError>(body),
            10 => json::<archive::RestoreRequest>(body),
            11 => json::<proxy::VolumeStatus>(body),
            12 => json::<storage::VolumeStatus>(body),
            _ => json::<archive::VolumeStatus>(body),
        }
    },
    max_len: 1024,
};

fn json<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(value) = bounded(200 * body.len() + (16 << 10), || {
        serde_json::from_slice::<T>(body)
    }) else {
        return;
    };
    let printed = serde_json::to_vec(&value).expect("what was read can be sent");
    let again: T = serde_json::from_slice(&printed).expect("what is sent can be read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(printed));
}
