//! Goal: whoever has a certificate and speaks nonsense behind the upgrade is told what is wrong and left alone; the
//! daemon, its volumes and everybody else go on. Method: raw TLS, bytes by hand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use walb_common::wire::identity;
use walb_common::wire::tls::TlsContext;
use walb_tests::wait::PATIENCE;
use walb_tests::{Cluster, Role, VolumeSpec};

/// A connection after the answer 101, in the name of a storage.
async fn upgraded(cluster: &Cluster, role: Role, path: &str) -> Result<TlsStream<TcpStream>> {
    let files = cluster.pki.issue(identity::Role::Storage, "s7")?;
    let connector = TlsConnector::from(TlsContext::load(&files)?.current().client);
    let tcp = TcpStream::connect(cluster.address(role)).await?;
    let mut tls = connector.connect(ServerName::try_from("127.0.0.1")?, tcp).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: walb/1\r\n\r\n");
    tls.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.context("answer to the upgrade")?);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok(tls)
}

/// Everything the peer still says; fails if it does not end.
async fn rest(mut tls: TlsStream<TcpStream>) -> Result<String> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), tls.read_to_end(&mut all)).await;
    // How it ends does not matter, that it ends does.
    let _ = read.context("the connection was not closed")?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut header = vec![0; 32];
    header[0] = kind;
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header
}

#[test]
fn nonsense_behind_the_upgrade_is_named_and_harms_nobody() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.protect(&VolumeSpec {
        size: 8 << 20,
        log_size: 16 << 20,
        ..VolumeSpec::default()
    })?;
    let too_long = header(1, 1 << 30);
    let wrong_checksum = header(1, 0);
    let cases: [(&str, &[u8], &str); 4] = [
        (
            "garbage",
            b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\nand more of it",
            "unknown kind of frame",
        ),
        (
            "a frame longer than allowed",
            &too_long,
            "frame too long: at most 65536 bytes allowed, 1073741824 announced",
        ),
        ("a wrong checksum", &wrong_checksum, "frame checksum mismatch"),
        (
            "bulk before the handshake",
            &header_with_sum(2),
            "expected a message, found Bulk",
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for (role, path) in [
        (Role::Proxy, "/v1/streams/wlog/vol0"),
        (Role::Archive, "/v1/streams/full-backup/vol0"),
    ] {
        for (what, bytes, told) in &cases {
            let answer = runtime.block_on(async {
                let mut tls = upgraded(&cluster, role, path).await?;
                tls.write_all(bytes).await?;
                tls.flush().await?;
                rest(tls).await
            })?;
            ensure!(
                answer.contains(told),
                "{what} to {role:?}: expected {told:?}, found {answer:?}"
            );
        }
    }
    let gid = cluster.snapshot("vol0")?;
    cluster.until_restorable("vol0", gid, PATIENCE)
}

/// An empty frame with a right checksum.
fn header_with_sum(kind: u8) -> Vec<u8> {
    let mut header = header(kind, 0);
    let sum = xxhash_rust::xxh3::xxh3_64(&header[..24]);
    header[24..].copy_from_slice(&sum.to_le_bytes());
    header
}

#[test]
fn a_stream_of_the_wrong_role_is_refused_before_the_upgrade() -> Result<()> {
    let cluster = Cluster::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // A storage may not send wdiffs; only proxies may.
    let error = runtime
        .block_on(upgraded(&cluster, Role::Archive, "/v1/streams/wdiff/vol0"))
        .err();
    let error = error.context("a storage was let in as a proxy")?.to_string();
    ensure!(error.contains("403"), "{error}");
    Ok(())
}
