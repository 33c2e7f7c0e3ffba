//! `walbc` as scripts see it: what is on stdout, what is on stderr, how it exits. Against a fake archive with real TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use support::{DAY, FakeArchive, Outcome, Pki, command, run};
use time::OffsetDateTime;
use walb_common::wire::identity::Role;
use walb_common::wire::pki::Authority;
use walb_common::wire::tls::TlsContext;

#[test]
fn answers_are_printed_as_scripts_parse_them_and_nothing_else() {
    let archive = FakeArchive::start();
    archive.walbc("get host-type").prints("archive\n");
    archive
        .walbc("-id ctl -to 3 -retry 0 get state vol0")
        .prints("Archived\n");
    archive.walbc("get state vol9").prints("Clear\n");
    archive.walbc("get vol").prints("vol0\nvol1\n");
    archive
        .walbc("get pid")
        .prints(&format!("{}\n", std::process::id()));
    archive
        .walbc("get diff vol0 2 4")
        .prints("|2|-->|3| M- --- 7\n|3|-->|4| M- --- 7\n");
    archive.walbc("get num-diff vol0 5 9").prints("4\n");
    archive.walbc("get total-diff-size vol0 5 9").prints("28\n");
    archive.walbc("get base vol0").prints("<|2|>-20261122140200\n");
    archive
        .walbc("get uuid vol0")
        .prints("abababababababababababababababab\n");
    archive.walbc("get vol-size vol0").prints("65536\n");
    archive.walbc("get exists-base-image vol9").prints("0\n");
    archive.walbc("get num-action vol0 Merge").prints("0\n");
    archive.walbc("get restorable vol9").prints("");
    archive
        .walbc("get restored-path vol0 9")
        .prints("/images/wr_vol0_9\n");
    archive
        .walbc("get latest-snap vol0")
        .prints("name:vol0\tkind:archive\tgid:9\ttimestamp:---\n");
    archive.walbc("init-vol vol2").prints("");
    archive.walbc("restore vol0 9").prints("");
    archive.walbc("--wait stop vol0").prints("");
    archive.walbc("version").prints(&format!(
        "version:{}\tbuild_date:---\tlog_version:2\tcommit:---\n",
        env!("CARGO_PKG_VERSION")
    ));
    let status = archive.walbc("status vol0").stdout;
    assert!(
        status.starts_with("hostType archive\nvolume vol0\nstate Archived\naction Merge 0"),
        "{status}"
    );
}

#[test]
fn json_is_the_servers_own() {
    let archive = FakeArchive::start();
    let status: serde_json::Value =
        serde_json::from_str(&archive.walbc("--json status vol0").stdout).unwrap();
    assert_eq!(
        (status["state"].as_str(), status["size"].as_u64()),
        (Some("Archived"), Some(65536))
    );
    let accepted: serde_json::Value =
        serde_json::from_str(&archive.walbc("restore vol0 9 --json").stdout).unwrap();
    assert!(accepted["job"].is_u64(), "{accepted}");
    let job: serde_json::Value =
        serde_json::from_str(&archive.walbc("--json --wait restore vol0 9").stdout).unwrap();
    assert_eq!(
        (job["state"].as_str(), job["result"]["gid"].as_u64()),
        (Some("succeeded"), Some(9)),
        "{job}"
    );
}

#[test]
fn a_job_that_is_waited_for_decides_the_exit_status() {
    let archive = FakeArchive::start();
    archive.walbc("--wait restore vol0 9").prints("");
    archive.walbc("--wait restore vol0 10").fails_with(&[
        "restore:job ",
        "disk is full",
        "(free some space)",
    ]);
    let listed = archive.walbc("jobs vol0").stdout;
    assert!(
        listed.contains(" restore vol0 failed ") && listed.contains(" restore vol0 succeeded "),
        "{listed}"
    );
    archive.walbc("jobs vol1").prints("");
}

#[test]
fn waiting_ends_with_its_timeout_and_the_job_goes_on_until_it_is_cancelled() {
    let archive = FakeArchive::start();
    archive
        .walbc("--wait --timeout 0 restore vol0 11")
        .fails_with(&["timed out:job 1 still runs", "job 1 --cancel"]);
    let running = archive.walbc("job 1").stdout;
    assert!(running.contains("\nstate running\n"), "{running}");
    assert_eq!(archive.walbc("job 1 --cancel").code, Some(0));
    archive
        .walbc("job 1 --wait")
        .fails_with(&["job 1:restore was cancelled"]);
    archive.walbc("job 77").fails_with(&["no job 77"]);
}

#[test]
fn the_servers_reason_and_hint_are_kept_in_one_line() {
    let archive = FakeArchive::start();
    archive
        .walbc("restore vol9 9")
        .fails_with(&["restore:bad state:Clear, expected Archived:vol9 (no volume vol9 here)"]);
    archive
        .walbc("restore vol0 3")
        .fails_with(&["restore:bad gid to restore:vol0:3\n"]);
    archive.walbc("get base vol9").fails_with(&[
        "get base:bad state:Clear, expected Archived or",
        "(no volume vol9 here)",
    ]);
    archive
        .walbc("get restored-path vol0 8")
        .fails_with(&["volume not found:vol0:8:restored"]);
    archive
        .walbc("stop vol0 empty")
        .fails_with(&["stop empty is not allowed."]);
}

#[test]
fn values_of_a_wrong_form_are_found_before_the_server_is_asked() {
    let pki = Pki::new();
    let config = pki.client(Role::Operator, Duration::ZERO);
    // Nobody listens there: a request would fail in another way.
    let walbc = |arguments: &str| run(command(&config, &format!("-a 127.0.0.1 -p 1 {arguments}")));
    walbc("restore vol_0 9").fails_with(&["bad volume name \"vol_0\": expected 1 to 64 characters"]);
    walbc("restore vol0 -1x").is_refused();
    walbc("restore vol0 9x").fails_with(&["bad gid \"9x\""]);
    walbc("stop vol0 slowly").fails_with(&["bad stop mode \"slowly\": expected graceful, force or empty"]);
    walbc("full-bkp vol0 5m").fails_with(&["bad bulk size \"5m\": expected 512 to 4m"]);
    walbc("start vol0 primary").fails_with(&["specify role: target or standby:primary"]);
    walbc("get diff vol0 9 9").fails_with(&["bad gid range:9:9"]);
    walbc("get num-action vol0 Mergee").fails_with(&["\"Mergee\""]);
    walbc("archive-info add vol0 a0 localhost")
        .fails_with(&["bad address \"localhost\": expected HOST:PORT"]);
    walbc("archive-info add vol0 a0 localhost:1 lz5:0:1").fails_with(&["bad compression type \"lz5\""]);
}

impl Outcome {
    /// Failure with the usage, or a hint at it, on stderr.
    #[track_caller]
    fn is_refused(&self) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert!(!self.stderr.is_empty());
    }
}

#[test]
fn commands_of_another_kind_of_server_and_those_to_come_are_named() {
    let archive = FakeArchive::start();
    archive
        .walbc("snapshot vol0")
        .fails_with(&["bad protocol:snapshot:archive a0 (only a storage knows it)"]);
    archive
        .walbc("kick")
        .fails_with(&["bad protocol:kick:archive a0"]);
    archive
        .walbc("get is-overflow vol0")
        .fails_with(&["no such target:is-overflow:archive a0"]);
    archive
        .walbc("get nonsense")
        .fails_with(&["no such target:nonsense"]);
    archive
        .walbc("get ts-delta")
        .fails_with(&["not yet supported:ts-delta"]);
    archive
        .walbc("apply vol0 3")
        .fails_with(&["not yet supported:apply"]);
    archive
        .walbc("replicate vol0 gid 3 localhost:1")
        .fails_with(&["not yet supported:replicate"]);
}

#[test]
fn a_viewer_may_look_and_change_nothing() {
    let archive = FakeArchive::start();
    let viewer = archive.pki.client(Role::Viewer, Duration::ZERO);
    run(archive.command_as(&viewer, "get state vol0")).prints("Archived\n");
    run(archive.command_as(&viewer, "restore vol0 9"))
        .fails_with(&["role viewer may not POST /v1/volumes/vol0/restore: expected operator"]);
    archive.walbc("jobs").prints("");
}

#[test]
fn where_no_server_is_the_error_says_so_and_retries_are_told() {
    let pki = Pki::new();
    let config = pki.client(Role::Operator, Duration::ZERO);
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let walbc = |arguments: &str| run(command(&config, &arguments.replace("PORT", &free.to_string())));
    walbc("-a 127.0.0.1 -p PORT restore vol0 9")
        .fails_with(&["Connection refused", "no server there: check -a and -p"]);
    walbc("-a 127.0.0.1 -p PORT -retry 0 get pid").fails_with(&["Connection refused"]);
    let retried = walbc("-a 127.0.0.1 -p PORT get pid");
    let lines: Vec<_> = retried.stderr.lines().collect();
    assert_eq!(
        (retried.code, retried.stdout.as_str(), lines.len()),
        (Some(1), "", 5),
        "{retried:?}"
    );
    assert!(
        lines[0].starts_with("error: ")
            && lines[2].starts_with("error: ")
            && lines[4].contains(" ERROR walbc error: ")
    );
    assert_eq!((lines[1], lines[3]), ("retry 1", "retry 2"));
}

#[test]
fn certificates_that_do_not_hold_are_refused_with_what_helps() {
    let archive = FakeArchive::start();
    let expired = archive.pki.client(Role::Operator, 3 * DAY);
    run(archive.command_as(&expired, "get pid"))
        .fails_with(&["our certificate has expired:", "walbc pki issue"]);

    let foreign = Authority::create("foreign", OffsetDateTime::now_utc(), DAY).unwrap();
    archive
        .pki
        .issue_by(&foreign, Role::Operator, "foreign", Duration::ZERO);
    let foreign = archive.pki.client_of("foreign");
    run(archive.command_as(&foreign, "get pid")).fails_with(&["the server does not trust our certificate"]);

    let old = FakeArchive::start_with_certificate_of_age(3 * DAY);
    old.walbc("get pid")
        .fails_with(&["the server's certificate has expired"]);

    let stranger = Pki::new().client(Role::Operator, Duration::ZERO);
    assert!(!stranger.exists());
    run(archive.command_as(&stranger, "get pid")).fails_with(&["no client identity", "walbc pki init"]);
    let stranger = Pki::new();
    let config = stranger.client(Role::Operator, Duration::ZERO);
    run(archive.command_as(&config, "get pid"))
        .fails_with(&["the server's certificate is not from our authority"]);
}

#[test]
fn a_server_without_tls_is_told_from_a_missing_one() {
    let pki = Pki::new();
    let config = pki.client(Role::Operator, Duration::ZERO);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
        let _ = tcp.read(&mut [0; 1024]);
    });
    run(command(&config, &format!("-a 127.0.0.1 -p {port} get pid")))
        .fails_with(&["does not speak TLS: check -a and -p"]);
    server.join().unwrap();
}

/// A server with a good certificate that answers one request with `answer`.
fn garbage(answer: &'static str) -> Outcome {
    let pki = Pki::new();
    let config = pki.client(Role::Operator, Duration::ZERO);
    let tls = TlsContext::load(&pki.issue(Role::Archive, "a0", Duration::ZERO)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let connection = rustls::ServerConnection::new(Arc::clone(&tls.current().server)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let outcome = run(command(
        &config,
        &format!("-a 127.0.0.1 -p {port} -retry 0 get pid"),
    ));
    server.join().unwrap();
    outcome
}

#[test]
fn answers_that_are_not_walbs_are_refused_in_one_line() {
    garbage("\u{0}\u{1}garbage\nmore\n").fails_with(&["request to 127.0.0.1:"]);
    garbage("").fails_with(&["request to 127.0.0.1:"]);
    garbage("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        .fails_with(&["an answer that is not WalB's"]);
    garbage("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        .fails_with(&["the answer is not of the form expected"]);
    garbage("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 8\r\n\r\nno\nluck\n")
        .fails_with(&["status 502", "no luck"]);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let archive = FakeArchive::start();
    let mut child = archive
        .command("get diff vol0 0 100000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..]),
        "{output:?}"
    );
}

#[test]
fn wrong_usage_is_told_on_stderr() {
    let pki = Pki::new();
    let config = pki.client(Role::Operator, Duration::ZERO);
    for (arguments, reason) in [
        ("-p 1 status", "OptionError:-a HOST is required"),
        ("-a s status", "OptionError:-p PORT is required"),
        ("-a s -p 1", "subcommand"),
        ("-a s -p 1 stauts", "stauts"),
        ("-a s -p 1 restore vol0", "<GID>"),
        ("-a s -p 1 restore vol0 1 2", "'2'"),
        ("-a s -p 1 -nonsense status", "-n"),
        ("-a s -p 70000 status", "70000"),
        ("-a s -p 1 -retry 3 snapshot vol0", "OptionError:-retry"),
        ("--timeout 3 status", "--wait"),
    ] {
        let outcome = run(command(&config, arguments));
        outcome.is_refused();
        assert!(outcome.stderr.contains(reason), "{arguments}: {outcome:?}");
    }
}

#[test]
fn help_needs_neither_server_nor_identity() {
    let nowhere = Pki::new().path("gone.toml");
    for arguments in [
        "-h",
        "--help",
        "get -h",
        "status -h",
        "restore --help",
        "pki issue -h",
        "-a s -p 1 get state -h",
    ] {
        let outcome = run(command(&nowhere, arguments));
        assert_eq!(
            (outcome.code, outcome.stderr.as_str()),
            (Some(0), ""),
            "{arguments}: {outcome:?}"
        );
        assert!(outcome.stdout.contains("Example:"), "{arguments}: {outcome:?}");
    }
    assert_eq!(run(command(&nowhere, "--version")).code, Some(0));
}

#[test]
fn an_identity_made_by_pki_is_accepted_by_a_server() {
    let pki = tempfile::tempdir().unwrap();
    let dir = pki.path().to_str().unwrap();
    let nowhere = pki.path().join("gone.toml");
    let walbc = |arguments: &str| run(command(&nowhere, &arguments.replace("DIR", dir)));
    walbc("pki init --dir DIR").prints(&format!("{dir}/ca.pem\n{dir}/ca.key\n"));
    walbc("pki issue --dir DIR --role operator --id alice --days 7")
        .prints(&format!("{dir}/alice.pem\n{dir}/alice.key\n"));
    walbc("pki issue --dir DIR --role archive --id a0 --host localhost --host 127.0.0.1 ::1 --out DIR/a0");
    let shown = walbc("pki show DIR/a0/a0.pem").stdout;
    assert!(
        shown.starts_with("identity archive a0\n") && shown.contains("hosts localhost 127.0.0.1 ::1\n"),
        "{shown}"
    );
    walbc("pki init --dir DIR").fails_with(&["pki init:already exists:"]);
    walbc("pki issue --dir DIR --role visitor --id x").fails_with(&["bad role \"visitor\""]);
    walbc("pki show DIR/none.pem").fails_with(&["none.pem"]);
}
