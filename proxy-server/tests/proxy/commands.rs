//! An operator's commands.

use crate::support::archive::Archive;
use crate::support::{Site, api, vol};
use walb_common::rest::proxy::{Archives, KickRequest, Status};
use walb_common::rest::{Empty, ErrorCode, JobState, StopMode, VolumeBrief};
use walb_common::wire::client::ClientError;
use walb_common::wire::identity::Role;
use walb_common::wire::message::StreamKind;

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
