//! Goal: after a failed or fatal step anywhere, a restart (or nothing at all) and the storage's ordinary resend lead to
//! the same images. Method: the program with one armed fault point; see `walb_common::disk::fault`.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use support::archive::{Archive, Whim};
use support::storage::Storage;
use support::{Proxy, Site, api, until};
use walb_common::format::wdiff::INDEX_SUPER_SIZE;
use walb_common::rest::proxy::VolumeStatus;
use walb_common::rest::{Empty, JobState, StopMode};
use walb_common::types::{Gid, PhysicalBlockSize};
use walb_common::wire::message::RefusalReason;

/// Every step between the first byte of a log and its removal after delivery. `@2` where the daemon's own start
/// passes the point once.
const TRANSFER: [&str; 14] = [
    "proxy.receive.create=ACT@1",
    "proxy.receive.write=ACT@1",
    "proxy.receive.write=ACT@3",
    "proxy.receive.sync=ACT@1",
    "proxy.metadata.size=ACT@1",
    "proxy.receive.rename=ACT@1",
    "disk.rename.before=ACT@2",
    "disk.rename.before_dirsync=ACT@2",
    "proxy.receive.renamed=ACT@1",
    "proxy.distribute.link=ACT@2",
    "proxy.distribute.sync=ACT@2",
    "proxy.distribute.remove=ACT@1",
    "proxy.distribute.removed=ACT@1",
    "proxy.sent.remove=ACT@1",
];

struct Stage {
    site: Site,
    archives: [Archive; 2],
    storage: Storage,
}

/// A started volume with two archives, and no daemon running.
async fn stage() -> Stage {
    let site = Site::new();
    let archives = [
        Archive::start(&site, "a0").await,
        Archive::start(&site, "a1").await,
    ];
    let proxy = site.start_program("", "").await;
    proxy.add("vol0", "a0", &archives[0].address).await;
    proxy.add("vol0", "a1", &archives[1].address).await;
    proxy.start_volume("vol0").await;
    let storage = Storage::new(&site, "vol0", 3, PhysicalBlockSize::B512);
    Stage {
        site,
        archives,
        storage,
    }
}

async fn everything_arrives(stage: &mut Stage, proxy: &Proxy) {
    let log = stage.storage.write(20);
    stage.storage.send_until_done(&proxy.address, &log).await;
    for archive in &stage.archives {
        archive.reached(&stage.storage.volume, stage.storage.gid).await;
        archive.assert_equals(&stage.storage.volume, &stage.storage.image);
    }
    proxy.drained("vol0").await;
    for dir in ["received", "sendto/a0", "sendto/a1"] {
        assert_eq!(stage.site.names("vol0", dir), [""; 0]);
    }
    let status: VolumeStatus = proxy.status("vol0").await;
    assert_eq!((status.state.as_str(), status.failed), ("Started", None));
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_transfer_is_healed_by_a_restart() {
    for point in TRANSFER.into_iter().chain(["proxy.sent.removed=ACT@1"]) {
        let mut stage = stage().await;
        let mut proxy = stage.site.start_program("", &point.replace("ACT", "crash")).await;
        let log = stage.storage.write(30);
        // Acknowledged or not, depending on the point.
        let _ = stage.storage.send(&proxy.address, &log).await;
        proxy.died().await;
        let proxy = stage.site.start_program("", "").await;
        stage.storage.send_until_done(&proxy.address, &log).await;
        everything_arrives(&mut stage, &proxy).await;
        println!("healed: {point}");
    }
}

#[tokio::test]
async fn a_full_disk_at_any_step_of_a_transfer_leaves_no_half_file_and_goes_on_by_itself() {
    for point in TRANSFER.into_iter().chain(["proxy.sent.removed=ACT@1"]) {
        let mut stage = stage().await;
        let proxy = stage
            .site
            .start_program("", &point.replace("ACT", "enospc"))
            .await;
        let log = stage.storage.write(30);
        let sent = stage.storage.send(&proxy.address, &log).await;
        if !point.starts_with("proxy.sent") {
            let error = sent.unwrap_err().text();
            assert!(error.contains("No space left on device"), "{point}: {error}");
            assert_eq!(proxy.state("vol0").await, "Started", "{point}");
            let half: Vec<_> = stage
                .site
                .names("vol0", "received")
                .into_iter()
                .filter(|n| n.contains(".tmp"))
                .collect();
            assert_eq!(half, [""; 0], "{point}");
            stage.storage.send_until_done(&proxy.address, &log).await;
        }
        everything_arrives(&mut stage, &proxy).await;
        println!("went on: {point}");
    }
}

#[tokio::test]
async fn commands_that_fail_or_die_half_way_are_undone_or_finished() {
    // Registering: the crash comes before the row, so the volume is not known; the directory is taken up later.
    for point in [
        "proxy.directory.create=ACT@1",
        "proxy.directory.create=ACT@4",
        "proxy.metadata.put_archive=ACT@1",
    ] {
        let site = Site::new();
        let proxy = site.start_program("", &point.replace("ACT", "eio")).await;
        let error = api(proxy.try_add("vol0", "a0", "127.0.0.1:9").await.unwrap_err());
        assert!(error.message.contains("Input/output error"), "{point}: {error}");
        assert_eq!(proxy.state("vol0").await, "Clear", "{point}");
        proxy.add("vol0", "a0", "127.0.0.1:9").await;
        assert_eq!(proxy.state("vol0").await, "Stopped", "{point}");
        drop(proxy);
        let mut proxy = site.start_program("", &point.replace("ACT", "crash")).await;
        let _ = proxy.try_add("vol1", "a0", "127.0.0.1:9").await;
        proxy.died().await;
        let proxy = site.start_program("", "").await;
        assert_eq!(
            (
                proxy.state("vol0").await.as_str(),
                proxy.state("vol1").await.as_str()
            ),
            ("Stopped", "Clear")
        );
        proxy.add("vol1", "a0", "127.0.0.1:9").await;
        assert_eq!(proxy.status("vol1").await.failed, None);
    }
    // Starting and stopping: what is not stored is not shown.
    let stage = stage().await;
    let proxy = stage.site.start_program("", "proxy.metadata.state=eio@1").await;
    let job = proxy.stop("vol0", StopMode::Graceful).await.unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Failed);
    assert_eq!(proxy.state("vol0").await, "Started");
    drop(proxy);
    let mut proxy = stage.site.start_program("", "proxy.metadata.state=crash@1").await;
    let _ = proxy.stop("vol0", StopMode::Graceful).await;
    proxy.died().await;
    let proxy = stage.site.start_program("", "").await;
    assert_eq!(proxy.state("vol0").await, "Started");
    let job = proxy.stop("vol0", StopMode::Graceful).await.unwrap();
    assert_eq!(proxy.job(job).await.state, JobState::Succeeded);
    drop(proxy);
    // Deleting an archive: before its row goes nothing has happened, and its files are where they were.
    let waiting = stage.site.data_dir().join("volumes/vol0/sendto/a1/waiting.bad");
    std::fs::write(&waiting, "x").unwrap();
    // The first rename of a program is that of its address file.
    for point in [
        "disk.rename.before=crash@2",
        "disk.rename.before_dirsync=crash@2",
        "proxy.metadata.delete_archive=crash@1",
    ] {
        let mut proxy = stage.site.start_program("", point).await;
        let _ = proxy.delete("/v1/volumes/vol0/archives/a1").await;
        proxy.died().await;
        let proxy = stage.site.start_program("", "").await;
        assert_eq!(proxy.status("vol0").await.archives.len(), 2, "{point}");
        assert!(waiting.exists(), "{point}");
    }
    // The same when the row cannot be removed.
    let proxy = stage
        .site
        .start_program("", "proxy.metadata.delete_archive=eio@1")
        .await;
    assert!(proxy.delete("/v1/volumes/vol0/archives/a1").await.is_err());
    assert!(waiting.exists() && proxy.status("vol0").await.archives.len() == 2);
    drop(proxy);
    // Files without a row are somebody's until an operator says otherwise.
    let orphan = stage.site.data_dir().join("volumes/vol0/sendto/lost/waiting.bad");
    std::fs::create_dir(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "x").unwrap();
    drop(stage.site.start_program("", "").await);
    assert!(orphan.exists());
    std::fs::remove_dir_all(orphan.parent().unwrap()).unwrap();
    // Once its row is gone, a restart removes the files.
    let mut proxy = stage
        .site
        .start_program("", "proxy.directory.remove=crash@1")
        .await;
    let _ = proxy.delete("/v1/volumes/vol0/archives/a1").await;
    proxy.died().await;
    let proxy = stage.site.start_program("", "").await;
    assert_eq!(
        (
            proxy.status("vol0").await.archives.len(),
            stage.site.names("vol0", "sendto")
        ),
        (1, vec!["a0".to_owned()])
    );
    drop(proxy);
    // Clearing: once begun it is finished.
    let proxy = stage
        .site
        .start_program(
            "",
            "proxy.metadata.begin_clear=eio@1,proxy.directory.remove=eio@1",
        )
        .await;
    for expected in ["Stopped", "Stopped", "Clear"] {
        let _ = proxy.post::<_, Empty>("/v1/volumes/vol0/clear", &Empty {}).await;
        assert_eq!(proxy.state("vol0").await, expected);
    }
    drop(proxy);
    for point in ["proxy.directory.remove", "proxy.metadata.end_clear"] {
        let proxy = stage.site.start_program("", "").await;
        proxy.add("vol0", "a0", "127.0.0.1:9").await;
        drop(proxy);
        let mut proxy = stage.site.start_program("", &format!("{point}=crash@1")).await;
        let _ = proxy.post::<_, Empty>("/v1/volumes/vol0/clear", &Empty {}).await;
        proxy.died().await;
        let proxy = stage.site.start_program("", "").await;
        assert_eq!(proxy.state("vol0").await, "Clear", "{point}");
        assert!(!stage.site.data_dir().join("volumes/vol0").exists(), "{point}");
    }
}

#[tokio::test]
async fn setting_a_damaged_diff_aside_is_repeated_until_it_is_done() {
    for action in ["eio", "crash"] {
        let stage = stage().await;
        let dir = stage.site.data_dir().join("volumes/vol0/sendto/a0");
        let proxy = stage
            .site
            .start_program("", &format!("proxy.set_aside={action}@1"))
            .await;
        let mut storage = stage.storage;
        stage.archives[0].whim(Whim::Refuse(RefusalReason::SmallerSize));
        let log = storage.write(30);
        storage.send(&proxy.address, &log).await.unwrap();
        until("the error flag", || async {
            proxy.status("vol0").await.archives[0].send_error.then_some(())
        })
        .await;
        let name = stage.site.names("vol0", "sendto/a0").remove(0);
        let path = dir.join(&name);
        let mut bytes = std::fs::read(&path).unwrap();
        let last_record = bytes.len() - INDEX_SUPER_SIZE - 5;
        bytes[last_record] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        proxy.kick().await;
        let proxy = if action == "crash" {
            let mut proxy = proxy;
            proxy.died().await;
            stage.site.start_program("", "").await
        } else {
            proxy
        };
        let bad = format!("{name}.bad");
        until("it to be set aside", || async {
            (proxy.status("vol0").await.archives[0].damaged == [bad.clone()]).then_some(())
        })
        .await;
        assert_eq!(stage.site.names("vol0", "sendto/a0"), [bad.as_str()]);
        assert_eq!(stage.archives[0].latest(&storage.volume), Gid(0));
    }
}
