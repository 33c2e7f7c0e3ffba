//! Starts: what a restart finds, whole or damaged.

use std::time::Duration;

use crate::support::archive::{Archive, Whim};
use crate::support::storage::{NotSent, Storage};
use crate::support::{Site, api, until};
use crate::{PBS, volume};
use walb_common::format::wdiff::INDEX_SUPER_SIZE;
use walb_common::rest::{JobState, StopMode, VolumeBrief};
use walb_common::types::{Gid, Lb};
use walb_common::wire::message::RefusalReason;

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
