//! kill -9 at every persisting step, and at random moments: a restart alone heals.

use serde_json::json;

use crate::support::{Manner, Site, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_dies_at_any_persisting_step_goes_on_after_a_restart_alone() {
    let mut site = Site::new().await;
    site.backup().await;
    let points = [
        "storage.implicit-snapshot.storing",
        "storage.implicit-snapshot.stored",
        "storage.done.storing",
        "storage.done.stored",
        "storage.erase",
    ];
    for (seed, point) in points.into_iter().enumerate() {
        site.storage.restart(Some(&format!("{point}=crash@2"))).await;
        for more in 0..1000 {
            site.wdev.scribble("d0", (seed * 1000 + more) as u64, 5).await;
            if site.storage.done_gid("vol0").await.is_none() {
                break;
            }
        }
        site.storage.died().await;
        site.storage.restart(None).await;
        assert_eq!(site.storage.status("vol0").await.state, "Target", "after {point}");
        site.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_that_fails_for_want_of_space_is_shown_and_repeated() {
    let mut site = Site::new().await;
    site.backup().await;
    for point in [
        "storage.done.storing",
        "storage.done.stored",
        "storage.implicit-snapshot.storing",
        "storage.erase",
    ] {
        site.storage.restart(Some(&format!("{point}=enospc@1"))).await;
        site.wdev.scribble("d0", 1, 20).await;
        site.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_that_was_answered_survives_the_death_that_follows_it() {
    let mut site = Site::new().await;
    site.backup().await;
    site.peers.stop_proxy().await;
    site.wdev.scribble("d0", 1, 20).await;
    let gid = site.storage.snapshot("vol0").await.unwrap();
    site.storage.restart(None).await;
    site.peers.start_proxy().await;
    site.delivered(gid).await;
    let explicit = site
        .peers
        .look(|a| a.wlogs.iter().any(|w| w.diff.end().begin().0 == gid));
    assert!(explicit, "an explicit snapshot ends a diff");
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_that_dies_anywhere_leaves_sync_ready_and_the_next_one_succeeds() {
    let mut site = Site::new().await;
    site.wdev.scribble("d0", 1, 50).await;
    for point in [
        "storage.reset.device",
        "storage.backup-reset.storing",
        "storage.backup-reset.stored",
        "storage.snapshot.storing",
        "storage.snapshot.stored",
        "storage.backup.commit",
        "storage.backup-target.storing",
    ] {
        site.storage.restart(Some(&format!("{point}=crash"))).await;
        let _ = site.storage.full_backup("vol0").await;
        site.storage.died().await;
        site.storage.restart(None).await;
        let status = site.storage.status("vol0").await;
        assert_eq!(
            (status.state.as_str(), status.monitored),
            ("SyncReady", false),
            "after {point}"
        );
    }
    // The last step makes it a target for good.
    site.storage
        .restart(Some("storage.backup-target.stored=crash"))
        .await;
    site.storage.full_backup("vol0").await.unwrap();
    site.storage.died().await;
    site.storage.restart(None).await;
    assert_eq!(site.storage.status("vol0").await.state, "Target");
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_die_before_they_are_stored_have_not_happened() {
    let mut site = Site::new().await;
    site.backup().await;
    site.storage.restart(Some("storage.stop.storing=crash")).await;
    let _ = site.storage.stop("vol0", "graceful").await;
    site.storage.died().await;
    site.storage.restart(Some("storage.stop.stored=crash")).await;
    site.storage.in_state("vol0", "Target").await;
    let _ = site.storage.stop("vol0", "graceful").await;
    site.storage.died().await;
    for (fault, state) in [
        ("storage.start-target.storing=crash", "Stopped"),
        ("storage.start-target.stored=crash", "Target"),
    ] {
        site.storage.restart(Some(fault)).await;
        assert_eq!(site.storage.status("vol0").await.state, "Stopped");
        let _ = site
            .storage
            .command("vol0", "start", json!({ "role": "target" }))
            .await;
        site.storage.died().await;
        site.storage.restart(None).await;
        site.storage.in_state("vol0", state).await;
    }
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_at_random_moments_under_load_nothing_is_lost() {
    let mut site = Site::new().await;
    site.backup().await;
    for round in 0..20 {
        site.peers
            .treat(&[Manner::LoseAnswer; 1][..usize::from(round % 4 == 0)]);
        site.wdev.scribble("d0", round, 1 + round * 7 % 40).await;
        site.storage.restart(None).await;
    }
    until("it is a target", async || {
        site.storage.status("vol0").await.state == "Target"
    })
    .await;
    site.check().await;
}
