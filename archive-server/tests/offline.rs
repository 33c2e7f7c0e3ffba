//! Goal: what an archive received can be restored from its files alone, by no code of its own: every snapshot it lists,
//! while it runs, and of a copy without its database. Method: real transfers into a real archive, `walbc offline restore`,
//! the bytes as the sender remembers them.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use support::{Model, Operator, Sent, Site, diff, full_backup, send_diff};
use walb_offline::Offline;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    offline: Offline,
}

fn offline(words: &[&str]) -> bool {
    let words = std::iter::once("offline").chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).unwrap();
    match cli.offline.run(false) {
        Ok(code) => code == ExitCode::SUCCESS,
        Err(error) => panic!("{error}"),
    }
}

fn check(archive: &Path, gids: &[u64], images: &[Vec<u8>]) {
    let place = tempfile::tempdir().unwrap();
    for gid in gids {
        let (out, text) = (place.path().join(format!("{gid}")), gid.to_string());
        let (archive, out_text) = (archive.to_str().unwrap(), out.to_str().unwrap());
        let words = [
            "restore",
            "--archive",
            archive,
            "--volume",
            "vol0",
            "--gid",
            &text,
            "-o",
            out_text,
        ];
        assert!(offline(&words));
        let expected = &images[usize::try_from(*gid).unwrap()];
        assert!(std::fs::read(&out).unwrap() == *expected, "gid {gid} differs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_snapshot_of_a_real_archive_is_restored_from_its_files_alone() {
    let site = Site::new();
    let running = site.start().await;
    let address = running.address.clone();
    let operator = Operator::at(&site, &address);
    operator.command("vol0", "init").await.unwrap();

    // The scan took what was written up to gid 2 here and there; the diffs make it whole.
    let mut model = Model::new(3);
    let mut images = vec![model.bytes.clone()];
    let mut changes = Vec::new();
    for n in 0..8 {
        changes.push(model.change(n));
        images.push(model.bytes.clone());
    }
    let mut scanned = images[0].clone();
    for (n, chunk) in scanned.chunks_mut(4096).enumerate() {
        chunk.copy_from_slice(&images[n % 3][n * 4096..][..chunk.len()]);
    }
    let sent = full_backup(&site, &address, "vol0", &scanned, 2).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    for (gid, records) in (0..).zip(&changes) {
        let sent = send_diff(&site, &address, "vol0", diff(gid, gid + 1), records).await;
        assert!(matches!(sent, Sent::Done), "{sent:?}");
    }
    let gids = operator.restorable("vol0").await;
    assert_eq!(gids.last(), Some(&8));

    // The archive runs and holds its lock.
    let data = site.data("");
    let (of, listed, bytes) = (data.clone(), gids.clone(), images.clone());
    tokio::task::spawn_blocking(move || check(&of, &listed, &bytes))
        .await
        .unwrap();
    let all: Vec<u64> = (2..=8).collect();
    let (of, bytes) = (data.clone(), images.clone());
    tokio::task::spawn_blocking(move || check(&of, &all, &bytes))
        .await
        .unwrap();

    // A copy of volumes and images, nothing else of it.
    running.stop(&site).await;
    let copy = tempfile::tempdir().unwrap();
    for part in ["vol0", "images"] {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(data.join(part))
            .arg(copy.path())
            .status();
        assert!(status.unwrap().success());
    }
    let path = copy.path().to_str().unwrap().to_owned();
    tokio::task::spawn_blocking(move || {
        check(Path::new(&path), &(2..=8).collect::<Vec<_>>(), &images);
        assert!(offline(&["verify", "--archive", &path]));
    })
    .await
    .unwrap();
}
