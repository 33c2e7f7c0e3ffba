//! Starts: what is found on the disk, and what is told about it; `fsck`.

use std::time::Duration;

use crate::backed_up;
use crate::support::{ARCHIVE, LOG, Model, Operator, Sent, Site, api_error, diff, send_diff, wdiff};
use walb_common::rest::archive::Diffs;
use walb_common::rest::{ErrorCode, VolumeBrief};
use walb_common::types::Lb;
use walb_common::wire::message::RefusalReason;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_volume_is_shown_with_its_reason_and_keeps_no_other_down() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "good").await;
    backed_up(&site, &running.address, "bad").await;
    running.stop(&site).await;
    std::fs::remove_file(site.image("wb_bad")).unwrap();
    // Leftovers of interrupted work, and a stranger.
    std::fs::write(site.data("good").join("20261122140300-M--9-10.wdiff.tmp"), "x").unwrap();
    std::fs::write(site.image("wr_good_2_tmp"), "x").unwrap();
    std::fs::create_dir(site.data("half.init")).unwrap();
    std::fs::create_dir(site.data("lost+found")).unwrap();
    // A leftover that cannot be removed as such.
    std::fs::create_dir(site.image("wr_other_4_tmp")).unwrap();
    std::fs::create_dir(site.data("pki")).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let list: Vec<VolumeBrief> = site
        .viewer
        .get(&running.address, ARCHIVE, "/v1/volumes")
        .await
        .unwrap();
    assert_eq!(
        list.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
        ["bad", "good"]
    );
    assert!(list[0].failed.as_ref().unwrap().contains("wb_bad"));
    let error = api_error(operator.restore("bad", 4).await);
    assert_eq!(error.code, ErrorCode::Corrupt);
    let sent = send_diff(&site, &running.address, "bad", diff(4, 5), &[]).await;
    assert_eq!(sent.refusal(), RefusalReason::Other);
    assert_eq!(operator.image_of("good", 4).await, images[4]);
    assert!(!site.data("half.init").exists() && !site.image("wr_good_2_tmp").exists());
    assert!(
        !site
            .data("good")
            .join("20261122140300-M--9-10.wdiff.tmp")
            .exists()
    );
    // What failed can be reset.
    operator.command("bad", "reset").await.unwrap();
    assert_eq!(operator.status("bad").await.failed, None);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_cannot_be_written_keeps_no_volume_down() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    operator.image_of("vol0", 3).await;
    running.stop(&site).await;
    // As on a full disk: the index is behind the files, and no row can be added.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(site.data("metadata.sqlite"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    for sql in [
        "DELETE FROM diff",
        "CREATE TRIGGER full BEFORE INSERT ON diff BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let status = operator.status("vol0").await;
    assert_eq!((status.state.as_str(), status.num_diff), ("Archived", 4));
    // What makes room again works, and what needs no row.
    operator.delete_restored("vol0", 3).await.unwrap();
    assert_eq!(operator.image_of("vol0", 4).await, images[4]);
    let records = Model::new(0).change(1);
    let sent = send_diff(&site, &running.address, "vol0", diff(4, 5), &records).await;
    assert!(matches!(sent, Sent::Failed(_)), "{sent:?}");
    assert_eq!(operator.status("vol0").await.num_diff, 4);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_diffs_is_shown_with_its_gids() {
    let site = Site::new();
    let running = site.start().await;
    backed_up(&site, &running.address, "vol0").await;
    let operator = Operator::at(&site, &running.address);
    let records = Model::new(0).change(1);
    let sent = send_diff(&site, &running.address, "vol0", diff(6, 7), &records).await;
    assert_eq!(sent.refusal(), RefusalReason::TooNewDiff);
    let warnings = operator.status("vol0").await.warnings;
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("gap: the diffs from gid 4 to gid 6 have not come"),
        "{warnings:?}"
    );
    let sent = send_diff(&site, &running.address, "vol0", diff(4, 6), &records).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    assert_eq!(operator.status("vol0").await.warnings, [""; 0]);
    running.stop(&site).await;
    // A diff that is lost here.
    let lost = std::fs::read_dir(site.data("vol0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with("-2-3.wdiff"))
        .unwrap();
    std::fs::remove_file(lost).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    assert_eq!(
        operator.status("vol0").await.warnings,
        ["gap: no diff leads from gid 2 to gid 3; 2 diffs beyond it cannot be used"]
    );
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archives_never_share_a_data_directory() {
    let site = Site::new();
    let running = site.start().await;
    let config = walb_archive_server::Config::load(&site.config_path()).unwrap();
    let life = walb_common::daemon::lifecycle::Lifecycle::new(Duration::from_secs(1));
    let error = walb_archive_server::ArchiveServer::open(config, life)
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("in use by another walb-archive"),
        "{error}"
    );
    running.stop(&site).await;
}

fn fsck(site: &Site, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_walb-archive"))
        .args(["fsck", "--config"])
        .arg(site.config_path())
        .args(args)
        .env("WALB_LOG", "error")
        .output()
        .unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsck_names_every_contradiction_once_and_rebuilds_the_index() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    running.stop(&site).await;
    assert_eq!(fsck(&site, &["--read"]), (true, String::new()));

    let lost = diff(3, 4).with_mergeable(false).file_name();
    std::fs::remove_file(site.data("vol0").join(&lost)).unwrap();
    let damaged = site.data("vol0").join(diff(2, 3).file_name());
    let good = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &good[..good.len() - 1]).unwrap();
    std::fs::write(site.data("vol0").join("strange.wdiff"), "x").unwrap();
    let (clean, told) = fsck(&site, &["--read"]);
    let lines: Vec<&str> = told.lines().collect();
    assert!(!clean && lines.len() == 3, "{told}");
    assert!(lines[0].contains("strange.wdiff is left alone"), "{told}");
    assert!(
        lines[1].contains(&format!("{lost} is in the index, but the file is gone")),
        "{told}"
    );
    assert!(lines[2].contains(damaged.to_str().unwrap()), "{told}");

    std::fs::write(&damaged, good).unwrap();
    std::fs::remove_file(site.data("vol0").join("strange.wdiff")).unwrap();
    assert_eq!(fsck(&site, &["--read"]), (true, String::new()));
    // Without an index, it is made anew.
    std::fs::remove_file(site.data("metadata.sqlite")).unwrap();
    let (clean, told) = fsck(&site, &[]);
    assert!(
        !clean && told.lines().count() == 3 && told.contains("taken up"),
        "{told}"
    );
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    assert_eq!(operator.restorable("vol0").await, [2, 3]);
    assert_eq!(operator.image_of("vol0", 3).await, images[3]);
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diffs_that_no_snapshot_needs_go_at_the_start_but_none_beyond_a_gap() {
    let site = Site::new();
    let running = site.start().await;
    let images = backed_up(&site, &running.address, "vol0").await;
    running.stop(&site).await;
    // 1-3 merged by hand makes 1-2 and 2-3 superfluous; 6-7 lies beyond a gap.
    let dir = site.data("vol0");
    let records = Model::new(0).change(2);
    let whole = walb_common::format::wdiff::WdiffRecord::normal(Lb(0), images[3].clone().into());
    std::fs::write(dir.join(diff(1, 3).file_name()), wdiff(LOG, &[whole])).unwrap();
    std::fs::write(dir.join(diff(6, 7).file_name()), wdiff(LOG, &records)).unwrap();
    let running = site.start().await;
    let operator = Operator::at(&site, &running.address);
    let diffs: Diffs = operator.get("vol0/diffs").await.unwrap();
    let shown: Vec<String> = diffs.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["|0|-->|1|", "|1|-->|3|", "|3|-->|4|", "|6|-->|7|"]);
    assert!(!dir.join(diff(1, 2).file_name()).exists() && dir.join(diff(6, 7).file_name()).exists());
    assert_eq!(operator.restorable("vol0").await, [3, 4]);
    assert_eq!(operator.image_of("vol0", 4).await, images[4]);
    running.stop(&site).await;
}
