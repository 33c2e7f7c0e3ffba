//! An operator's commands, and who may give which.

use crate::backed_up;
use crate::support::{ARCHIVE, Model, Operator, Sent, Site, api_error, full_backup, vol};
use walb_common::rest::ErrorCode;
use walb_common::types::Uuid;
use walb_common::wire::identity::Role;
use walb_common::wire::message::StreamKind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_and_clear_remove_everything_and_commands_in_the_wrong_state_say_so() {
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let operator = Operator::at(&site, address);
    for command in ["clear", "reset", "start", "stop"] {
        let error = api_error(operator.command("vol0", command).await);
        assert_eq!(error.code, ErrorCode::WrongState, "{command}");
        assert!(
            error.message.starts_with("bad state:Clear, expected "),
            "{command}: {}",
            error.message
        );
        assert_eq!(error.hint.as_deref(), Some("no volume vol0 here"));
    }
    operator.command("vol1", "init").await.unwrap();
    for mode in ["graceful", "force"] {
        let error = api_error(operator.stop("vol1", mode).await);
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::WrongState, "bad state:SyncReady, expected Archived")
        );
    }
    assert_eq!(operator.status("vol1").await.stop_state, "NotStopping");
    backed_up(&site, address, "vol0").await;
    operator.image_of("vol0", 4).await;
    assert_eq!(
        api_error(operator.command("vol0", "init").await).message,
        "bad state:Archived, expected Clear"
    );
    assert_eq!(
        api_error(operator.command("images", "init").await).code,
        ErrorCode::AlreadyExists
    );
    assert_eq!(
        api_error(operator.stop("vol0", "empty").await).message,
        "stop empty is not allowed."
    );
    operator
        .job(operator.stop("vol0", "graceful").await.unwrap())
        .await
        .unwrap();
    operator.command("vol0", "reset").await.unwrap();
    let status = operator.status("vol0").await;
    assert_eq!(
        (
            status.state.as_str(),
            status.num_diff,
            status.size,
            status.num_restored
        ),
        ("SyncReady", 0, None, 0)
    );
    assert_eq!(status.uuid, Uuid::NIL);
    assert_eq!(std::fs::read_dir(site.data("images")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(site.data("vol0")).unwrap().count(), 1);
    let sent = full_backup(&site, address, "vol0", &Model::new(3).bytes, 0).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    operator
        .job(operator.stop("vol0", "force").await.unwrap())
        .await
        .unwrap();
    operator.command("vol0", "clear").await.unwrap();
    assert_eq!(operator.status("vol0").await.state, "Clear");
    assert!(!site.data("vol0").exists() && !site.image("wb_vol0").exists());
    operator.command("vol0", "init").await.unwrap();
    running.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_decide_who_may_do_what() {
    let site = Site::new();
    let running = site.start().await;
    let address = &running.address;
    let none = walb_common::rest::Empty {};
    for client in [&site.viewer, &site.storage, &site.proxy] {
        let result = client
            .post::<_, walb_common::rest::Empty>(address, ARCHIVE, "/v1/volumes/vol0/init", &none)
            .await;
        assert_eq!(api_error(result).code, ErrorCode::Forbidden);
    }
    let kind = StreamKind::FullBackup;
    let error = site
        .proxy
        .open_stream(address, Role::Archive, kind, &vol("vol0"))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("expected storage"), "{error}");
    let error = site
        .storage
        .open_stream(address, Role::Archive, StreamKind::Wdiff, &vol("vol0"))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("expected proxy"), "{error}");
    running.stop(&site).await;
}
