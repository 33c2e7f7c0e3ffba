//! From a synced temporary file to a diff that every archive's task knows.

use std::sync::Arc;

use walb_common::disk::{fault, rename_durable};
use walb_common::lineage::MetaDiff;
use walb_common::rest::ApiError;
use walb_common::wire::message::WlogBegin;
use walb_common::wire::stream::{Stream, StreamError};

use super::convert::{Converted, Temporary};
use super::to_the_end;
use crate::Shared;
use crate::volume::directory::{FileError, at, settle};
use crate::volume::{Volume, distribute};

/// Stores it. The second result tells whether the storage is still there to be acknowledged.
pub(super) async fn store(
    shared: &Shared,
    volume: &Arc<Volume>,
    begin: &WlogBegin,
    converted: Converted,
    diff: MetaDiff,
    stream: &mut Stream,
) -> Result<Result<(), StreamError>, ApiError> {
    // The size first: an archive is told it with every diff, so it must not be smaller than what the diff may touch.
    if begin.size > volume.size() {
        shared
            .metadata
            .set_size(&volume.name, begin.size)
            .await
            .map_err(|e| ApiError::internal(&e))?;
        volume.set_size(begin.size);
    }
    let lock = volume.files.clone().lock_owned().await;
    let work = {
        let volume = volume.clone();
        tokio::task::spawn_blocking(move || {
            let _lock = lock;
            store_files(&volume, converted.file, &diff).map_err(|e| ApiError::internal(&e))
        })
    };
    let (result, alive) = to_the_end(stream, work).await;
    result.map(|()| alive)
}

fn store_files(volume: &Arc<Volume>, file: Temporary, diff: &MetaDiff) -> Result<(), FileError> {
    let received = volume.directory.received();
    let name = diff.file_name();
    let path = received.join(&name);
    // Durable: the content (synced before), then the name. From here on a restart finishes the rest.
    fault::point("proxy.receive.rename").map_err(at("rename", &path))?;
    rename_durable(file.path(), &path).map_err(at("rename", &path))?;
    file.renamed();
    fault::point("proxy.receive.renamed").map_err(at("rename", &path))?;
    let mut diffs = settle(&received)?.diffs;
    // What an earlier receive could not distribute goes first, so that the newest of equal ranges stays.
    diffs.sort_by_key(|stored| stored.diff.file_name() == name);
    distribute(volume, &volume.archives(), &diffs)
}
