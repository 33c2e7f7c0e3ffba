//! An archive with real TLS, driven over REST and streams by hand-made peers, restarted, and looked at on disk.
#![allow(clippy::unwrap_used, reason = "tests")]

mod commands;
mod receives;
mod restores;
mod starts;
#[path = "../support/mod.rs"]
mod support;

use support::{Model, Operator, Sent, Site, diff, full_backup, send_diff};

/// A volume with a base image `<|0,2|>` and diffs 0-1, 1-2, 2-3, 3-4; the model after each.
async fn backed_up(site: &Site, address: &str, volume: &str) -> Vec<Vec<u8>> {
    let operator = Operator::at(site, address);
    operator.command(volume, "init").await.unwrap();
    let mut model = Model::new(1);
    let mut images = vec![Vec::new()];
    let sent = full_backup(site, address, volume, &model.bytes, 2).await;
    assert!(matches!(sent, Sent::Done), "{sent:?}");
    for n in 1..=4 {
        let records = model.change(u8::try_from(n).unwrap());
        let sent = send_diff(
            site,
            address,
            volume,
            diff(n - 1, n).with_mergeable(n != 4),
            &records,
        )
        .await;
        assert!(matches!(sent, Sent::Done), "{sent:?}");
        images.push(model.bytes.clone());
    }
    images
}
