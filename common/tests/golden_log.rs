//! Goal: wlogs made by the existing tools are read exactly as they read them, and damaged ones are refused. Method: every
//! golden file with the facts its manifest states: each header and record, the image after applying, where the log ends.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod support;

use serde_json::json;
use support::log::{check_images, pack_facts, stat};
use support::{Class, bytes, chain, each};
use walb_common::format::checksum::{Salt, checksum};
use walb_common::format::log_device::{Logpack, LogpackHeader};
use walb_common::format::wlog::{
    LogpackParser, Parsed, ReadLogpackError, ReadWlogError, WLOG_HEADER_SIZE, WlogFileHeader, WlogReader,
    WlogWriter,
};
use walb_common::types::Lsid;

#[test]
fn no_golden_file_is_left_out() {
    support::nothing_is_left_out();
}

#[test]
fn checksums_are_those_of_the_existing_tools() {
    let manifest = support::manifest();
    let facts = manifest["facts"]["checksums"].as_array().unwrap();
    assert_eq!(facts.len(), 20);
    for fact in facts {
        let hex = fact["data_hex"].as_str().unwrap();
        let data: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        let salt = Salt(fact["salt"].as_u64().unwrap() as u32);
        let expected = fact["checksum"].as_u64().unwrap();
        assert_eq!(u64::from(checksum(&data, salt)), expected);
    }
}

#[test]
fn wlogs_are_read_and_written_as_by_the_existing_tools() {
    each("wlog", Class::Sound, |name, stored, vector| {
        let expect = &vector["expect"];
        let mut reader = WlogReader::open(stored).unwrap();
        let header = *reader.header();
        let facts = json!({ "version": 2, "pbs": header.pbs, "salt": header.salt.0, "uuid": header.uuid,
                            "begin_lsid": header.begin, "end_lsid": header.end });
        assert_eq!(facts, expect["header"]);
        let mut packs = vec![];
        while let Some(pack) = reader.next_pack().unwrap() {
            packs.push(pack);
        }
        assert_eq!(pack_facts(&packs, header.salt), expect["packs"], "{name}");
        assert_eq!(stat(&packs), expect["stat"], "{name}");
        assert_eq!(json!(reader.next_lsid()), expect["real_end_lsid"]);
        check_images(&packs, None, &expect["apply_to_zero_image_sha256"]);

        let mut writer = WlogWriter::new(Vec::new(), header).unwrap();
        for p in &packs {
            writer.write(p).unwrap();
        }
        assert!(
            writer.finish().unwrap() == stored,
            "{name} is written as it was read"
        );
        let parsed = parsed_in_chunks(stored, &header).unwrap();
        assert_eq!(parsed, packs, "{name} through the parser");
    });
}

fn parsed_in_chunks(stored: &[u8], header: &WlogFileHeader) -> Result<Vec<Logpack>, ReadLogpackError> {
    let mut parser = LogpackParser::new(header.pbs, header.salt, header.begin);
    let mut packs = vec![];
    for chunk in stored[WLOG_HEADER_SIZE..].chunks(1777) {
        parser.push(bytes::Bytes::copy_from_slice(chunk));
        while let Parsed::Pack(pack) = parser.next()? {
            packs.push(pack);
        }
    }
    parser.finish()?;
    Ok(packs)
}

#[test]
fn concatenated_wlogs_are_read_through() {
    each("wlog-stream", Class::Sound, |_, stored, vector| {
        let parts: Vec<&str> = vector["expect"]["parts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p.as_str().unwrap())
            .collect();
        assert!(parts.iter().flat_map(|p| bytes(p)).eq(stored.iter().copied()));
        let mut packs = vec![];
        let mut reader = Some(WlogReader::open(stored).unwrap());
        for part in &parts {
            let mut wlog = reader.unwrap();
            assert_eq!(
                wlog.header().encode(),
                bytes(part)[..WLOG_HEADER_SIZE],
                "{part} has its turn"
            );
            while let Some(pack) = wlog.next_pack().unwrap() {
                packs.push(pack);
            }
            reader = wlog.next_wlog().unwrap();
        }
        assert!(reader.is_none(), "nothing follows the last part");
        check_images(&packs, None, &vector["expect"]["apply_to_zero_image_sha256"]);

        // The same parts in another order, one left out, or of another log.
        let file = |n: usize| bytes(parts[n]);
        let other = bytes("w1.p512.wlog");
        for (stream, says) in [
            ([file(0), file(2)].concat(), "the one before it ended at"),
            ([file(1), file(0)].concat(), "the one before it ended at"),
            ([file(0), other].concat(), "follows one of"),
        ] {
            let first = WlogReader::open(&stream[..]).unwrap();
            let error = chain(&first.next_wlog().unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    });
}

/// The manifest's word for what is wrong.
fn verdict(error: &ReadWlogError) -> &'static str {
    match error {
        ReadWlogError::Header(_) => "bad-file-header",
        ReadWlogError::Truncated { .. } => "truncated",
        ReadWlogError::Logpack(error) => pack_verdict(error),
        ReadWlogError::Io(_) | ReadWlogError::OtherUuid { .. } | ReadWlogError::Gap { .. } => {
            "something else"
        }
    }
}

fn pack_verdict(error: &ReadLogpackError) -> &'static str {
    match error {
        ReadLogpackError::Truncated { .. } => "truncated",
        ReadLogpackError::MissingEndBlock { .. } => "missing-end-block",
        ReadLogpackError::Header { .. } => "bad-pack-header",
        ReadLogpackError::Data { .. } => "bad-data-checksum",
        ReadLogpackError::Io { .. }
        | ReadLogpackError::Trailing { .. }
        | ReadLogpackError::TooLarge { .. } => "something else",
    }
}

#[test]
fn damaged_wlogs_are_refused_for_the_right_reason() {
    each("wlog", Class::Damaged, |name, stored, vector| {
        let expect = &vector["expect"];
        let read = || {
            let mut reader = WlogReader::open(stored)?;
            while reader.next_pack()?.is_some() {}
            Ok::<_, ReadWlogError>(())
        };
        let error = read().unwrap_err();
        let text = chain(&error);
        println!("{name}: {text}");
        assert_eq!(expect["verdict"], verdict(&error), "{name}: {text}");
        let place = if verdict(&error) == "bad-file-header" {
            "file header"
        } else {
            "lsid "
        };
        assert!(
            text.contains(place) || text.contains("logpack "),
            "{name}: the error says where: {text}"
        );

        let Ok(header) = WlogFileHeader::decode(&stored[..WLOG_HEADER_SIZE]) else {
            return;
        };
        let error = parsed_in_chunks(stored, &header).unwrap_err();
        assert_eq!(
            expect["verdict"],
            pack_verdict(&error),
            "{name} through the parser"
        );
        let (count, end) = headers_only(stored, &header);
        assert_eq!(expect["headers_readable"], count, "{name}");
        assert_eq!(expect["header_end_lsid"], end.0, "{name}");
    });
}

/// How many headers a reader that looks at nothing else gets, and where it ends.
fn headers_only(stored: &[u8], header: &WlogFileHeader) -> (usize, Lsid) {
    let (mut lsid, mut count, mut at) = (header.begin, 0, WLOG_HEADER_SIZE);
    while let Some(block) = stored.get(at..at + header.pbs.bytes()) {
        let Ok(found) = LogpackHeader::decode(block, header.pbs, header.salt, lsid) else {
            break;
        };
        lsid = found.next_lsid();
        count += 1;
        at += block.len() + found.data_bytes();
    }
    (count, lsid)
}

#[test]
fn an_end_lsid_before_the_begin_is_not_written() {
    let header = *WlogReader::open(&bytes("w6.empty.p512.wlog")[..])
        .unwrap()
        .header();
    for end in [header.begin, Lsid(0)] {
        let error = WlogWriter::new(Vec::new(), WlogFileHeader { end, ..header }).unwrap_err();
        assert!(error.to_string().contains("expected begin < end"), "{error}");
    }
}
