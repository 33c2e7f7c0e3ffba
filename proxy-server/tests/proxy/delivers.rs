//! Diffs that go out: to all archives, whatever these answer.

use crate::support::archive::{Archive, Whim};
use crate::support::storage::Storage;
use crate::support::{Site, api, until};
use crate::{PBS, volume};
use walb_common::rest::proxy::{Diffs, Status};
use walb_common::rest::{Empty, JobState, StopMode};
use walb_common::types::{Gid, PhysicalBlockSize, Uuid};
use walb_common::wire::identity::Role;
use walb_common::wire::message::RefusalReason;

#[tokio::test]
async fn logs_of_several_volumes_reach_all_their_archives_byte_for_byte() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archives = [
        Archive::start(&site, "a0").await,
        Archive::start(&site, "a1").await,
    ];
    let mut storages = Vec::new();
    for (seed, pbs) in [(1, PBS), (2, PhysicalBlockSize::B4096)] {
        let storage = Storage::new(&site, &format!("vol{seed}"), seed, pbs);
        for (archive, name) in archives.iter().zip(["a0", "a1"]) {
            proxy.add(storage.volume.as_str(), name, &archive.address).await;
        }
        proxy.start_volume(storage.volume.as_str()).await;
        storages.push(storage);
    }
    for _ in 0..5 {
        for storage in &mut storages {
            let log = storage.write(30);
            storage.send(&proxy.address, &log).await.unwrap();
        }
    }
    for storage in &storages {
        for archive in &archives {
            archive.reached(&storage.volume, Gid(5)).await;
            archive.assert_equals(&storage.volume, &storage.image);
            assert!(archive.model().accepted.iter().all(|b| b.size == storage.size));
        }
        let name = storage.volume.as_str();
        proxy.drained(name).await;
        assert_eq!(site.names(name, "received"), [""; 0]);
        assert_eq!(site.names(name, "sendto/a0"), [""; 0]);
        let status = proxy.status(name).await;
        assert_eq!((status.state.as_str(), status.size), ("Started", storage.size));
        assert!(status.last_wlog_received.0 > 0 && status.archives[0].last_sent.0 > 0);
    }
}

#[tokio::test]
async fn waiting_diffs_are_merged_into_one_transfer_but_never_across_lives_of_the_log() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    archive.whim(Whim::Refuse(RefusalReason::Syncing));
    for uuid in [1, 1, 1, 2] {
        storage.uuid = Uuid([uuid; 16]);
        // While the archive is refused with a growing pause, they gather.
        archive.whim(Whim::Refuse(RefusalReason::Syncing));
        let log = storage.write(20);
        storage.send(&proxy.address, &log).await.unwrap();
    }
    archive.reached(&storage.volume, Gid(4)).await;
    archive.assert_equals(&storage.volume, &storage.image);
    let accepted = archive.model().accepted.clone();
    assert!(accepted.len() >= 2);
    assert!(
        accepted
            .iter()
            .all(|b| b.diff.end().begin() <= Gid(3) || b.diff.begin().begin() >= Gid(3)),
        "{accepted:?}"
    );
    assert_eq!(accepted.last().unwrap().uuid, Uuid([2; 16]));
}

#[tokio::test]
async fn an_archive_that_hangs_delays_no_other() {
    let site = Site::new();
    let proxy = site.start("").await;
    let (stuck, good) = (
        Archive::start(&site, "a0").await,
        Archive::start(&site, "a1").await,
    );
    proxy.add("vol0", "a1", &good.address).await;
    let mut storage = volume(&site, &proxy, &stuck).await;
    stuck.whim(Whim::Hang);
    for gid in 1..4 {
        let log = storage.write(20);
        storage.send(&proxy.address, &log).await.unwrap();
        good.reached(&storage.volume, Gid(gid)).await;
    }
    good.assert_equals(&storage.volume, &storage.image);
    assert_eq!(stuck.latest(&storage.volume), Gid(0));
    // A graceful stop waits for the transfer that hangs, a forced one cuts it; both end Stopped.
    let job = proxy.stop("vol0", StopMode::Graceful).await.unwrap();
    assert_eq!(
        api(proxy.stop("vol0", StopMode::Force).await.unwrap_err()).message,
        "already under stopping"
    );
    let _: walb_common::rest::Job = proxy
        .post(&format!("/v1/jobs/{job}/cancel"), &Empty {})
        .await
        .unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Cancelled);
    assert_eq!(proxy.state("vol0").await, "Started");
    let job = proxy.stop("vol0", StopMode::Force).await.unwrap();
    let job = proxy.job(job).await;
    assert_eq!(
        (job.state, proxy.state("vol0").await.as_str()),
        (JobState::Succeeded, "Stopped"),
        "{:?}",
        job.error
    );
    proxy.start_volume("vol0").await;
    stuck.reached(&storage.volume, Gid(3)).await;
    stuck.assert_equals(&storage.volume, &storage.image);
}

#[tokio::test]
async fn every_refusal_leads_to_its_reaction() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let mut gid = 0;
    for whim in [
        Whim::Refuse(RefusalReason::TooNewDiff),
        Whim::Refuse(RefusalReason::Syncing),
        Whim::Refuse(RefusalReason::WdiffRecv),
        Whim::Refuse(RefusalReason::Stopped),
        Whim::Refuse(RefusalReason::Limit),
        Whim::NoDone,
        Whim::Fail,
    ] {
        archive.whim(whim);
        let log = storage.write(10);
        storage.send(&proxy.address, &log).await.unwrap();
        gid += 1;
        archive.reached(&storage.volume, Gid(gid)).await;
    }
    for reason in [RefusalReason::SmallerSize, RefusalReason::ArchiveNotFound] {
        archive.whim(Whim::Refuse(reason));
        let log = storage.write(10);
        storage.send(&proxy.address, &log).await.unwrap();
        gid += 1;
        let archive_status = until("the error flag", || async {
            let status = proxy.status("vol0").await.archives.remove(0);
            status.send_error.then_some(status)
        })
        .await;
        assert_eq!(
            (archive_status.num_diff, archive_status.min_gid),
            (1, Some(Gid(gid - 1)))
        );
        assert!(archive_status.last_error.unwrap().contains("refused"));
        let diffs: Diffs = proxy.get("/v1/volumes/vol0/diffs?archive=a0").await.unwrap();
        assert_eq!(diffs.len(), 1);
        if reason == RefusalReason::SmallerSize {
            proxy.kick().await;
        } else {
            // A new log clears the flag as well.
            let log = storage.write(10);
            storage.send(&proxy.address, &log).await.unwrap();
            gid += 1;
        }
        archive.reached(&storage.volume, Gid(gid)).await;
        proxy.drained("vol0").await;
        assert!(!proxy.status("vol0").await.archives[0].send_error);
    }
    archive.assert_equals(&storage.volume, &storage.image);
    // Diffs of another life of the log are dropped.
    archive.model().uuid = Some(Uuid([9; 16]));
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    proxy.drained("vol0").await;
    assert_eq!(site.names("vol0", "sendto/a0"), [""; 0]);
    storage.uuid = Uuid([9; 16]);
    storage.gid = archive.latest(&storage.volume);
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, storage.gid).await;
}

#[tokio::test]
async fn an_archive_that_is_down_is_reached_when_it_is_back_and_stop_empty_waits_for_it() {
    let site = Site::new();
    let proxy = site.start("").await;
    let first = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &first).await;
    let port: std::net::SocketAddr = first.address.parse().unwrap();
    first.lifecycle.abort();
    first.lifecycle.until_stopped().await;
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    until("a failure to be shown", || async {
        proxy.status("vol0").await.archives[0].last_error.clone()
    })
    .await;
    let job = proxy.stop("vol0", StopMode::Empty).await.unwrap();
    until("the state", || async {
        (proxy.state("vol0").await == "WaitForEmpty").then_some(())
    })
    .await;
    assert!(
        storage.offer(&proxy.address, &log).await.is_err(),
        "no log is taken meanwhile"
    );
    let back = Archive::start(&site, "a1").await;
    // It is back elsewhere: a man in the middle leads there, as a restarted archive has its old port.
    let _ = port;
    let listener = tokio::net::TcpListener::bind(port).await.unwrap();
    let there = back.address.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let there = there.clone();
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(there).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    let job = proxy.job(job).await;
    assert_eq!(
        (job.state, proxy.state("vol0").await.as_str()),
        (JobState::Succeeded, "Stopped"),
        "{:?}",
        job.error
    );
    back.assert_equals(&storage.volume, &storage.image);
}

#[tokio::test]
async fn a_diff_waits_for_the_delay_of_its_archive_and_a_kick_ends_the_wait() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let info =
        serde_json::json!({ "address": archive.address, "compression": "zstd:1:1", "delay_seconds": 3600 });
    let put = axum::http::Method::PUT;
    let path = "/v1/volumes/vol0/archives/a0";
    let Empty {} = proxy
        .operator
        .request(&proxy.address, &[Role::Proxy], put, path, Some(&info))
        .await
        .unwrap();
    proxy.start_volume("vol0").await;
    // The start makes it look once; there is nothing.
    until("the task to be idle", || async {
        let status: Status = proxy.get("/v1/status").await.unwrap();
        status.tasks.is_empty().then_some(())
    })
    .await;
    let mut storage = Storage::new(&site, "vol0", 1, PBS);
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    let status: Status = proxy.get("/v1/status").await.unwrap();
    assert!(status.tasks[0].time_diff_ms > 3_000_000, "{:?}", status.tasks);
    assert_eq!(status.volumes[0].archives[0].num_diff, 1);
    proxy.kick().await;
    archive.reached(&storage.volume, Gid(1)).await;
    archive.assert_equals(&storage.volume, &storage.image);
}
