//! Goal: a client learns what ranges hold, and never that data are zero. Method: raw bytes against a device in memory that
//! knows its zeros and what has changed; then the tools of the distribution against the engine.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::raw::Raw;
use support::{Known, noise, serve, tool};
use walb_common::types::PhysicalBlockSize;
use walb_wdev::block::BlockDevice;
use walb_wdev::config::{DeviceConfig, Limits};
use walb_wdev::engine::{Engine, format_log_device};
use walb_wdev::nbd::protocol::{self, cmd, cmd_flag, opt, rep};

const SIZE: u32 = 8 << 20;

fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let text = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let mut data = text(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    data.extend(queries.iter().flat_map(|q| text(q)));
    data
}

/// Numbers and names of the contexts that an option is answered with.
fn contexts(raw: &mut Raw, option: u32, data: &[u8]) -> Vec<(u32, String)> {
    raw.option(option, data);
    let mut found = vec![];
    loop {
        match raw.option_reply() {
            (rep::META_CONTEXT, item) => {
                found.push((
                    protocol::be32(&item, 0),
                    String::from_utf8(item[4..].to_vec()).unwrap(),
                ));
            }
            (rep::ACK, _) => return found,
            other => panic!("{other:?}"),
        }
    }
}

/// Connected, with structured replies and these contexts of `vol`.
fn connect(dir: &Path, wanted: &[&str]) -> Raw {
    let mut raw = Raw::connect(&dir.join("nbd.sock"));
    raw.greet().option(opt::STRUCTURED_REPLY, &[]);
    assert_eq!(raw.option_reply().0, rep::ACK);
    contexts(&mut raw, opt::SET_META_CONTEXT, &queries("vol", wanted));
    raw.choose("vol");
    raw
}

/// Context and extents of one chunk, and whether it was the last.
fn chunk(raw: &mut Raw) -> (u32, Vec<(u32, u32)>, bool) {
    let head = raw.take(20);
    assert_eq!(protocol::be16(&head, 6), protocol::CHUNK_BLOCK_STATUS);
    let data = raw.take(protocol::be32(&head, 16) as usize);
    let extents = data[4..].chunks(8);
    let extents = extents
        .map(|e| (protocol::be32(e, 0), protocol::be32(e, 4)))
        .collect();
    (
        protocol::be32(&data, 0),
        extents,
        protocol::be16(&head, 4) & protocol::CHUNK_DONE != 0,
    )
}

fn error(raw: &mut Raw) -> u32 {
    let chunk = raw.take(26);
    assert_eq!(protocol::be16(&chunk, 6), protocol::CHUNK_ERROR);
    protocol::be32(&chunk, 20)
}

#[test]
fn contexts_are_listed_by_namespace_and_selected_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(dir.path(), Known::new(SIZE.into(), true));
    let mut raw = Raw::connect(&dir.path().join("nbd.sock"));
    raw.greet().option(opt::SET_META_CONTEXT, &queries("vol", &[]));
    assert_eq!(
        raw.option_reply().0,
        rep::ERR_INVALID,
        "no structured replies yet"
    );
    raw.option(opt::STRUCTURED_REPLY, &[]);
    assert_eq!(raw.option_reply().0, rep::ACK);
    let (alloc, dirty) = ("base:allocation".to_owned(), "walb:dirty".to_owned());
    for (option, wanted, expected) in [
        (
            opt::LIST_META_CONTEXT,
            &[][..],
            vec![(0, alloc.clone()), (0, dirty.clone())],
        ),
        (opt::LIST_META_CONTEXT, &["base:"], vec![(0, alloc.clone())]),
        (
            opt::LIST_META_CONTEXT,
            &["walb:", "qemu:"],
            vec![(0, dirty.clone())],
        ),
        (opt::SET_META_CONTEXT, &[], vec![]),
        (opt::SET_META_CONTEXT, &["base:", "x:y"], vec![]),
        (
            opt::SET_META_CONTEXT,
            &["walb:dirty", "walb:dirty"],
            vec![(2, dirty.clone())],
        ),
        (
            opt::SET_META_CONTEXT,
            &["base:allocation", "walb:dirty"],
            vec![(1, alloc), (2, dirty)],
        ),
    ] {
        assert_eq!(
            contexts(&mut raw, option, &queries("vol", wanted)),
            expected,
            "{wanted:?}"
        );
    }
    // A selection that fails leaves none.
    raw.option(opt::SET_META_CONTEXT, &queries("other", &["base:allocation"]));
    assert_eq!(raw.option_reply().0, rep::ERR_UNKNOWN);
    raw.choose("vol").request(cmd::BLOCK_STATUS, 0, 1, 0, 512);
    assert_eq!(error(&mut raw), 22);
}

#[test]
fn a_device_without_a_bitmap_does_not_offer_one() {
    let dir = tempfile::tempdir().unwrap();
    let _server = serve(dir.path(), Known::new(SIZE.into(), false));
    let mut raw = Raw::connect(&dir.path().join("nbd.sock"));
    raw.greet().option(opt::STRUCTURED_REPLY, &[]);
    assert_eq!(raw.option_reply().0, rep::ACK);
    for option in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        assert!(contexts(&mut raw, option, &queries("vol", &["walb:dirty"])).is_empty());
    }
}

#[test]
fn each_context_answers_with_extents_that_begin_where_the_request_does_and_end_inside_it() {
    let dir = tempfile::tempdir().unwrap();
    // By the MiB: data, zeros, hole, data, ...; changed every other MiB.
    let _server = serve(dir.path(), Known::new(SIZE.into(), true));
    let mut raw = connect(dir.path(), &["base:allocation", "walb:dirty"]);
    let mib = 1 << 20;
    raw.request(cmd::BLOCK_STATUS, 0, 1, 512, 3 * mib);
    let expected = vec![(mib - 512, 0), (mib, 2), (mib, 3), (512, 0)];
    assert_eq!(chunk(&mut raw), (1, expected, false));
    let expected = vec![(mib - 512, 0), (mib, 1), (mib, 0), (512, 1)];
    assert_eq!(chunk(&mut raw), (2, expected, true));
    raw.request(cmd::BLOCK_STATUS, cmd_flag::REQ_ONE, 2, u64::from(mib), 7 * mib);
    assert_eq!(chunk(&mut raw), (1, vec![(mib, 2)], false));
    assert_eq!(chunk(&mut raw), (2, vec![(mib, 1)], true));
    for (offset, length, flags, errno) in [
        (0, 0, 0, 22),
        (1, 512, 0, 22),
        (u64::from(SIZE), 512, 0, 22),
        (0, 512, cmd_flag::NO_HOLE, 22),
    ] {
        raw.request(cmd::BLOCK_STATUS, flags, 3, offset, length);
        assert_eq!(error(&mut raw), errno);
    }
    raw.request(cmd::FLUSH, 0, 4, 0, 0);
    assert_eq!(raw.simple_reply(), (0, 4));
}

#[test]
fn tools_see_the_holes_of_a_real_device_and_copy_it_sparsely_and_byte_equal() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| camino::Utf8PathBuf::try_from(dir.path().join(name)).unwrap();
    for (name, size) in [("log", 16_u64 << 20), ("data", 8 << 20)] {
        std::fs::File::create(path(name)).unwrap().set_len(size).unwrap();
    }
    format_log_device(
        &path("log"),
        &path("data"),
        "vol",
        Some(PhysicalBlockSize::B4096),
        true,
    )
    .unwrap();
    let config = DeviceConfig {
        name: "vol".to_owned(),
        ldev: path("log"),
        ddev: path("data"),
        nbd: None,
        nbd_guests: vec![],
        fuse: None,
        ublk: None,
        nbd_node: None,
        limits: Limits::default(),
    };
    let engine = Engine::open(&config, &path("state")).unwrap();
    let server = serve(dir.path(), Arc::clone(&engine) as Arc<dyn BlockDevice>);
    let uri = format!("nbd+unix:///vol?socket={}", path("nbd.sock"));
    std::fs::write(path("noise"), noise(9, 1 << 20)).unwrap();
    let source = format!("write -s {} 1M 1M", path("noise"));
    tool(
        "qemu-utils",
        "qemu-io",
        &[
            "-f",
            "raw",
            "-d",
            "unmap",
            "-c",
            &source,
            "-c",
            "write -P 7 4M 2M",
            "-c",
            "discard 5M 1M",
            "-c",
            "flush",
            &uri,
        ],
    );
    for _ in 0..2 {
        let map = tool("libnbd-bin", "nbdinfo", &["--map", "--json", &uri]);
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        let extents: Vec<_> = map
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                (
                    e["offset"].as_u64().unwrap() >> 20,
                    e["length"].as_u64().unwrap() >> 20,
                    e["type"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(extents, [(0, 1, 3), (1, 1, 0), (2, 2, 3), (4, 1, 0), (5, 3, 3)]);
        let text = tool(
            "qemu-utils",
            "qemu-img",
            &["map", "-f", "raw", "--output=json", &uri],
        );
        let map: serde_json::Value = serde_json::from_str(&text).unwrap();
        let zeros: Vec<_> = map
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["zero"].as_bool().unwrap())
            .collect();
        assert_eq!(zeros, [true, false, true, false, true], "{text}");
        // The second time from the data device.
        engine.checkpoint().unwrap();
    }
    let all_of_it = [(0, 1, 0), (1, 1, 1), (2, 2, 0), (4, 2, 1), (6, 2, 0)];
    assert_eq!(dirty(&uri, path("nbd.sock").as_str()), all_of_it);
    engine.set_oldest(engine.status().lsids.prev_written).unwrap();
    assert_eq!(dirty(&uri, path("nbd.sock").as_str()), [(0, 8, 0)]);
    let copy = path("copy");
    tool("libnbd-bin", "nbdcopy", &[&uri, copy.as_str()]);
    let mut expected = vec![0; 8 << 20];
    expected[1 << 20..2 << 20].copy_from_slice(&noise(9, 1 << 20));
    expected[4 << 20..5 << 20].fill(7);
    assert!(std::fs::read(&copy).unwrap() == expected);
    let stored = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&copy).unwrap()) * 512;
    assert!(stored < 3 << 20, "{stored} bytes stored of 2 MiB of data");
    tool(
        "qemu-utils",
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", copy.as_str(), &uri],
    );
    drop(server);
    engine.stop();
}

/// What has changed, as `(MiB, MiB, 1 if so)`, by two clients that agree.
fn dirty(uri: &str, socket: &str) -> Vec<(u64, u64, u64)> {
    let number = |e: &serde_json::Value, key: &str| e[key].as_u64().unwrap();
    let map = tool("libnbd-bin", "nbdinfo", &["--map=walb:dirty", "--json", uri]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let by_libnbd: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                number(e, "offset") >> 20,
                number(e, "length") >> 20,
                number(e, "type"),
            )
        })
        .collect();
    let options =
        format!("driver=nbd,server.type=unix,server.path={socket},export=vol,x-dirty-bitmap=walb:dirty");
    let map = tool(
        "qemu-utils",
        "qemu-img",
        &["map", "--output=json", "--image-opts", &options],
    );
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    // QEMU shows the bit of a context that it does not know as that of a hole.
    let by_qemu: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                number(e, "start") >> 20,
                number(e, "length") >> 20,
                u64::from(!e["data"].as_bool().unwrap()),
            )
        })
        .collect();
    assert_eq!(by_libnbd, by_qemu, "{map}");
    by_libnbd
}
