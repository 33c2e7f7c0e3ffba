//! Goal: the NBD server works with what people have. Method: the tools of the distribution against a device in memory.
//! Debian packages: libnbd-bin, qemu-utils, fio.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::atomic::Ordering;

use support::{MemDevice, noise, serve, tool};

const SIZE: usize = 32 << 20;

struct Served {
    device: std::sync::Arc<MemDevice>,
    dir: tempfile::TempDir,
    _server: walb_wdev::nbd::NbdServer,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = MemDevice::new(SIZE);
        let server = serve(dir.path(), device.clone());
        Self {
            device,
            dir,
            _server: server,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///vol?socket={}", self.path("nbd.sock"))
    }
}

#[test]
fn nbdinfo_shows_the_size_the_block_sizes_and_the_abilities() {
    let served = Served::new();
    let text = tool("libnbd-bin", "nbdinfo", &["--json", &served.uri()]);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["protocol"], "newstyle-fixed");
    assert_eq!(all["structured"], true);
    let export = &all["exports"][0];
    assert_eq!(export["export-name"], "vol");
    assert_eq!(export["description"], "WalB device vol");
    assert_eq!(export["export-size"], SIZE);
    for (ability, expected) in [
        ("is_read_only", false),
        ("can_cache", true),
        ("can_df", true),
        ("can_fast_zero", true),
        ("can_flush", true),
        ("can_fua", true),
        ("can_multi_conn", true),
        ("can_trim", true),
        ("can_zero", true),
    ] {
        assert_eq!(export[ability], expected, "{ability} in {text}");
    }
    assert_eq!(export["block_size_minimum"], 512);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 << 20);
}

#[test]
fn nbdinfo_lists_the_exports() {
    let served = Served::new();
    let uri = format!("nbd+unix://?socket={}", served.path("nbd.sock"));
    let text = tool("libnbd-bin", "nbdinfo", &["--list", "--json", &uri]);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["exports"].as_array().unwrap().len(), 1);
    assert_eq!(all["exports"][0]["export-name"], "vol");
}

#[test]
fn nbdcopy_in_and_out_is_byte_equal() {
    let served = Served::new();
    let image = noise(1, SIZE);
    std::fs::write(served.path("in.img"), &image).unwrap();
    tool(
        "libnbd-bin",
        "nbdcopy",
        &["--flush", &served.path("in.img"), &served.uri()],
    );
    assert!(served.device.image() == image);
    assert!(served.device.flushes.load(Ordering::SeqCst) > 0);
    tool("libnbd-bin", "nbdcopy", &[&served.uri(), &served.path("out.img")]);
    assert!(std::fs::read(served.path("out.img")).unwrap() == image);
}

#[test]
fn qemu_io_writes_patterns_zeroes_and_discards_and_reads_them_back() {
    let served = Served::new();
    let uri = served.uri();
    let mut args = vec!["-f", "raw", "-d", "unmap"];
    for command in [
        "write -P 0x5a 0 1M",
        "write -f -P 0xa5 1M 64k",
        "write -P 0x77 3584 512",
        "aio_write -P 0x11 8M 4M",
        "aio_write -P 0x22 12M 4M",
        "aio_flush",
        "flush",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 8M 1M",
        "read -P 0x5a 0 3584",
        "read -P 0x77 3584 512",
        "read -P 0x5a 4k 60k",
        "read -P 0 64k 128k",
        "read -P 0x5a 192k 832k",
        "read -P 0xa5 1M 64k",
        "read -P 0 8M 1M",
        "read -P 0x11 9M 3M",
        "read -P 0x22 12M 4M",
    ] {
        args.extend(["-c", command]);
    }
    args.push(&uri);
    let out = tool("qemu-utils", "qemu-io", &args);
    assert!(!out.contains("failed"), "{out}");
    let image = served.device.image();
    assert!(image[9 << 20..12 << 20].iter().all(|b| *b == 0x11));
    assert!(served.device.discards.load(Ordering::SeqCst) > 0);
    assert!(served.device.zeroes.load(Ordering::SeqCst) > 0);
}

#[test]
fn qemu_img_compares_a_converted_image_as_identical() {
    let served = Served::new();
    std::fs::write(served.path("in.img"), noise(2, SIZE)).unwrap();
    let (file, uri) = (served.path("in.img"), served.uri());
    tool(
        "qemu-utils",
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", &file, &uri],
    );
    tool(
        "qemu-utils",
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &file, &uri],
    );
}

#[test]
fn fio_verifies_what_it_wrote_at_random_with_many_requests_in_flight() {
    let served = Served::new();
    let uri = format!("--uri={}", served.uri());
    let args = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--size=32m",
        "--iodepth=32",
        "--fsync=64",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randseed=7",
        "--norandommap=0",
        "--serialize_overlap=1",
    ];
    let out = tool("fio", "fio", &args);
    assert!(out.contains("err= 0"), "{out}");
    assert!(served.device.flushes.load(Ordering::SeqCst) > 0);
}
