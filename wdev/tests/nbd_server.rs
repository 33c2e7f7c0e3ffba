//! Goal: the NBD server keeps its promises to good clients, and loses nothing to bad ones. Method: our own client, and
//! raw bytes, against a device in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::atomic::Ordering;

use support::raw::until;
use support::served::{SIZE, Served};
use support::{MemDevice, noise};
use walb_wdev::nbd::client::{Command, NbdClient, NbdClientError};
use walb_wdev::nbd::protocol::{self, cmd, cmd_flag, flag, opt, rep};
use walb_wdev::nbd::{Export, Exports, NbdLimits, NbdListenError, NbdServer};

fn errno(result: Result<(), NbdClientError>) -> i32 {
    match result {
        Err(NbdClientError::Failed { errno, .. }) => errno,
        other => panic!("expected the request to fail, found {other:?}"),
    }
}

#[test]
fn what_a_client_writes_it_reads_back_and_so_does_another() {
    let served = Served::new();
    let (mut a, mut b) = (served.client(), served.client());
    let data = noise(1, 3 << 20);
    a.write(512, &data).unwrap();
    assert!(b.read(512, data.len()).unwrap() == data);
    b.write_zeroes(1024, 4096, true).unwrap();
    b.trim(8192, 4096).unwrap();
    assert!(a.read(1024, 4096).unwrap().iter().all(|x| *x == 0));
    a.write_fua(0, &[1; 512]).unwrap();
    assert_eq!(served.device.fuas.load(Ordering::SeqCst), 1);
    b.flush().unwrap();
    assert_eq!(served.device.flushes.load(Ordering::SeqCst), 1);
    assert!(a.can(flag::CAN_MULTI_CONN) && a.can(flag::SEND_FUA) && !a.can(flag::READ_ONLY));
    let mut copy = Vec::new();
    assert_eq!(b.copy_to(&mut copy).unwrap(), SIZE as u64);
    assert!(copy == served.device.image());
    a.disconnect().unwrap();
    until("one has left", || {
        served.server.as_ref().unwrap().connections("vol") == 1
    });
}

#[test]
fn hundreds_of_requests_in_flight_are_all_answered_in_any_order() {
    let served = Served::new();
    let mut client = served.client();
    let mut expected = std::collections::HashMap::new();
    let blocks: Vec<_> = (0..200).map(|i| noise(i + 1, 4096)).collect();
    for (i, data) in blocks.iter().enumerate() {
        client
            .start(Command::Write {
                offset: i as u64 * 4096,
                data,
                fua: false,
            })
            .unwrap();
    }
    for _ in 0..200 {
        client.finish().unwrap().result.unwrap();
    }
    for i in 0..200 {
        let cookie = client
            .start(Command::Read {
                offset: i * 4096,
                length: 4096,
            })
            .unwrap();
        expected.insert(cookie, usize::try_from(i).unwrap());
    }
    for _ in 0..200 {
        let finished = client.finish().unwrap();
        assert!(finished.result.unwrap() == blocks[expected.remove(&finished.cookie).unwrap()]);
    }
}

#[test]
fn bad_requests_are_answered_with_their_error_and_the_connection_goes_on() {
    let served = Served::new();
    let mut client = served.client();
    let end = SIZE as u64;
    for (result, expected) in [
        (client.write(1, &[0; 512]), libc::EINVAL),
        (client.write(0, &[0; 100]), libc::EINVAL),
        (client.write(end, &[0; 512]), libc::ENOSPC),
        (client.write(end - 512, &[0; 1024]), libc::ENOSPC),
        (client.read(end - 512, 1024).map(drop), libc::EINVAL),
        (client.read(u64::MAX - 511, 512).map(drop), libc::EINVAL),
        (client.trim(u64::MAX - 511, 1024), libc::ENOSPC),
        (client.write_zeroes(0, 0, false), libc::EINVAL),
    ] {
        assert_eq!(errno(result), expected);
    }
    served.device.failing.store(true, Ordering::SeqCst);
    assert_eq!(errno(client.flush()), libc::EIO);
    served.device.failing.store(false, Ordering::SeqCst);
    served.device.read_only.store(true, Ordering::SeqCst);
    // A device that refuses writes has failed, and a disk that fails says EIO.
    assert_eq!(errno(client.write(0, &[0; 512])), libc::EIO);
    assert_eq!(errno(client.trim(0, 512)), libc::EIO);
    assert_eq!(errno(client.write_zeroes(0, 512, false)), libc::EIO);
    assert!(served.client().can(flag::READ_ONLY));
    client.read(0, 512).unwrap();
    let mut raw = served.raw();
    raw.go(false);
    raw.request(77, 0, 1, 0, 512)
        .request(cmd::READ, 0x8000, 2, 0, 512)
        .request(cmd::READ, 0, 3, 0, u32::MAX);
    for cookie in [1, 2, 3] {
        assert_eq!(raw.simple_reply(), (22, cookie));
    }
}

#[test]
fn reads_are_answered_with_structured_replies_when_the_client_asked_for_them() {
    let served = Served::new();
    served.client().write(4096, &noise(5, 512)).unwrap();
    let mut raw = served.raw();
    raw.go(true).request(cmd::READ, cmd_flag::DF, 9, 4096, 512);
    let chunk = raw.take(20 + 8 + 512);
    let number = protocol::be32(&chunk, 0);
    assert_eq!(number, protocol::STRUCTURED_REPLY_MAGIC);
    let fields = (
        protocol::be16(&chunk, 4),
        protocol::be16(&chunk, 6),
        protocol::be64(&chunk, 8),
    );
    assert_eq!(fields, (protocol::CHUNK_DONE, protocol::CHUNK_OFFSET_DATA, 9));
    assert_eq!(
        (protocol::be32(&chunk, 16), protocol::be64(&chunk, 20)),
        (520, 4096)
    );
    assert!(chunk[28..] == noise(5, 512));
    raw.request(cmd::READ, 0, 10, 1, 512);
    let chunk = raw.take(26);
    assert_eq!(protocol::be16(&chunk, 6), protocol::CHUNK_ERROR);
    assert_eq!((protocol::be32(&chunk, 16), protocol::be32(&chunk, 20)), (6, 22));
    raw.request(cmd::FLUSH, 0, 11, 0, 0);
    assert_eq!(raw.simple_reply(), (0, 11));
}

#[test]
fn options_are_answered_as_the_protocol_says() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.greet();
    let name = [&3_u32.to_be_bytes()[..], b"vol"].concat();
    let other = [&3_u32.to_be_bytes()[..], b"abc"].concat();
    let no_queries = |name: &[u8]| [name, &0_u32.to_be_bytes()].concat();
    for (option, data, expected) in [
        (opt::SET_META_CONTEXT, no_queries(&name), rep::ERR_INVALID), // no structured replies yet
        (opt::STRUCTURED_REPLY, vec![1], rep::ERR_INVALID),
        (opt::STRUCTURED_REPLY, vec![], rep::ACK),
        (opt::SET_META_CONTEXT, no_queries(&name), rep::ACK),
        (
            opt::LIST_META_CONTEXT,
            [&name[..], &[255, 255, 255, 255]].concat(),
            rep::ERR_INVALID,
        ),
        (opt::LIST_META_CONTEXT, no_queries(&other), rep::ERR_UNKNOWN),
        (opt::GO, [&other[..], &[0, 0]].concat(), rep::ERR_UNKNOWN),
        (opt::GO, vec![0, 0, 0, 200, 1, 2], rep::ERR_INVALID),
        (opt::INFO, [&name[..], &[0, 9]].concat(), rep::ERR_INVALID),
        (opt::LIST, vec![1], rep::ERR_INVALID),
        (opt::STARTTLS, vec![], rep::ERR_POLICY), // no certificate here
        (0xdead_beef, vec![1; 5000], rep::ERR_UNSUP),
        (0xdead_beef, vec![1; 50_000], rep::ERR_TOO_BIG),
        (opt::ABORT, vec![], rep::ACK),
    ] {
        assert_eq!(
            raw.option(option, &data).option_reply().0,
            expected,
            "option {option} {data:?}"
        );
    }
    raw.assert_closed();
}

#[test]
fn old_clients_choose_by_export_name_and_the_empty_name_is_the_only_export() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.take(18);
    raw.say(&1_u32.to_be_bytes()).option(opt::EXPORT_NAME, b"");
    let answer = raw.take(10 + 124);
    assert_eq!(protocol::be64(&answer, 0), SIZE as u64);
    raw.request(cmd::FLUSH, 0, 1, 0, 0);
    assert_eq!(raw.simple_reply(), (0, 1));
    raw.request(cmd::DISC, 0, 0, 0, 0).assert_closed();
    let mut raw = served.raw();
    raw.greet().option(opt::EXPORT_NAME, b"other").assert_closed();
}

#[test]
fn the_empty_name_is_refused_when_it_could_mean_two_devices() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let exports = Exports::new();
    exports.add(Export::new("a", MemDevice::new(512)));
    exports.add(Export::new("b", MemDevice::new(1024)).read_only());
    let server = NbdServer::listen_unix(&socket, exports.clone(), None, NbdLimits::default()).unwrap();
    assert!(matches!(
        NbdClient::connect(&socket, ""),
        Err(NbdClientError::Refused { .. })
    ));
    let mut b = NbdClient::connect(&socket, "b").unwrap();
    assert_eq!(b.size(), 1024);
    assert_eq!(errno(b.write(0, &[0; 512])), libc::EPERM);
    // An export that goes away: no new connections, and the old one can be cut.
    assert!(exports.remove("b") && !exports.remove("b"));
    assert!(NbdClient::connect(&socket, "b").is_err());
    server.disconnect("b");
    assert!(matches!(b.flush(), Err(NbdClientError::Io { .. })));
    assert_eq!(NbdClient::connect(&socket, "").unwrap().size(), 512);
}

#[test]
fn stopping_the_server_cuts_clients_and_waits_for_what_is_in_flight() {
    let mut served = Served::new();
    let mut client = served.client();
    let mut stuck = served.raw();
    stuck
        .go(false)
        .request(cmd::READ, 0, 1, 0, 4 << 20)
        .request(cmd::READ, 0, 2, 0, 4 << 20);
    served.device.hold(true);
    client
        .start(Command::Write {
            offset: 0,
            data: &[1; 4096],
            fua: false,
        })
        .unwrap();
    until("all are at the device", || {
        served.device.submitted.load(Ordering::SeqCst) == 3
    });
    let server = served.server.take().unwrap();
    let stopping = std::thread::spawn(move || drop(server));
    assert!(matches!(client.finish(), Err(NbdClientError::Io { .. })));
    assert!(!stopping.is_finished(), "a write is still at the device");
    served.device.hold(false);
    stopping.join().unwrap();
    assert_eq!(served.device.image()[0], 1);
    assert!(!served.socket().exists());
}

#[test]
fn a_dead_servers_socket_is_replaced_and_anything_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listen = || NbdServer::listen_unix(&socket, Exports::new(), None, NbdLimits::default());
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap()); // leaves its file
    let server = listen().unwrap();
    assert!(matches!(listen(), Err(NbdListenError::InUse { .. })));
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    std::fs::write(&socket, "not a socket").unwrap();
    assert!(matches!(listen(), Err(NbdListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&socket).unwrap(), b"not a socket");
}

#[test]
fn zeroes_are_never_fast_and_long_ones_let_others_in_between() {
    let served = Served::new();
    served.client().write(0, &noise(3, SIZE)).unwrap();
    let mut raw = served.raw();
    raw.go(false);
    raw.request(cmd::WRITE_ZEROES, cmd_flag::FAST_ZERO, 1, 0, 512);
    assert_eq!(raw.simple_reply(), (95, 1));
    let long = u32::try_from(SIZE).unwrap();
    raw.request(cmd::WRITE_ZEROES, cmd_flag::FUA | cmd_flag::NO_HOLE, 2, 0, long);
    assert_eq!(raw.simple_reply(), (0, 2));
    assert!(served.device.image().iter().all(|b| *b == 0));
    assert_eq!(served.device.zeroes.load(Ordering::SeqCst), 2, "in two pieces");
    assert_eq!(
        served.device.fuas.load(Ordering::SeqCst),
        1,
        "durable with the last"
    );
    served.device.failing.store(true, Ordering::SeqCst);
    raw.request(cmd::WRITE_ZEROES, 0, 3, 0, long);
    assert_eq!(raw.simple_reply(), (5, 3));
}
