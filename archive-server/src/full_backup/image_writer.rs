//! The blocking half of a full backup: bulks in address order into a sparse file; runs of zeros stay holes.

use std::fs::File;
use std::io;

use tokio::sync::mpsc;
use walb_common::convert::ImageTarget;
use walb_common::disk::fault;
use walb_common::format::compress::{DecompressError, decompress};
use walb_common::types::{Compression, LB_SIZE, Lb};
use walb_common::wire::stream::Bulk;

/// What comes through the queue. A queue that ends without `End` means that the backup was given up.
pub(super) enum Piece {
    Bulk(Bulk),
    End,
}

/// The image is not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("{act} the image at byte {position}")]
    Image {
        act: &'static str,
        position: u64,
        #[source]
        source: io::Error,
    },
    #[error(
        "bulk of {bytes} bytes at block {found}: expected whole blocks from block {expected} on, of {size} in all"
    )]
    Place {
        bytes: u32,
        found: Lb,
        expected: Lb,
        size: Lb,
    },
    #[error("bulk at block {address}")]
    Decompress {
        address: Lb,
        #[source]
        source: DecompressError,
    },
    #[error("the image ends at block {found}, expected {size}")]
    Short { found: Lb, size: Lb },
    #[error("the backup was given up")]
    Aborted,
}

impl WriteError {
    /// Whether it only follows from the other half's end.
    pub fn is_aborted(&self) -> bool {
        matches!(self, Self::Aborted)
    }
}

/// Writes a whole image of `size` blocks into `image`, a file of that size full of zeros; durable when this returns.
pub(super) fn run(
    image: &File,
    size: Lb,
    sync_bytes: u64,
    mut queue: mpsc::Receiver<Piece>,
    progress: impl Fn(Lb),
) -> Result<(), WriteError> {
    let failed = |act, position| {
        move |source: io::Error| WriteError::Image {
            act,
            position,
            source,
        }
    };
    let (mut at, mut unsynced) = (Lb(0), 0);
    loop {
        let bulk = match queue.blocking_recv() {
            Some(Piece::Bulk(bulk)) => bulk,
            Some(Piece::End) => break,
            None => return Err(WriteError::Aborted),
        };
        let bytes = u64::from(bulk.raw_len);
        let blocks = bytes / LB_SIZE;
        let fits = bytes > 0 && bytes.is_multiple_of(LB_SIZE) && at.0 + blocks <= size.0;
        if !fits || Lb(bulk.tag) != at {
            let (bytes, found) = (bulk.raw_len, Lb(bulk.tag));
            return Err(WriteError::Place {
                bytes,
                found,
                expected: at,
                size,
            });
        }
        let position = at.bytes();
        if !bulk.is_zeros() {
            fault::point("archive.full.write").map_err(failed("write", position))?;
            unsynced += write(image, at, &bulk)?;
        }
        at = Lb(at.0 + blocks);
        progress(at);
        if unsynced >= sync_bytes {
            image.sync_data().map_err(failed("sync", position))?;
            unsynced = 0;
        }
    }
    if at != size {
        return Err(WriteError::Short { found: at, size });
    }
    fault::point("archive.full.received").map_err(failed("sync", at.bytes()))?;
    // Image durable before anything says what it is.
    image.sync().map_err(failed("sync", at.bytes()))?;
    fault::point("archive.full.image_synced").map_err(failed("sync", at.bytes()))
}

fn write(image: &File, address: Lb, bulk: &Bulk) -> Result<u64, WriteError> {
    let position = address.bytes();
    let raw_len = bulk.raw_len as usize;
    let write = |data: &[u8]| {
        image
            .write_at(data, position)
            .map_err(|source| WriteError::Image {
                act: "write",
                position,
                source,
            })
    };
    if bulk.codec == Compression::None && bulk.payload.len() == raw_len {
        write(&bulk.payload)?;
    } else {
        let raw = decompress(bulk.codec, &bulk.payload, raw_len)
            .map_err(|source| WriteError::Decompress { address, source })?;
        write(&raw)?;
    }
    Ok(u64::from(bulk.raw_len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn write_all(size: u64, bulks: Vec<Bulk>) -> Result<Vec<u8>, WriteError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(size * 512).unwrap();
        let (sender, queue) = mpsc::channel(100);
        for bulk in bulks {
            sender.try_send(Piece::Bulk(bulk)).ok().unwrap();
        }
        sender.try_send(Piece::End).ok().unwrap();
        run(&file, Lb(size), 1 << 20, queue, |_| {})?;
        Ok(std::fs::read(&path).unwrap())
    }

    #[test]
    fn bulks_land_in_order_and_zeros_stay_holes() {
        let data = Bytes::from(vec![7; 1024]);
        let image = write_all(
            6,
            vec![Bulk::zeros(0, 1024), Bulk::raw(2, data), Bulk::zeros(4, 1024)],
        )
        .unwrap();
        assert_eq!(image.len(), 6 * 512);
        assert!(image[1024..2048].iter().all(|b| *b == 7) && image[2048..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_gap_a_repetition_an_odd_length_or_too_much_is_refused_and_too_little_as_well() {
        let block = || Bytes::from(vec![1; 512]);
        let place = |bulks| matches!(write_all(4, bulks), Err(WriteError::Place { .. }));
        assert!(place(vec![Bulk::raw(1, block())]));
        assert!(place(vec![Bulk::raw(0, block()), Bulk::raw(0, block())]));
        assert!(place(vec![Bulk::raw(0, Bytes::from(vec![1; 100]))]));
        assert!(place(vec![Bulk::zeros(0, 2560)]));
        assert!(matches!(
            write_all(4, vec![Bulk::raw(0, block())]),
            Err(WriteError::Short { .. })
        ));
    }
}
