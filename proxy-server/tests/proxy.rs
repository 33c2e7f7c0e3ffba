//! Goal: what a guest wrote reaches every archive, whatever the archives answer and however the proxy is restarted.
//! Method: a hand-made storage and hand-made archives around a proxy in this process; images are compared.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::archive::{Archive, Whim};
use support::storage::{NotSent, Storage};
use support::{Proxy, Site, api, until, vol};
use walb_common::format::wdiff::INDEX_SUPER_SIZE;
use walb_common::rest::proxy::{Archives, Diffs, KickRequest, Status};
use walb_common::rest::{Empty, ErrorCode, JobState, StopMode, VolumeBrief};
use walb_common::types::{Gid, Lb, PhysicalBlockSize, Uuid};
use walb_common::wire::client::ClientError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::{RefusalReason, StreamKind};
use walb_common::wire::stream::Bulk;

const PBS: PhysicalBlockSize = PhysicalBlockSize::B512;

/// A started volume with one archive.
async fn volume(site: &Site, proxy: &Proxy, archive: &Archive) -> Storage {
    proxy.add("vol0", "a0", &archive.address).await;
    proxy.start_volume("vol0").await;
    Storage::new(site, "vol0", 1, PBS)
}

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
async fn a_damaged_log_is_refused_with_its_place_and_nothing_is_stored() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let log = storage.write(40);
    let good = log.bytes();
    for at in [9, 600, good.len() / 2, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 4;
        let error = storage
            .send_bytes(&proxy.address, &log, bad.into(), 1 << 20)
            .await
            .unwrap_err()
            .text();
        // The padding of the last block of an IO is summed by nobody; the generator fills it, so look for the others.
        assert!(
            error.contains("volume vol0: ") && error.contains("logpack"),
            "at {at}: {error}"
        );
        assert_eq!(site.names("vol0", "received"), [""; 0]);
        assert_eq!(site.names("vol0", "sendto/a0"), [""; 0]);
        assert_eq!(proxy.state("vol0").await, "Started");
    }
    // Cut in the middle of a pack; another end than announced; more than announced; a dirty diff.
    let cut = good.slice(..good.len() - 700);
    let error = storage
        .send_bytes(&proxy.address, &log, cut, 1 << 20)
        .await
        .unwrap_err()
        .text();
    assert!(error.contains("breaks off"), "{error}");
    let mut wrong = log.clone();
    wrong.commit.end.0 += 1;
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(error.contains("the log ends at lsid"), "{error}");
    let mut wrong = log.clone();
    wrong.begin.max_pb /= 2;
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(error.contains("more log than announced"), "{error}");
    let mut wrong = log.clone();
    let dirty = walb_common::lineage::Snapshot::new(Gid(1), Gid(9)).unwrap();
    wrong.commit.diff = walb_common::lineage::MetaDiff::new(wrong.commit.diff.begin(), dirty).unwrap();
    let error = storage.send(&proxy.address, &wrong).await.unwrap_err().text();
    assert!(
        error.contains("expected a clean diff, found |0|-->|1,9|"),
        "{error}"
    );
    assert_eq!(site.names("vol0", "received"), [""; 0]);
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, Gid(1)).await;
    archive.assert_equals(&storage.volume, &storage.image);
}

#[tokio::test]
async fn a_storage_that_goes_away_leaves_nothing_behind() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let log = storage.write(40);
    let mut stream = storage.offer(&proxy.address, &log).await.unwrap();
    stream
        .send_bulk(Bulk::raw(0, log.bytes().slice(..2000)))
        .await
        .unwrap();
    until("the receive to begin", || async {
        (proxy.state("vol0").await == "WlogRecv").then_some(())
    })
    .await;
    // While one storage sends, another is refused.
    let NotSent::Refused(refusal) = storage.offer(&proxy.address, &log).await.err().unwrap() else {
        panic!()
    };
    assert_eq!(refusal.reason, RefusalReason::BadState);
    assert!(
        refusal.message.contains("bad state:WlogRecv"),
        "{}",
        refusal.message
    );
    drop(stream);
    until("the volume to be at rest", || async {
        (proxy.state("vol0").await == "Started").then_some(())
    })
    .await;
    until("the half file to go", || async {
        site.names("vol0", "received").is_empty().then_some(())
    })
    .await;
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, Gid(1)).await;
}

#[tokio::test]
async fn the_same_range_sent_again_is_taken_without_error_and_delivered_once() {
    let site = Site::new();
    let proxy = site.start("").await;
    let archive = Archive::start(&site, "a0").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    archive.whim(Whim::Refuse(RefusalReason::Syncing));
    let log = storage.write(20);
    for _ in 0..3 {
        storage.send(&proxy.address, &log).await.unwrap();
    }
    archive.reached(&storage.volume, Gid(1)).await;
    storage.send(&proxy.address, &log).await.unwrap();
    let next = storage.write(20);
    storage.send(&proxy.address, &next).await.unwrap();
    archive.reached(&storage.volume, Gid(2)).await;
    proxy.drained("vol0").await;
    archive.assert_equals(&storage.volume, &storage.image);
    assert_eq!(site.names("vol0", "sendto/a0"), [""; 0]);
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
async fn states_and_waiting_diffs_survive_a_restart() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    archive.whim(Whim::Refuse(RefusalReason::SmallerSize));
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    until("the error flag", || async {
        proxy.status("vol0").await.archives[0].send_error.then_some(())
    })
    .await;
    proxy.add("vol1", "a0", &archive.address).await;
    proxy.stop_daemon().await;
    assert_eq!(site.names("vol0", "sendto/a0").len(), 1);
    // What an interrupted receive and an interrupted distribution leave.
    let root = site.data_dir().join("volumes/vol0");
    std::fs::write(root.join("received/receive-0.tmp"), b"half").unwrap();
    let name = site.names("vol0", "sendto/a0").remove(0);
    std::fs::rename(
        root.join("sendto/a0").join(&name),
        root.join("received").join(&name),
    )
    .unwrap();

    let proxy = site.start("").await;
    archive.reached(&storage.volume, Gid(1)).await;
    archive.assert_equals(&storage.volume, &storage.image);
    proxy.drained("vol0").await;
    assert_eq!(site.names("vol0", "received"), [""; 0]);
    let status = proxy.status("vol0").await;
    assert_eq!((status.state.as_str(), status.size), ("Started", Lb(4096)));
    assert_eq!(proxy.state("vol1").await, "Stopped");
    let job = proxy.stop("vol0", StopMode::Graceful).await.unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Succeeded);
    proxy.stop_daemon().await;
    let proxy = site.start("").await;
    assert_eq!(proxy.state("vol0").await, "Stopped", "a stopped volume stays so");
    let log = storage.write(10);
    let NotSent::Refused(refusal) = storage.offer(&proxy.address, &log).await.err().unwrap() else {
        panic!()
    };
    assert!(
        refusal.message.contains("bad state:Stopped, expected Started"),
        "{}",
        refusal.message
    );
}

#[tokio::test]
async fn a_damaged_wdiff_is_set_aside_and_the_others_go_on() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    archive.whim(Whim::Refuse(RefusalReason::SmallerSize));
    let log = storage.write(40);
    storage.send(&proxy.address, &log).await.unwrap();
    until("the error flag", || async {
        proxy.status("vol0").await.archives[0].send_error.then_some(())
    })
    .await;
    proxy.stop_daemon().await;
    let dir = site.data_dir().join("volumes/vol0/sendto/a0");
    let name = site.names("vol0", "sendto/a0").remove(0);
    let mut bytes = std::fs::read(dir.join(&name)).unwrap();
    // A copy is cut so short that its header is gone: found at start. The diff itself has a bit turned in its index.
    std::fs::write(dir.join("20260101000000----7-8.wdiff"), &bytes[..20]).unwrap();
    let last_record = bytes.len() - INDEX_SUPER_SIZE - 5;
    bytes[last_record] ^= 1;
    std::fs::write(dir.join(&name), &bytes).unwrap();

    let proxy = site.start("").await;
    let damaged = until("both to be set aside", || async {
        let status = proxy.status("vol0").await.archives.remove(0);
        (status.damaged.len() == 2).then_some(status)
    })
    .await;
    assert_eq!(
        damaged.damaged,
        [
            "20260101000000----7-8.wdiff.bad".to_owned(),
            format!("{name}.bad")
        ]
    );
    assert!(damaged.last_error.unwrap().contains(&name));
    assert_eq!(site.names("vol0", "sendto/a0").len(), 2);
    // What comes next is offered; the archive misses what was lost and says so.
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    until("the refusal", || async {
        let error = proxy.status("vol0").await.archives[0].last_error.clone();
        error.filter(|e| e.contains("TooNewDiff"))
    })
    .await;
    drop(proxy);
}

#[tokio::test]
async fn one_volume_that_cannot_be_used_keeps_no_other_from_starting() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    proxy.add("vol1", "a0", &archive.address).await;
    proxy.start_volume("vol1").await;
    proxy.stop_daemon().await;
    let sendto = site.data_dir().join("volumes/vol1/sendto");
    std::fs::remove_dir(sendto.join("a0")).unwrap();
    std::fs::write(sendto.join("a0"), b"no directory").unwrap();
    std::fs::create_dir_all(site.data_dir().join("volumes/vol9/sendto/a0")).unwrap();

    let proxy = site.start("").await;
    let volumes: Vec<VolumeBrief> = proxy.get("/v1/volumes").await.unwrap();
    let failed: Vec<_> = volumes
        .iter()
        .map(|v| (v.name.as_str(), v.failed.is_some()))
        .collect();
    assert_eq!(failed, [("vol0", false), ("vol1", true), ("vol9", true)]);
    let log = storage.write(10);
    storage.send(&proxy.address, &log).await.unwrap();
    archive.reached(&storage.volume, Gid(1)).await;
    let mut other = Storage::new(&site, "vol1", 2, PBS);
    let log = other.write(10);
    let error = other.offer(&proxy.address, &log).await.err().unwrap().text();
    assert!(error.contains("volume cannot be used"), "{error}");
    // Another archive does not mend it.
    let job = proxy.stop("vol1", StopMode::Graceful).await.unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Succeeded);
    let added = proxy.try_add("vol1", "a1", &archive.address).await;
    assert!(api(added.unwrap_err()).message.contains("volume cannot be used"));
    assert!(proxy.status("vol1").await.failed.is_some());
    // Mended, then started again; the unknown one is taken up with its archive.
    std::fs::remove_file(sendto.join("a0")).unwrap();
    proxy.start_volume("vol1").await;
    other.send(&proxy.address, &log).await.unwrap();
    archive.reached(&other.volume, Gid(1)).await;
    proxy.add("vol9", "a0", &archive.address).await;
    assert_eq!(proxy.status("vol9").await.failed, None);
}

#[tokio::test]
async fn commands_are_checked_and_answered_in_one_line() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let status = proxy.status("vol0").await;
    assert_eq!((status.state.as_str(), status.archives.len()), ("Clear", 0));
    let post = |path: &'static str| async { api(proxy.post::<_, Empty>(path, &Empty {}).await.unwrap_err()) };
    let error = post("/v1/volumes/vol0/start").await;
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::WrongState, "bad state:Clear, expected Stopped")
    );
    assert_eq!(error.hint.as_deref(), Some("no volume vol0 here"));
    let error = post("/v1/volumes/vol0/clear").await;
    assert_eq!(error.message, "bad state:Clear, expected Stopped");
    let error = api(proxy.stop("vol0", StopMode::Graceful).await.unwrap_err());
    assert_eq!(error.message, "bad state:Clear, expected Started");
    assert_eq!(post("/v1/volumes/vol_0/start").await.code, ErrorCode::BadRequest);
    let error = api(proxy.try_add("vol0", "a0", "no port").await.unwrap_err());
    assert!(error.message.contains("HOST:PORT expected"), "{error}");
    assert_eq!(
        proxy.get::<Vec<VolumeBrief>>("/v1/volumes").await.unwrap().len(),
        0
    );

    proxy.add("vol0", "a0", &archive.address).await;
    proxy.add("vol0", "a1", &archive.address).await;
    let error = api(proxy.try_add("vol0", "a0", "127.0.0.1:9").await.unwrap_err());
    assert_eq!(error.code, ErrorCode::AlreadyExists);
    let archives: Archives = proxy.get("/v1/volumes/vol0/archives").await.unwrap();
    assert_eq!(
        archives["a0"].address, archive.address,
        "a refused add changes nothing"
    );
    let error = api(proxy
        .get::<Empty>("/v1/volumes/vol0/archives/a7")
        .await
        .unwrap_err());
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::NotFound, "archive info not exists:a7")
    );
    assert_eq!(
        api(proxy.delete("/v1/volumes/vol0/archives/a7").await.unwrap_err()).code,
        ErrorCode::NotFound
    );
    proxy.delete("/v1/volumes/vol0/archives/a1").await.unwrap();
    proxy.start_volume("vol0").await;
    assert_eq!(
        api(proxy.try_add("vol0", "a1", &archive.address).await.unwrap_err()).code,
        ErrorCode::WrongState
    );
    let unknown = KickRequest {
        volume: Some("vol0".into()),
        archive: Some("a9".into()),
    };
    let error = api(proxy.post::<_, Empty>("/v1/kick", &unknown).await.unwrap_err());
    assert_eq!(error.message, "archive does not exist:a9");
    let status: Status = proxy.get("/v1/status").await.unwrap();
    assert_eq!((status.global.node_id.as_str(), status.volumes.len()), ("p0", 1));
    let job = proxy.stop("vol0", StopMode::Graceful).await.unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Succeeded);
    proxy.delete("/v1/volumes/vol0/archives/a0").await.unwrap();
    assert_eq!(proxy.state("vol0").await, "Clear");
    assert!(!site.data_dir().join("volumes/vol0").exists());

    // Roles: a storage sends logs, and only that; nobody else does.
    let viewer = site.client(Role::Viewer, "viewer");
    let refused = viewer
        .post::<_, Empty>(
            &proxy.address,
            &[Role::Proxy],
            "/v1/kick",
            &KickRequest::default(),
        )
        .await;
    assert_eq!(api(refused.unwrap_err()).code, ErrorCode::Forbidden);
    let refused = viewer
        .open_stream(&proxy.address, Role::Proxy, StreamKind::Wlog, &vol("vol0"))
        .await;
    let Err(ClientError::Api(error)) = refused else {
        panic!("expected a refusal")
    };
    assert_eq!(error.code, ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_log_that_does_not_fit_the_disk_is_refused_before_anything_is_sent() {
    let site = Site::new();
    let archive = Archive::start(&site, "a0").await;
    let proxy = site.start("").await;
    let mut storage = volume(&site, &proxy, &archive).await;
    let mut log = storage.write(10);
    log.begin.max_pb = u64::MAX / 2;
    let NotSent::Refused(refusal) = storage.offer(&proxy.address, &log).await.err().unwrap() else {
        panic!()
    };
    assert_eq!(refusal.reason, RefusalReason::NoSpace);
    assert!(
        refusal.message.contains("MiB expected") && refusal.message.contains("found free"),
        "{}",
        refusal.message
    );
    assert_eq!(proxy.state("vol0").await, "Started");
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

#[tokio::test]
async fn two_daemons_never_share_a_data_directory() {
    let site = Site::new();
    let _proxy = site.start("").await;
    let config = walb_proxy_server::config::Config::load(&site.config("")).unwrap();
    let life = walb_common::daemon::lifecycle::Lifecycle::new(Duration::from_secs(1));
    let error = walb_proxy_server::ProxyServer::open(config, life)
        .await
        .err()
        .unwrap();
    let text = walb_common::daemon::chain(&error);
    assert!(text.contains("another daemon uses this data directory"), "{text}");
}
