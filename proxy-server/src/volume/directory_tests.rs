use super::*;

const NAME: &str = "20261122140300-M--2-3.wdiff";

fn wdiff(uuid: u8) -> Vec<u8> {
    let header = WdiffFileHeader {
        layout: walb_common::format::wdiff::Layout::Sorted,
        uuid: Uuid([uuid; 16]),
    };
    header.encode().to_vec()
}

#[test]
fn a_directory_is_settled_into_its_diffs_and_what_was_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    put(NAME, &wdiff(7));
    put("20261122140300-M--3-4.wdiff", &wdiff(7)[..31]);
    put("20261122140300-M--5-4.wdiff", &wdiff(7));
    put("receive-0.tmp", b"half");
    put("20261122140300-M--1-2.wdiff.bad", b"from earlier");
    let mut listing = settle(dir.path()).unwrap();
    listing.bad.sort();
    assert_eq!((listing.diffs.len(), listing.diffs[0].uuid), (1, Uuid([7; 16])));
    assert_eq!(listing.diffs[0].diff.size(), 32);
    let bad = ["1-2", "3-4", "5-4"].map(|gids| format!("20261122140300-M--{gids}.wdiff.bad"));
    assert_eq!(listing.bad, bad);
    assert_eq!(
        settle(dir.path()).unwrap().bad.len(),
        3,
        "settling again changes nothing"
    );
    assert!(!dir.path().join("receive-0.tmp").exists());
}

#[test]
fn linking_again_changes_nothing_and_another_file_of_the_name_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = VolumeDirectory::new(dir.path().join("vol0"));
    place.create("a0").unwrap();
    let (received, to) = (place.received(), place.send_to("a0"));
    fs::write(received.join(NAME), wdiff(1)).unwrap();
    link(&received, &to, NAME).unwrap();
    link(&received, &to, NAME).unwrap();
    fs::remove_file(received.join(NAME)).unwrap();
    fs::write(received.join(NAME), wdiff(2)).unwrap();
    link(&received, &to, NAME).unwrap();
    let listing = settle(&to).unwrap();
    assert_eq!((listing.diffs.len(), listing.diffs[0].uuid), (1, Uuid([2; 16])));
    assert_eq!(place.archives().unwrap(), ["a0"]);
}
