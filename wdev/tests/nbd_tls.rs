//! Goal: NBD inside TLS works with what people have, and nobody gets in without the right certificate, or in the clear.
//! Method: the tools of the distribution and raw bytes against a device in memory; real certificates.
//! Debian packages: libnbd-bin, qemu-utils, fio.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use support::pki::Pki;
use support::program::qemu_nbd;
use support::raw::{Raw, until};
use support::{MemDevice, noise, run_tool, tool};
use walb_common::wire::identity::Role;
use walb_wdev::nbd::protocol::{cmd, opt, rep};
use walb_wdev::nbd::{Export, Exports, NbdLimits, NbdServer, bind_tcp};

const SIZE: usize = 16 << 20;

/// A server on a unix socket and one on TCP; guest g0 may use `vol` over TCP, and g1 `other`.
struct Served {
    pki: Pki,
    device: Arc<MemDevice>,
    dir: tempfile::TempDir,
    address: std::net::SocketAddr,
    _servers: [NbdServer; 2],
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new();
        let tls = pki.context(Role::Storage, "s0");
        let device = MemDevice::new(SIZE);
        let local = Exports::new();
        local.add(Export::new("vol", device.clone()));
        let socket = dir.path().join("nbd.sock");
        let unix = NbdServer::listen_unix(&socket, local, Some(tls.clone()), NbdLimits::default()).unwrap();
        let remote = Exports::new();
        remote.add(Export::new("vol", device.clone()).only_for(&["g0".to_owned()]));
        remote.add(Export::new("other", MemDevice::new(512)).only_for(&["g1".to_owned()]));
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = NbdServer::serve_tcp(listener, remote, tls, NbdLimits::default()).unwrap();
        Self {
            pki,
            device,
            dir,
            address,
            _servers: [unix, tcp],
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn tcp_uri(&self, export: &str, certificates: &Path) -> String {
        format!(
            "nbds://localhost:{}/{export}?tls-certificates={}",
            self.address.port(),
            certificates.display()
        )
    }

    fn unix_uri(&self, certificates: &Path) -> String {
        let socket = self.path("nbd.sock");
        format!(
            "nbds+unix:///vol?socket={socket}&tls-certificates={}",
            certificates.display()
        )
    }
}

/// What nbdinfo says: the size, or why there is none.
fn size_at(uri: &str) -> Result<String, String> {
    let output = run_tool("libnbd-bin", "nbdinfo", &["--size", uri]);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A connection on the unix socket that agreed on structured replies in the clear, and then began TLS.
fn inside_tls(served: &Served) -> Raw<StreamOwned<ClientConnection, UnixStream>> {
    let mut raw = Raw::connect(&served.dir.path().join("nbd.sock"));
    raw.greet().option(opt::STRUCTURED_REPLY, &[]);
    assert_eq!(raw.option_reply().0, rep::ACK);
    raw.option(opt::STARTTLS, &[]);
    assert_eq!(raw.option_reply().0, rep::ACK);
    let config = served.pki.context(Role::Guest, "g9").current().client;
    let client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    Raw(StreamOwned::new(client, raw.0))
}

#[test]
fn libnbd_and_qemu_copy_byte_equal_inside_tls_over_tcp_and_unix() {
    let served = Served::new();
    let guest = served.pki.directory(Role::Guest, "g0");
    let text = tool(
        "libnbd-bin",
        "nbdinfo",
        &["--json", &served.tcp_uri("vol", &guest)],
    );
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&all["TLS"], &all["structured"]),
        (&true.into(), &true.into()),
        "{text}"
    );
    for (seed, uri) in [(1, served.tcp_uri("vol", &guest)), (2, served.unix_uri(&guest))] {
        let (input, output) = (served.path("in.img"), served.path("out.img"));
        std::fs::write(&input, noise(seed, SIZE)).unwrap();
        tool("libnbd-bin", "nbdcopy", &["--flush", &input, &uri]);
        assert!(served.device.image() == noise(seed, SIZE));
        tool("libnbd-bin", "nbdcopy", &[&uri, &output]);
        assert!(std::fs::read(&output).unwrap() == noise(seed, SIZE));
        // Many clients at once, as multi-conn allows.
        let many = ["--connections=8", "--requests=32", &input, &uri];
        served.device.data.lock().unwrap().fill(0);
        tool("libnbd-bin", "nbdcopy", &many);
        assert!(served.device.image() == noise(seed, SIZE));
    }
    let input = served.path("in.img");
    let creds = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", guest.display());
    let target = format!(
        "driver=nbd,host=localhost,port={},export=vol,tls-creds=tls0",
        served.address.port()
    );
    std::fs::write(&input, noise(3, SIZE)).unwrap();
    tool(
        "qemu-utils",
        "qemu-img",
        &[
            "convert",
            "--object",
            &creds,
            "-n",
            "--target-image-opts",
            "-f",
            "raw",
            &input,
            &target,
        ],
    );
    assert!(served.device.image() == noise(3, SIZE));
    let source = format!("driver=raw,file.filename={input}");
    tool(
        "qemu-utils",
        "qemu-img",
        &["compare", "--object", &creds, "--image-opts", &source, &target],
    );
}

#[test]
fn fio_verifies_what_it_wrote_inside_tls_with_many_requests_in_flight() {
    let served = Served::new();
    let guest = served.pki.directory(Role::Guest, "g0");
    // fio's client takes no certificates; qemu's does, as in front of a real guest.
    let front = served.path("front");
    let server = format!(
        "server.type=inet,server.host=localhost,server.port={},tls-creds=tls0",
        served.address.port()
    );
    let _qemu = qemu_nbd("vol", &server, &guest, &front);
    let uri = format!("--uri=nbd+unix:///vol?socket={front}");
    let args = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-256k",
        "--blockalign=512",
        "--size=16m",
        "--iodepth=32",
        "--fsync=64",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randseed=11",
        "--serialize_overlap=1",
    ];
    let out = tool("fio", "fio", &args);
    assert!(out.contains("err= 0"), "{out}");
}

#[test]
fn nobody_gets_in_over_tcp_but_guests_that_are_named_and_to_others_the_device_does_not_exist() {
    let served = Served::new();
    let pki = &served.pki;
    let good = pki.directory(Role::Guest, "g0");
    let list = format!(
        "nbds://localhost:{}?tls-certificates={}",
        served.address.port(),
        good.display()
    );
    let text = tool("libnbd-bin", "nbdinfo", &["--list", "--json", &list]);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names: Vec<_> = all["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["export-name"])
        .collect();
    assert_eq!(names, ["vol"], "the other guest's device is not seen");
    // The empty name is the only one this guest sees.
    assert_eq!(size_at(&served.tcp_uri("", &good)).unwrap(), SIZE.to_string());
    let bare = served.dir.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(good.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    for (export, certificates) in [
        ("other", &good),
        ("vol", &pki.directory(Role::Guest, "g1")),
        ("vol", &pki.directory(Role::Guest, "g2")),
        ("", &pki.directory(Role::Guest, "g3")),
        // The right name with another role.
        ("vol", &pki.directory(Role::Operator, "g0")),
        ("vol", &pki.directory(Role::Storage, "g0")),
        ("vol", &pki.foreign(Role::Guest, "g0")),
        ("vol", &pki.expired(Role::Guest, "g0")),
        ("vol", &bare),
    ] {
        let uri = served.tcp_uri(export, certificates);
        size_at(&uri).expect_err(&uri);
    }
    let plain = format!("nbd://localhost:{}/vol", served.address.port());
    let refusal = size_at(&plain).unwrap_err();
    assert!(refusal.contains("TLS"), "{refusal}");
    assert_eq!(size_at(&served.tcp_uri("vol", &good)).unwrap(), SIZE.to_string());
}

#[test]
fn on_tcp_nothing_is_answered_in_the_clear() {
    let served = Served::new();
    let connect = || {
        let stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw(stream)
    };
    let mut raw = connect();
    raw.greet();
    let name = [&3_u32.to_be_bytes()[..], b"vol"].concat();
    for (option, data) in [
        (opt::LIST, vec![]),
        (opt::GO, [&name[..], &[0, 0]].concat()),
        (opt::INFO, [&name[..], &[0, 0]].concat()),
        (opt::STRUCTURED_REPLY, vec![]),
        (opt::SET_META_CONTEXT, [&name[..], &[0, 0, 0, 0]].concat()),
        (99, vec![]),
    ] {
        let reply = raw.option(option, &data).option_reply();
        assert_eq!(reply.0, rep::ERR_TLS_REQD, "option {option}");
    }
    assert_eq!(raw.option(opt::STARTTLS, &[1]).option_reply().0, rep::ERR_INVALID);
    assert_eq!(raw.option(opt::ABORT, &[]).option_reply().0, rep::ACK);
    raw.assert_closed();
    let mut raw = connect();
    raw.greet().option(opt::EXPORT_NAME, b"vol").assert_closed();
}

#[test]
fn what_is_sent_in_the_clear_never_counts_inside_tls() {
    let served = Served::new();
    // Bytes behind STARTTLS, as somebody in the middle would add them, break the handshake.
    let mut raw = Raw::connect(&served.dir.path().join("nbd.sock"));
    raw.greet();
    let smuggled = [
        b"IHAVEOPT".as_slice(),
        &opt::STARTTLS.to_be_bytes(),
        &[0; 4],
        b"IHAVEOPT",
        &opt::LIST.to_be_bytes(),
        &[0; 4],
    ]
    .concat();
    raw.say(&smuggled);
    assert_eq!(raw.option_reply().0, rep::ACK);
    raw.assert_closed();
    // Structured replies agreed in the clear are forgotten.
    let mut raw = inside_tls(&served);
    assert_eq!(raw.option(opt::STARTTLS, &[]).option_reply().0, rep::ERR_INVALID);
    raw.choose("vol").request(cmd::READ, 0, 7, 0, 512);
    assert_eq!(raw.simple_reply(), (0, 7));
}

#[test]
fn a_client_that_does_not_read_inside_tls_stalls_only_itself_and_goes_on_when_it_does() {
    const ASKED: u64 = 40;
    let served = Served::new();
    let guest = served.pki.directory(Role::Guest, "g0");
    served
        .device
        .data
        .lock()
        .unwrap()
        .copy_from_slice(&noise(4, SIZE));
    let mut stuck = inside_tls(&served);
    stuck.choose("vol");
    for cookie in 0..ASKED {
        stuck.request(cmd::READ, 0, cookie, 0, 1 << 20);
    }
    until("the window is full", || {
        served.device.submitted.load(Ordering::SeqCst) >= 8
    });
    let (uri, copy) = (served.unix_uri(&guest), served.path("copy.img"));
    tool("libnbd-bin", "nbdcopy", &["--connections=4", &uri, &copy]);
    assert!(std::fs::read(&copy).unwrap() == noise(4, SIZE));
    let of_others = u64::try_from(SIZE >> 18).unwrap() + 8;
    let submitted = served.device.submitted.load(Ordering::SeqCst);
    assert!(
        submitted < ASKED + of_others,
        "{submitted}: more than the window reached the device"
    );
    let mut cookies = Vec::new();
    for _ in 0..ASKED {
        let (errno, cookie) = stuck.simple_reply();
        assert_eq!(errno, 0);
        cookies.push(cookie);
        assert!(stuck.take(1 << 20) == noise(4, SIZE)[..1 << 20]);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, (0..ASKED).collect::<Vec<_>>());
    stuck.request(cmd::DISC, 0, 0, 0, 0).assert_closed();
}
