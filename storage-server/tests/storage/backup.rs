//! Full backup.

use std::sync::Arc;

use walb_common::rest::JobState;

use crate::support::{Manner, Site, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_of_a_device_that_is_written_to_and_what_follows_is_the_device() {
    let site = Arc::new(Site::new().await);
    site.wdev.scribble("d0", 1, 200).await;
    site.peers.treat(&[Manner::Hold]);
    let job = site.storage.full_backup("vol0").await.unwrap();
    assert_eq!(site.storage.status("vol0").await.state, "FullSync");
    // The log flows while the scan stands still.
    site.wdev.scribble("d0", 2, 50).await;
    until("a wlog arrives during the scan", async || {
        site.peers.look(|a| !a.wlogs.is_empty())
    })
    .await;
    assert_eq!(site.storage.job(job).await.state, JobState::Running);
    site.peers.go_on();
    site.wdev.scribble("d0", 3, 50).await;
    let job = site.storage.job_ended(job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.error);
    let result = job.result.unwrap();
    assert_eq!(
        (result["state"].as_str(), result["bytes"].as_u64()),
        (Some("Target"), Some(4 << 20))
    );
    let snapshot = site.peers.look(|a| a.snapshot).unwrap();
    assert_eq!(
        (snapshot.begin().0, Some(snapshot.end().0)),
        (0, result["gid"].as_u64())
    );
    site.wdev.scribble("d0", 4, 200).await;
    site.check().await;
    let status = site.storage.status("vol0").await;
    assert_eq!(
        (status.state.as_str(), status.monitored, status.last_error),
        ("Target", true, None)
    );
    // Delivered log leaves the device with the next checkpoint.
    until("the log is erased", async || {
        let lsids = site.wdev.status("d0").await.lsids;
        lsids.oldest == lsids.latest
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_by_the_archive_is_passed_on_and_changes_nothing() {
    let site = Site::new().await;
    let before = site.wdev.uuid("d0").await;
    site.peers.treat(&[Manner::Refuse]);
    let error = site.storage.full_backup("vol0").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not accepted by archive:a0:bad state:Clear"),
        "{error}"
    );
    assert_eq!(site.storage.status("vol0").await.state, "SyncReady");
    assert_eq!(site.wdev.uuid("d0").await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_that_breaks_off_rolls_back_and_the_next_one_succeeds() {
    let site = Site::new().await;
    site.wdev.scribble("d0", 1, 50).await;
    site.peers.treat(&[Manner::BreakOff]);
    let job = site.storage.full_backup("vol0").await.unwrap();
    let job = site.storage.job_ended(job).await;
    assert_eq!(job.state, JobState::Failed);
    let status = site.storage.status("vol0").await;
    assert_eq!((status.state.as_str(), status.monitored), ("SyncReady", false));
    assert!(status.last_error.unwrap().contains("full backup"));
    site.backup().await;
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_during_a_backup_lets_it_complete_and_ends_in_stopped() {
    let site = Site::new().await;
    site.wdev.scribble("d0", 1, 50).await;
    site.peers.treat(&[Manner::Hold]);
    let backup = site.storage.full_backup("vol0").await.unwrap();
    let stop = site.storage.stop("vol0", "graceful").await.unwrap();
    let second = site.storage.stop("vol0", "graceful").await.unwrap_err();
    assert!(second.to_string().contains("already under stopping"), "{second}");
    // The log still flows, or it would overflow during a long backup.
    site.wdev.scribble("d0", 2, 50).await;
    until("a wlog arrives during the stop", async || {
        site.peers.look(|a| !a.wlogs.is_empty())
    })
    .await;
    site.peers.go_on();
    assert_eq!(site.storage.job_ended(backup).await.state, JobState::Succeeded);
    assert_eq!(site.storage.job_ended(stop).await.state, JobState::Succeeded);
    let status = site.storage.status("vol0").await;
    assert_eq!((status.state.as_str(), status.monitored), ("Stopped", false));
    site.wdev.scribble("d0", 3, 50).await;
    site.storage
        .command("vol0", "start", serde_json::json!({ "role": "target" }))
        .await
        .unwrap();
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_forced_stop_and_a_cancel_cut_a_backup() {
    let site = Site::new().await;
    for by_stop in [true, false] {
        site.peers.treat(&[Manner::Hold]);
        let backup = site.storage.full_backup("vol0").await.unwrap();
        if by_stop {
            let stop = site.storage.stop("vol0", "force").await.unwrap();
            assert_eq!(site.storage.job_ended(stop).await.state, JobState::Succeeded);
        } else {
            let _: serde_json::Value = site
                .storage
                .post(&format!("/v1/jobs/{backup}/cancel"), &serde_json::json!({}))
                .await
                .unwrap();
        }
        assert!(site.storage.job_ended(backup).await.result.is_none());
        site.storage.in_state("vol0", "SyncReady").await;
    }
}
