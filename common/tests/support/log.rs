//! Logpacks as the manifest describes them, and applied to an image.

use serde_json::{Value, json};
use walb_common::convert::ImageTarget;
use walb_common::format::checksum::Salt;
use walb_common::format::log_device::{Logpack, LogpackHeader, RecordKind};

use super::MemImage;

/// A header with its records.
pub fn header_facts(header: &LogpackHeader, salt: Salt) -> Value {
    let block = header.encode(salt);
    let records: Vec<Value> = header
        .records()
        .iter()
        .map(|r| {
            let flags = match r.kind {
                RecordKind::Normal => "E--",
                RecordKind::Padding => "EP-",
                RecordKind::Discard => "E-D",
            };
            let sum = format!("{:08x}", r.checksum);
            json!([r.lsid, r.lsid_local, r.offset, r.size, flags, sum])
        })
        .collect();
    let n_padding = header
        .records()
        .iter()
        .filter(|r| r.kind == RecordKind::Padding)
        .count();
    let sum = u32::from_le_bytes(block[..4].try_into().unwrap());
    json!({
        "lsid": header.lsid(), "total_io_size": header.total_io_pb(), "n_records": header.records().len(),
        "n_padding": n_padding, "checksum": format!("{sum:08x}"), "records": records,
    })
}

/// The headers of packs. They are written as they were read, byte for byte.
pub fn pack_facts(packs: &[Logpack], salt: Salt) -> Value {
    for pack in packs {
        assert_eq!(pack.header().encode(salt), pack.block());
    }
    packs.iter().map(|p| header_facts(p.header(), salt)).collect()
}

/// Sums over all records.
pub fn stat(packs: &[Logpack]) -> Value {
    let sum = |kind, measure: fn(&Logpack, u64) -> u64| -> u64 {
        let of = |p: &Logpack| -> u64 {
            let records = p.header().records().iter().filter(|r| r.kind == kind);
            records.map(|r| measure(p, r.size.0)).sum()
        };
        packs.iter().map(of).sum()
    };
    json!({
        "nrPacks": packs.len(), "normalLb": sum(RecordKind::Normal, |_, lb| lb),
        "discardLb": sum(RecordKind::Discard, |_, lb| lb),
        "paddingPb": sum(RecordKind::Padding, |p, lb| lb.div_ceil(p.header().pbs().lbs())),
    })
}

/// Does what the packs say to an image, the plain way.
pub fn apply(packs: &[Logpack], image: &MemImage, discards_as_zeros: bool) {
    let size = image.size().unwrap();
    for (record, data) in packs.iter().flat_map(Logpack::records) {
        // The existing tools skip what reaches beyond the end, as a whole.
        if record.offset.bytes().saturating_add(record.size.bytes()) > size {
            continue;
        }
        match record.kind {
            RecordKind::Normal => image.write_at(&data, record.offset.bytes()).unwrap(),
            RecordKind::Discard if discards_as_zeros => {
                image.fill(0, record.offset.bytes(), record.size.bytes());
            }
            RecordKind::Discard | RecordKind::Padding => {}
        }
    }
}

/// Compares an image the packs were applied to with the digests in `facts`: of a zero volume, or of `start`.
pub fn check_images(packs: &[Logpack], start: Option<&[u8]>, facts: &Value) {
    let modes = [("discard_zero", true), ("discard_ignore", false)];
    assert!(
        facts["discard_zero"].is_string(),
        "there is something to compare with"
    );
    for (mode, zeros) in modes {
        let Some(expected) = facts[mode].as_str() else {
            continue;
        };
        let image = match start {
            Some(bytes) => MemImage(bytes.to_vec().into()),
            None => MemImage::zero(facts["volume_bytes"].as_u64().unwrap()),
        };
        apply(packs, &image, zeros);
        assert_eq!(image.sha256(), expected, "{mode}");
    }
}
