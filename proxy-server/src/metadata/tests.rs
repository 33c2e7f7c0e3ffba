use walb_common::rest::proxy::ArchiveInfo;
use walb_common::state::proxy::Static;
use walb_common::types::{Lb, VolumeName};

use super::*;

#[tokio::test]
async fn what_was_stored_is_there_when_the_database_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata.sqlite");
    let volume = VolumeName::new("vol0").unwrap();
    let info = |port: u16| ArchiveInfo {
        address: format!("127.0.0.1:{port}"),
        compression: "gzip:6:2".parse().unwrap(),
        delay_seconds: 7,
    };
    let db = Metadata::open(&path).await.unwrap();
    db.put_archive(&volume, "a0", &info(1)).await.unwrap();
    db.put_archive(&volume, "a0", &info(2)).await.unwrap();
    db.put_archive(&volume, "a1", &info(3)).await.unwrap();
    db.set_state(&volume, Static::Started).await.unwrap();
    db.set_size(&volume, Lb(4096)).await.unwrap();
    db.delete_archive(&volume, "a1").await.unwrap();
    drop(db);

    let db = Metadata::open(&path).await.unwrap();
    let archives = [("a0".to_owned(), info(2))].into();
    let row = VolumeRow {
        name: volume.clone(),
        state: Static::Started,
        size: Lb(4096),
        archives,
    };
    assert_eq!(db.volumes().await.unwrap(), [row]);

    db.begin_clear(&volume).await.unwrap();
    let left = db.volumes().await.unwrap();
    assert_eq!((left[0].state, left[0].archives.len()), (Static::Clear, 0));
    db.end_clear(&volume).await.unwrap();
    assert_eq!(db.volumes().await.unwrap(), []);
}
