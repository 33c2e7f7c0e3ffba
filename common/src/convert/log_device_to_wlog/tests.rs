use super::*;
use crate::format::log_device::Ring;
use crate::format::wlog::WlogReader;
use crate::testing::{logpacks, random_ios};
use crate::types::{Lb, PhysicalBlockSize, Uuid};

const PBS: PhysicalBlockSize = PhysicalBlockSize::B512;

/// A device with packs from lsid 3000 on, around the end of its ring.
fn device() -> (Vec<u8>, SuperSector, Vec<crate::format::log_device::Logpack>) {
    let salt = crate::format::checksum::Salt(9);
    let sector = SuperSector::format(PBS, 1 << 20, Lb(4000), "", Uuid([5; 16]), salt).unwrap();
    let sector = sector.with_oldest(Lsid(2000));
    let packs = logpacks(&random_ios(7, Lb(4000), 30), PBS, salt, Lsid(2000), 4);
    let ring: Ring = sector.ring();
    let mut device = vec![0; 1 << 20];
    for pack in &packs {
        let whole = [&pack.block()[..], pack.data()].concat();
        for (lsid, block) in (pack.header().lsid().0..).zip(whole.chunks(512)) {
            let at = ring.offset_of(Lsid(lsid)) as usize;
            device[at..at + 512].copy_from_slice(block);
        }
    }
    assert!(packs.last().unwrap().header().next_lsid().0 > ring.size());
    (device, sector, packs)
}

fn extract(
    device: &[u8],
    sector: &SuperSector,
    begin: Lsid,
    end: Lsid,
) -> Result<(Vec<u8>, Extracted), ExtractError> {
    let mut told = vec![];
    let (wlog, extracted) =
        log_device_to_wlog(device, sector, begin, end, Vec::new(), |lsid| told.push(lsid))?;
    assert_eq!(told.len() as u64, extracted.packs);
    assert_eq!(*told.last().unwrap_or(&extracted.begin), extracted.end);
    Ok((wlog.finish().unwrap(), extracted))
}

#[test]
fn every_begin_and_end_gives_the_packs_that_start_between_them() {
    let (device, sector, packs) = device();
    let lsids: Vec<u64> = packs.iter().map(|p| p.header().lsid().0).collect();
    for (n, begin) in lsids.iter().enumerate() {
        for end in lsids[n]..packs.last().unwrap().header().next_lsid().0 + 3 {
            let made = extract(&device, &sector, Lsid(*begin), Lsid(end));
            if end <= *begin {
                assert!(matches!(made, Err(ExtractError::Range { .. })));
                continue;
            }
            let (wlog, extracted) = made.unwrap();
            let mut reader = WlogReader::open(&wlog[..]).unwrap();
            assert_eq!(
                (reader.header().begin, reader.header().end),
                (Lsid(*begin), Lsid(end))
            );
            let expected = packs[n..].iter().take_while(|p| p.header().lsid().0 < end);
            for pack in expected {
                assert!(reader.next_pack().unwrap().as_ref() == Some(pack));
            }
            assert!(reader.next_pack().unwrap().is_none());
            assert_eq!(extracted.end, reader.next_lsid());
        }
    }
}

#[test]
fn a_begin_below_the_oldest_is_raised_and_one_that_is_no_pack_gives_an_empty_wlog() {
    let (device, sector, packs) = device();
    let all = extract(&device, &sector, Lsid(5), Lsid::INVALID).unwrap();
    assert_eq!(
        (all.1.begin, all.1.packs),
        (Lsid(2000), packs.len() as u64),
        "raised"
    );
    let none = extract(&device, &sector, Lsid(2001), Lsid::INVALID).unwrap();
    assert_eq!((none.1.end, none.1.packs), (Lsid(2001), 0));
    assert_eq!(
        none.0.len(),
        4096 + 512,
        "whoever wants to know why looks at log_end"
    );
    assert!(matches!(none.1.log_end, Some(ScanEnd::NoHeader { .. })));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_end_of_the_log() {
    let (mut device, sector, packs) = device();
    device.truncate(sector.ring().offset_of(packs[3].header().lsid()) as usize);
    let error = extract(&device, &sector, Lsid(0), Lsid::INVALID).unwrap_err();
    assert!(matches!(error, ExtractError::Read(_)), "{error}");
}
