//! Transfers: what happens when something on the way does not.

use std::io::Read;
use std::os::unix::fs::FileExt;

use serde_json::json;
use walb_common::types::PhysicalBlockSize;
use walb_wdev::client::WalDevice;

use crate::support::{Manner, Site, free_address, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_refused_broken_off_or_not_answered_is_sent_again() {
    let site = Site::new().await;
    site.backup().await;
    for (seed, manner) in [Manner::Refuse, Manner::BreakOff, Manner::LoseAnswer]
        .into_iter()
        .enumerate()
    {
        site.peers.treat(&[manner, manner]);
        site.wdev.scribble("d0", seed as u64, 100).await;
        site.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proxy_that_comes_back_is_found_without_a_kick() {
    let site = Site::new().await;
    site.backup().await;
    site.peers.stop_proxy().await;
    site.wdev.scribble("d0", 1, 100).await;
    until("the failure is shown", async || {
        let error = site.storage.status("vol0").await.last_error;
        error.is_some_and(|e| e.contains("no proxy took the log"))
    })
    .await;
    site.peers.start_proxy().await;
    site.check().await;
    assert_eq!(site.storage.status("vol0").await.last_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_preferred_proxy_that_is_not_there_costs_nothing_but_a_line_in_the_status() {
    let nobody = free_address();
    let site = Site::preferring(std::slice::from_ref(&nobody), 16 << 20, None).await;
    site.backup().await;
    site.wdev.scribble("d0", 1, 50).await;
    site.check().await;
    let status: walb_common::rest::storage::Status = site.storage.get("/v1/status").await.unwrap();
    let shown: Vec<_> = status
        .proxies
        .iter()
        .map(|p| (p.address.as_str(), p.available))
        .collect();
    assert_eq!(
        shown,
        [(nobody.as_str(), false), (site.peers.proxy.as_str(), true)]
    );
    assert_eq!(site.storage.status("vol0").await.last_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_volumes_of_different_block_sizes_go_side_by_side() {
    let site = Site::new().await;
    site.wdev
        .create_with("d1", 1 << 20, 8 << 20, PhysicalBlockSize::B4096)
        .await;
    site.storage.init("vol1", &site.wdev.spec("d1")).await.unwrap();
    site.backup().await;
    let job = site.storage.full_backup("vol1").await.unwrap();
    assert!(site.storage.job_ended(job).await.error.is_none());
    for i in 0..100 {
        site.wdev.write("d1", i % 32 * 4096, vec![i as u8; 4096]).await;
    }
    let gid = site.storage.snapshot("vol1").await.unwrap();
    until("vol1 is delivered", async || {
        site.storage.done_gid("vol1").await.is_some_and(|g| g >= gid)
    })
    .await;
    let (uuid, content) = (site.wdev.uuid("d1").await, site.wdev.content("d1").await);
    assert!(site.peers.restored(uuid) == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_log_than_a_transfer_may_carry_goes_in_several() {
    let site = Site::new().await;
    site.backup().await;
    site.peers.stop_proxy().await;
    for i in 0..48 {
        site.wdev.write("d0", i * 65536, vec![i as u8; 65536]).await;
    }
    let gid = site.storage.snapshot("vol0").await.unwrap();
    site.peers.start_proxy().await;
    site.delivered(gid).await;
    site.check().await;
    let last = site
        .peers
        .look(|a| a.wlogs.iter().filter(|w| w.writes.len() > 1).count());
    assert!(last >= 3, "3 MiB in transfers of at most 1 MiB, found {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_that_goes_away_is_shown_and_healed_by_its_return() {
    let mut site = Site::new().await;
    site.wdev.create("d1", 1 << 20, 4 << 20).await;
    site.storage.init("vol1", &site.wdev.spec("d1")).await.unwrap();
    site.backup().await;
    site.wdev.stop().await;
    until("the failure is shown", async || {
        site.storage.status("vol0").await.last_error.is_some()
    })
    .await;
    // Status goes on for everybody.
    let status: walb_common::rest::storage::Status = site.storage.get("/v1/status").await.unwrap();
    assert_eq!(status.volumes.len(), 2);
    assert!(
        status
            .volumes
            .iter()
            .all(|v| v.log.is_none() && v.last_error.is_some())
    );
    site.wdev.restart().await;
    site.wdev.scribble("d0", 1, 100).await;
    site.check().await;
    assert_eq!(site.storage.status("vol0").await.last_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_whose_device_is_gone_can_be_stopped() {
    let mut site = Site::new().await;
    site.backup().await;
    site.wdev.stop().await;
    let stop = site.storage.stop("vol0", "graceful").await.unwrap();
    assert!(site.storage.job_ended(stop).await.error.is_none());
    assert_eq!(site.storage.status("vol0").await.state, "Stopped");
    let error = site
        .storage
        .command("vol0", "start", json!({ "role": "target" }))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("connect to walb-wdev"), "{error}");
    site.wdev.restart().await;
    site.storage
        .command("vol0", "start", json!({ "role": "target" }))
        .await
        .unwrap();
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flipped_bit_in_the_log_is_never_sent_and_never_skipped() {
    let mut site = Site::new().await;
    site.backup().await;
    site.deliver().await;
    site.peers.stop_proxy().await;
    site.wdev.write("d0", 0, vec![0x55; 4096]).await;
    site.wdev.client("d0").checkpoint().await.unwrap();
    let before = site.peers.look(|a| a.wlogs.len());
    site.wdev.stop().await;
    let path = site.wdev.ldev("d0");
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut log = Vec::new();
    file.read_to_end(&mut log).unwrap();
    let at = log
        .windows(4096)
        .position(|w| w.iter().all(|b| *b == 0x55))
        .unwrap() as u64
        + 100;
    file.write_all_at(&[0x54], at).unwrap();
    site.wdev.restart().await;
    site.peers.start_proxy().await;
    until("the damage is shown", async || {
        let error = site.storage.status("vol0").await.last_error;
        error.is_some_and(|e| e.contains("damaged"))
    })
    .await;
    let error = site.storage.status("vol0").await.last_error.unwrap();
    assert!(error.contains("lsid") && error.contains("record"), "{error}");
    assert_eq!(site.peers.look(|a| a.wlogs.len()), before);
    site.wdev.stop().await;
    file.write_all_at(&[0x55], at).unwrap();
    site.wdev.restart().await;
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_overflowed_log_stops_the_volume_with_the_reason_until_a_reset_and_a_backup() {
    let mut site = Site::with(1 << 20, None).await;
    site.backup().await;
    site.peers.stop_proxy().await;
    for i in 0..60 {
        site.wdev.write("d0", i * 65536, vec![1 + i as u8; 65536]).await;
    }
    site.storage.in_state("vol0", "Stopped").await;
    // Also known after a restart.
    site.storage.restart(None).await;
    let status = site.storage.status("vol0").await;
    assert_eq!(status.state, "Stopped");
    assert!(
        status
            .failed
            .as_ref()
            .unwrap()
            .contains("log continuity lost: the log has overflowed"),
        "{status:?}"
    );
    assert!(status.failed.unwrap().contains("a hash backup goes on from here"));
    for (command, body, known) in [
        ("snapshot", json!({}), "wlog overflow:wdev:"),
        ("start", json!({ "role": "target" }), "overflow:vol0:wdev:"),
    ] {
        let error = site.storage.command("vol0", command, body).await.unwrap_err();
        assert_eq!(error.code, walb_common::rest::ErrorCode::Overflow, "{error}");
        assert!(error.message.starts_with(known), "{error}");
    }
    site.peers.start_proxy().await;
    site.storage.command("vol0", "reset", json!({})).await.unwrap();
    let status = site.storage.status("vol0").await;
    assert_eq!(
        (status.state.as_str(), status.failed, status.last_error),
        ("SyncReady", None, None)
    );
    site.backup().await;
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_somebody_else_reset_stops_the_volume() {
    let site = Site::new().await;
    site.backup().await;
    site.wdev.client("d0").reset_log().await.unwrap();
    site.wdev.scribble("d0", 1, 10).await;
    site.storage.in_state("vol0", "Stopped").await;
    let failed = site.storage.status("vol0").await.failed.unwrap();
    assert!(failed.contains("the device's log has uuid"), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_standby_throws_its_log_away_for_as_long_as_it_grows() {
    let site = Site::with(1 << 20, None).await;
    site.storage
        .command("vol0", "start", json!({ "role": "standby" }))
        .await
        .unwrap();
    for i in 0..100_u64 {
        site.wdev
            .write("d0", (i % 60) * 65536, vec![i as u8; 65536])
            .await;
        if i % 5 == 0 {
            until("half of the ring is free", async || {
                let status = site.wdev.status("d0").await;
                status.log_usage_pb < status.log_capacity_pb / 2
            })
            .await;
        }
    }
    assert!(!site.wdev.status("d0").await.overflow);
    let stop = site.storage.stop("vol0", "graceful").await.unwrap();
    site.storage.job_ended(stop).await;
    assert_eq!(site.storage.status("vol0").await.state, "SyncReady");
    assert!(site.peers.look(|a| a.wlogs.is_empty()));
}
