//! Commands and their refusals.

use serde_json::json;
use walb_common::rest::ErrorCode;

use crate::support::Site;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_has_to_exist_and_belongs_to_one_volume_only() {
    let site = Site::new().await;
    let storage = &site.storage;
    let missing = storage
        .init("vol1", &site.wdev.spec("nothing"))
        .await
        .unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert!(
        missing.to_string().contains("not found:wdev:") && missing.to_string().contains("known are d0"),
        "{missing}"
    );
    let away = storage.init("vol1", "wdev:/nowhere/x.sock#d0").await.unwrap_err();
    assert_eq!(away.code, ErrorCode::NotFound, "{away}");
    let kind = storage.init("vol1", "/dev/sda").await.unwrap_err();
    assert!(kind.to_string().contains("expected wdev:NAME"), "{kind}");
    let kernel = storage
        .init("vol1", "/dev/walb/no-such-device")
        .await
        .unwrap_err();
    assert!(
        ["load walb-mod", "no such device here"]
            .iter()
            .any(|text| kernel.to_string().contains(text)),
        "{kernel}"
    );
    let used = storage.init("vol1", &site.wdev.spec("d0")).await.unwrap_err();
    assert_eq!(used.code, ErrorCode::AlreadyExists);
    assert!(used.to_string().contains("already used by volume vol0"), "{used}");
    // Another way to write the same socket is no other device.
    let link = site.dir.path().join("link.sock");
    std::os::unix::fs::symlink(site.dir.path().join("wdev.sock"), &link).unwrap();
    let same = storage
        .init("vol1", &format!("wdev:{}#d0", link.display()))
        .await
        .unwrap_err();
    assert_eq!(same.code, ErrorCode::AlreadyExists, "{same}");
    let again = storage.init("vol0", &site.wdev.spec("d0")).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::WrongState, "{again}");
    assert_eq!(storage.status("vol1").await.state, "Clear");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_in_the_wrong_state_name_state_and_remedy_and_change_nothing() {
    let site = Site::new().await;
    let storage = &site.storage;
    let target = json!({ "role": "target" });
    let cases = [
        (
            "nobody",
            "snapshot",
            json!({}),
            "bad state:Clear, expected Target or Stopped",
        ),
        (
            "nobody",
            "full-backup",
            json!({}),
            "bad state:Clear, expected SyncReady",
        ),
        ("nobody", "stop", json!({}), "no volume nobody here"),
        ("nobody", "clear", json!({}), "no volume nobody here"),
        (
            "vol0",
            "snapshot",
            json!({}),
            "bad state:SyncReady, expected Target or Stopped",
        ),
        (
            "vol0",
            "start",
            target.clone(),
            "bad state:SyncReady, expected Stopped",
        ),
        (
            "vol0",
            "stop",
            json!({}),
            "bad state:SyncReady, expected Target or Standby",
        ),
        (
            "vol0",
            "reset",
            json!({}),
            "bad state:SyncReady, expected Stopped",
        ),
    ];
    for (vol, command, body, text) in cases {
        let error = storage.command(vol, command, body).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::WrongState, "{vol} {command}: {error}");
        assert!(error.to_string().contains(text), "{vol} {command}: {error}");
    }
    let role = storage
        .command("vol0", "start", json!({ "role": "boss" }))
        .await
        .unwrap_err();
    assert!(
        role.to_string().contains("specify role: target or standby:boss"),
        "{role}"
    );
    let bulk = storage
        .command("vol0", "full-backup", json!({ "bulk_bytes": 100 }))
        .await
        .unwrap_err();
    assert_eq!(bulk.code, ErrorCode::BadRequest);
    let mode = storage
        .command("vol0", "stop", json!({ "mode": "empty" }))
        .await
        .unwrap_err();
    assert!(mode.to_string().contains("stop empty is not allowed"), "{mode}");
    assert_eq!(storage.status("vol0").await.state, "SyncReady");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_volume_goes_its_whole_way_and_is_forgotten() {
    let site = Site::new().await;
    let storage = &site.storage;
    let initial = storage.status("vol0").await;
    assert_eq!(
        (initial.done.unwrap().gid.0, initial.uuid.to_string()),
        (u64::MAX, "0".repeat(32))
    );
    let done = site.backup().await;
    let first = storage.snapshot("vol0").await.unwrap();
    let second = storage.snapshot("vol0").await.unwrap();
    assert!(done < first && first < second);
    site.delivered(second).await;
    let stop = storage.stop("vol0", "graceful").await.unwrap();
    storage.job_ended(stop).await;
    site.wdev.scribble("d0", 5, 10).await;
    let third = storage.snapshot("vol0").await.unwrap();
    let stopped = storage.status("vol0").await;
    assert_eq!(
        (
            stopped.state.as_str(),
            stopped.queue.len(),
            stopped.queue[0].gid.0
        ),
        ("Stopped", 1, third)
    );
    assert!(!stopped.queue[0].mergeable);
    storage
        .command("vol0", "reset", json!({ "gid": 77 }))
        .await
        .unwrap();
    let reset = storage.status("vol0").await;
    assert_eq!(
        (
            reset.done.unwrap().gid.0,
            reset.done.unwrap().lsid.0,
            reset.queue.len()
        ),
        (77, 0, 0)
    );
    assert_eq!(reset.uuid, site.wdev.uuid("d0").await);
    storage.command("vol0", "clear", json!({})).await.unwrap();
    assert_eq!(storage.status("vol0").await.state, "Clear");
    storage.init("vol1", &site.wdev.spec("d0")).await.unwrap();
    let volumes: Vec<walb_common::rest::VolumeBrief> = storage.get("/v1/volumes").await.unwrap();
    let names: Vec<_> = volumes
        .iter()
        .map(|v| (v.name.as_str(), v.state.as_str()))
        .collect();
    assert_eq!(names, [("vol1", "SyncReady")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_signal_ends_the_daemon_in_order_and_a_start_takes_everything_up_again() {
    let mut site = Site::new().await;
    site.backup().await;
    site.wdev.scribble("d0", 1, 20).await;
    assert_eq!(site.storage.terminate().await, Some(0));
    site.wdev.scribble("d0", 2, 20).await;
    site.storage.restart(None).await;
    assert_eq!(site.storage.status("vol0").await.state, "Target");
    site.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_daemons_never_share_a_data_directory() {
    let site = Site::new().await;
    let said = tokio::task::block_in_place(|| site.storage.second_one());
    assert!(said.contains("is in use by another walb-storage"), "{said}");
}
