//! Goal: nothing a client does, or does not do, hurts another client, the device, or the server's memory. Method: raw
//! bytes against a device in memory.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::raw::{Raw, until};
use support::served::Served;
use support::{MemDevice, noise};
use walb_wdev::nbd::client::{Command, NbdClient};
use walb_wdev::nbd::protocol::{Request, cmd};
use walb_wdev::nbd::{Export, Exports, NbdLimits, NbdServer};

#[test]
fn garbage_in_the_handshake_closes_the_connection_and_hurts_nobody() {
    let served = Served::new();
    let mut good = served.client();
    for garbage in [
        &[0xff; 4][..], // unknown client flags
        &[0, 0, 0, 2],  // not fixed newstyle
        &[
            0, 0, 0, 3, b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'X', 0, 0, 0, 3, 0, 0, 0, 0,
        ],
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff", // a 4 GiB option
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut raw = served.raw();
        raw.take(18);
        raw.say(garbage).assert_closed();
    }
    for cut in 0..20 {
        let mut raw = served.raw();
        raw.take(18);
        raw.say(&b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x09"[..cut]); // and then gone
    }
    good.flush().unwrap();
    until("the bad connections have gone", || {
        served.server.as_ref().unwrap().connections("vol") == 1
    });
}

#[test]
fn a_flood_of_unknown_options_is_cut_off() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.greet();
    let option = [
        b"IHAVEOPT".as_slice(),
        &99_u32.to_be_bytes(),
        &0_u32.to_be_bytes(),
    ]
    .concat();
    let sent = (0..1000).take_while(|_| raw.0.write_all(&option).is_ok()).count();
    assert!(sent > 0);
    raw.assert_closed();
    served.client().flush().unwrap();
}

#[test]
fn a_client_that_says_nothing_or_drips_is_cut_off_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let exports = Exports::new();
    exports.add(Export::new("vol", MemDevice::new(512)));
    let limits = NbdLimits {
        handshake: Duration::from_millis(200),
        ..NbdLimits::default()
    };
    let _server = NbdServer::listen_unix(&socket, exports, None, limits).unwrap();
    let started = Instant::now();
    let mut silent = Raw::connect(&socket);
    silent.assert_closed();
    let mut dripping = Raw::connect(&socket);
    dripping.greet();
    while dripping.0.write_all(b"I").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut patient = NbdClient::connect(&socket, "vol").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    patient.flush().unwrap(); // the deadline is for the handshake only
}

#[test]
fn nonsense_after_the_handshake_closes_the_connection_without_touching_the_device() {
    let served = Served::new();
    let before = served.device.image();
    let truncated = &Request {
        flags: 0,
        kind: cmd::WRITE,
        cookie: 1,
        offset: 0,
        length: 4096,
    }
    .encode();
    let huge = &Request {
        flags: 0,
        kind: cmd::WRITE,
        cookie: 1,
        offset: 0,
        length: u32::MAX,
    }
    .encode();
    for bytes in [&[0xaa; 28][..], huge] {
        let mut raw = served.raw();
        raw.go(false).say(bytes).assert_closed();
    }
    for cut in [1, 27, 28] {
        let mut raw = served.raw();
        raw.go(false).say(&truncated[..cut]);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        raw.assert_closed();
    }
    let mut raw = served.raw();
    raw.go(false).say(truncated).say(&[1; 4095]);
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    raw.assert_closed();
    assert!(served.device.image() == before);
    until("all have gone", || {
        served.server.as_ref().unwrap().connections("vol") == 0
    });
}

#[test]
fn a_client_that_never_reads_stalls_only_itself_within_its_window() {
    let served = Served::new();
    let mut stuck = served.raw();
    stuck.go(false);
    stuck
        .0
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    // Many more MiB of reads than the window: at some point the server stops taking requests.
    let header = Request {
        flags: 0,
        kind: cmd::READ,
        cookie: 1,
        offset: 0,
        length: 1 << 20,
    }
    .encode();
    let mut asked = 0_u64;
    while asked < 100_000 && stuck.0.write_all(&header).is_ok() {
        asked += 1;
    }
    assert!(
        asked < 100_000,
        "the server goes on reading requests whose answers nobody takes"
    );
    assert!(
        served.device.submitted.load(Ordering::SeqCst) <= 64,
        "more than the window reached the device"
    );
    let mut other = served.client();
    for i in 0..100 {
        other.write(i * 512, &[1; 512]).unwrap();
    }
    drop(stuck);
    until("the stuck one has gone", || {
        served.server.as_ref().unwrap().connections("vol") == 1
    });
}

/// Serves `export` under limits of its own.
fn serve_with(export: Export, limits: NbdLimits) -> (tempfile::TempDir, PathBuf, NbdServer) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let exports = Exports::new();
    exports.add(export);
    let server = NbdServer::listen_unix(&socket, exports, None, limits).unwrap();
    (dir, socket, server)
}

#[test]
fn hundreds_of_clients_are_served_and_one_more_is_told_why_it_is_not() {
    const CLIENTS: usize = 300;
    let device = MemDevice::new(CLIENTS * 4096);
    let export = Export::new("vol", device.clone()).clients_max(CLIENTS);
    let (_dir, socket, server) = serve_with(export, NbdLimits::default());
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| NbdClient::connect(&socket, "vol").unwrap())
        .collect();
    let refused = NbdClient::connect(&socket, "vol").unwrap_err().to_string();
    assert!(refused.contains("in use by 300 clients"), "{refused}");
    // All at once: every request is under way before the first answer is taken.
    for (n, client) in (0_u64..).zip(&mut clients) {
        let data = noise(n + 1, 4096);
        client
            .start(Command::Write {
                offset: n * 4096,
                data: &data,
                fua: false,
            })
            .unwrap();
    }
    for client in &mut clients {
        client.finish().unwrap().result.unwrap();
    }
    let expected: Vec<u8> = (0..CLIENTS as u64).flat_map(|n| noise(n + 1, 4096)).collect();
    assert!(device.image() == expected);
    assert_eq!(server.connections("vol"), CLIENTS);
    clients.pop().unwrap().disconnect().unwrap();
    until("there is room again", || {
        NbdClient::connect(&socket, "vol").is_ok()
    });
}

#[test]
fn strangers_never_keep_a_client_out_and_the_slowest_of_them_makes_room() {
    let limits = NbdLimits {
        haggling: 4,
        ..NbdLimits::default()
    };
    let (_dir, socket, server) = serve_with(Export::new("vol", MemDevice::new(512)), limits);
    let mut first = NbdClient::connect(&socket, "vol").unwrap();
    let mut strangers: Vec<_> = (0..40).map(|_| Raw::connect(&socket)).collect();
    for stranger in &mut strangers[36..] {
        stranger.greet();
    }
    // Long before their deadline.
    for stranger in &mut strangers[..36] {
        stranger.assert_closed();
    }
    let mut second = NbdClient::connect(&socket, "vol").unwrap();
    first.flush().unwrap();
    second.flush().unwrap();
    assert_eq!(server.connections("vol"), 2);
}

#[test]
fn one_thread_accepts_for_all_servers_and_none_that_is_crowded_holds_another_up() {
    let accepting = || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).ok());
        names.filter(|name| name.trim() == "nbd-accept").count()
    };
    let crowded_limits = NbdLimits {
        haggling: 1,
        handshake: Duration::from_secs(3600),
        ..NbdLimits::default()
    };
    let (_dir, crowded, _server) = serve_with(Export::new("vol", MemDevice::new(512)), crowded_limits);
    let mut served: Vec<_> = (0..50).map(|_| Served::new()).collect();
    // Servers of other tests that come and go share it; one that ends just now is gone soon.
    until("one thread accepts", || accepting() == 1);
    let strangers: Vec<_> = (0..20).map(|_| Raw::connect(&crowded)).collect();
    for each in &served {
        each.client().flush().unwrap();
    }
    // A server that stops takes nobody any more, and the others go on.
    drop(served.pop().unwrap().server.take());
    let gone = served[0].socket();
    drop(served[0].server.take());
    assert!(NbdClient::connect(&gone, "vol").is_err());
    served[1].client().flush().unwrap();
    drop(strangers);
    NbdClient::connect(&crowded, "vol").unwrap().flush().unwrap();
}

#[test]
fn a_write_longer_than_allowed_is_refused_and_the_connection_goes_on() {
    let served = Served::new();
    let mut raw = served.raw();
    raw.go(false);
    raw.request(cmd::WRITE, 0, 1, 0, (32 << 20) + 512);
    let piece = vec![0xaa; 1 << 20];
    for _ in 0..32 {
        raw.say(&piece);
    }
    raw.say(&piece[..512]);
    assert_eq!(raw.simple_reply(), (22, 1));
    raw.request(cmd::FLUSH, 0, 2, 0, 0);
    assert_eq!(raw.simple_reply(), (0, 2));
    assert!(served.device.image().iter().all(|b| *b == 0));
}

#[test]
fn random_bytes_and_half_sensible_frames_end_at_most_their_own_connection() {
    let served = Served::new();
    let mut good = served.client();
    for seed in 1..=200_u64 {
        let random = noise(seed, 4096);
        let mut raw = served.raw();
        // Whatever becomes of the bytes, the server is done with them when it closes; some it never takes.
        match seed % 4 {
            0 => {
                let _ = raw.0.write_all(&random);
            }
            1 => {
                raw.greet();
                let _ = raw.0.write_all(&random);
            }
            2 => {
                raw.greet();
                // Options that are real, with random data.
                for (nth, data) in random.chunks(64).enumerate() {
                    let head = [
                        b"IHAVEOPT".as_slice(),
                        &[0, 0, 0, (nth % 12) as u8],
                        &[0, 0, 0, 64],
                    ]
                    .concat();
                    if raw.0.write_all(&[&head[..], data].concat()).is_err() {
                        break;
                    }
                }
            }
            _ => {
                raw.go(seed % 8 == 3);
                // Requests that change nothing, with random fields.
                for fields in random.chunks_exact(28) {
                    let mut frame = fields.to_vec();
                    frame[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
                    frame[6] = 0;
                    frame[7] = [0, 3, 5, 7, 8, 200][usize::from(fields[7]) % 6];
                    if raw.0.write_all(&frame).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = raw.0.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = raw.0.read_to_end(&mut rest);
        good.flush().unwrap();
    }
    assert!(served.device.image().iter().all(|b| *b == 0));
    until("only the good one is left", || {
        served.server.as_ref().unwrap().connections("vol") == 1
    });
}
