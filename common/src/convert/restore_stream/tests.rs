//! Goal: the stream gives, byte for byte, the image that a plain volume would have, or an error. Method: random bases
//! with holes and random diffs, compared with a volume in memory.

use std::cell::RefCell;
use std::error::Error as _;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::convert::{DEFAULT_MAX_IO, ImageTarget, apply_wdiffs};
use crate::format::read_at::ReadAt;
use crate::testing::{Io, MemImage, indexed_wdiff, random_ios, sorted_wdiff, wdiff_reader};
use crate::types::{Compression, Uuid};
use std::ops::ControlFlow;

/// A little more than eight windows.
const SIZE: Lb = Lb(4 * 2048 + 300);

fn nonstop(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Stretches of noise between stretches of zeros, of 1 to 1000 blocks.
fn any_base(seed: u64) -> MemImage {
    let mut rng = StdRng::seed_from_u64(seed);
    let image = MemImage::filled(SIZE, 0);
    let mut at = rng.random_range(0..1000);
    while at < SIZE.0 {
        let blocks = rng.random_range(1..1000).min(SIZE.0 - at);
        rng.fill_bytes(&mut image.bytes()[(at * LB_SIZE) as usize..][..(blocks * LB_SIZE) as usize]);
        at += blocks + rng.random_range(1..1000);
    }
    image
}

/// IOs of up to 40 blocks crowded around one place, and one that may be larger than a window.
fn any_ios(seed: u64, count: usize) -> Vec<Io> {
    let mut rng = StdRng::seed_from_u64(seed);
    let shift = rng.random_range(0..SIZE.0 - 600);
    let mut ios = random_ios(seed, Lb(600), count);
    for io in &mut ios {
        let (Io::Write { address, .. } | Io::Discard { address, .. }) = io;
        address.0 += shift;
    }
    let address = Lb(rng.random_range(0..SIZE.0 - 3000));
    let blocks = Lb(rng.random_range(1..3000));
    ios.insert(
        rng.random_range(0..=count),
        match rng.random_range(0..4) {
            0 => Io::Discard { address, blocks },
            kind => {
                let mut data = vec![0; blocks.bytes() as usize];
                if kind > 1 {
                    rng.fill_bytes(&mut data);
                }
                let data = data.into();
                Io::Write { address, data }
            }
        },
    );
    ios
}

/// Seeds instead of IOs, so that a failure is not pages of noise.
fn any_chain() -> impl Strategy<Value = Vec<(u64, usize, bool)>> {
    proptest::collection::vec((any::<u64>(), 0usize..40, any::<bool>()), 0..6)
}

fn chain_of(seeds: Vec<(u64, usize, bool)>) -> Vec<(Vec<Io>, bool)> {
    let wdiff = |(seed, count, indexed)| (any_ios(seed, count), indexed);
    seeds.into_iter().map(wdiff).collect()
}

fn stored((ios, indexed): &(Vec<Io>, bool)) -> WdiffReader {
    wdiff_reader(if *indexed {
        indexed_wdiff(ios, Uuid::NIL, Compression::Lz4, DEFAULT_MAX_IO)
    } else {
        sorted_wdiff(ios, Uuid::NIL, Compression::Snappy, Lb(0))
    })
}

/// What a wdiff says, record by record.
fn ios_of(mut wdiff: WdiffReader) -> Vec<Io> {
    std::iter::from_fn(|| wdiff.next_record().unwrap())
        .map(|record| {
            let (address, blocks) = (record.address, record.blocks);
            match record.content {
                Content::Discard => Io::Discard { address, blocks },
                Content::AllZero => Io::Write {
                    address,
                    data: vec![0; blocks.bytes() as usize].into(),
                },
                Content::Normal(data) => Io::Write {
                    address,
                    data: data.raw().unwrap(),
                },
            }
        })
        .collect()
}

/// Everything the stream gives as chunks, which must follow each other.
fn chunks(mut stream: RestoreStream<&MemImage>) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some(chunk) = stream.next_chunk().unwrap() {
        match chunk {
            Chunk::Data { position, data } => {
                assert_eq!(position, found.len() as u64);
                assert!(!data.is_empty() && data.len() <= 512 << 10);
                found.extend_from_slice(data);
            }
            Chunk::Zeros { position, length } => {
                assert_eq!(position, found.len() as u64);
                assert!(length > 0);
                found.resize((position + length) as usize, 0);
            }
        }
    }
    assert!(stream.next_chunk().unwrap().is_none(), "the end stays the end");
    found
}

fn read_in_parts(mut stream: RestoreStream<&MemImage>, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut found = vec![0; SIZE.bytes() as usize + 1];
    let mut at = 0;
    loop {
        let room = (found.len() - at).min(rng.random_range(1..300_000));
        match stream.read(&mut found[at..at + room]).unwrap() {
            0 => break,
            n => at += n,
        }
    }
    found.truncate(at);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_way_to_take_the_stream_gives_the_bytes_of_a_plain_volume(chain in any_chain(), seed: u64) {
        let (base, chain) = (any_base(seed), chain_of(chain));
        for discard in [DiscardMode::Ignore, DiscardMode::Zero, DiscardMode::Passdown] {
            let model = any_base(seed);
            for wdiff in &chain {
                // Ignored are the discards of the wdiffs; what a guest discards right after writing never gets there.
                let ios = if discard == DiscardMode::Ignore { ios_of(stored(wdiff)) } else { wdiff.0.clone() };
                for io in &ios {
                    model.apply(io, discard == DiscardMode::Ignore);
                }
            }
            let model = model.bytes();
            let stream = || {
                RestoreStream::new(&base, chain.iter().map(stored).collect(), discard).unwrap()
            };
            prop_assert!(chunks(stream()) == *model, "chunks, {discard:?}");
            prop_assert!(read_in_parts(stream(), seed) == *model, "read, {discard:?}");
            let mut written = Vec::new();
            let stats = restore_to_writer(stream(), &mut written, &mut nonstop).unwrap();
            prop_assert!(written == *model, "written, {discard:?}");
            prop_assert_eq!(stats.written + stats.zeros, SIZE.bytes());
            for is_zero in [true, false] {
                let target = MemImage::filled(SIZE, if is_zero { 0 } else { 0x5a });
                restore_to_image(stream(), &target, is_zero, &mut nonstop).unwrap();
                prop_assert!(*target.bytes() == *model, "target, {discard:?}");
            }
        }
    }

    #[test]
    fn streaming_equals_copying_and_applying(chain in any_chain(), seed: u64) {
        let (base, copy, chain) = (any_base(seed), any_base(seed), chain_of(chain));
        let inputs = || chain.iter().map(stored).collect();
        apply_wdiffs(inputs(), &copy, DiscardMode::Zero, &mut nonstop).unwrap();
        let stream = RestoreStream::new(&base, inputs(), DiscardMode::Zero).unwrap();
        prop_assert!(chunks(stream) == *copy.bytes());
    }
}

/// A base without holes that knows which bytes were read.
struct Watched {
    bytes: Vec<u8>,
    reads: RefCell<Vec<Range<u64>>>,
}

impl ReadAt for Watched {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset <= 100 * LB_SIZE && 100 * LB_SIZE < offset + buf.len() as u64 && self.bytes[0] == 0xbd {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.reads.borrow_mut().push(offset..offset + buf.len() as u64);
        self.bytes.read_exact_at(buf, offset)
    }
}

impl ImageSource for Watched {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
}

fn write(address: u64, blocks: usize) -> Io {
    let data = vec![7; blocks * 512].into();
    let address = Lb(address);
    Io::Write { address, data }
}

fn one(ios: &[Io]) -> Vec<WdiffReader> {
    vec![wdiff_reader(sorted_wdiff(
        ios,
        Uuid::NIL,
        Compression::None,
        Lb(0),
    ))]
}

#[test]
fn the_base_is_read_once_in_few_reads_and_not_where_it_is_hidden() {
    let base = Watched {
        bytes: vec![1; 3 << 20],
        reads: RefCell::default(),
    };
    // Many small records in the first window, one large in the second, all of the third.
    let mut ios: Vec<Io> = (0..200).map(|n| write(n * 10, 1)).collect();
    ios.extend([write(2048 + 500, 1000), write(4096, 2048)]);
    let stream = RestoreStream::new(&base, one(&ios), DiscardMode::Zero).unwrap();
    let size = std::io::copy(&mut { stream }, &mut io::sink()).unwrap();
    assert_eq!(size, 3 << 20);
    let reads = base.reads.into_inner();
    assert!(reads.len() <= 6, "at most one a window: {reads:?}");
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for read in reads {
        match stretches.last_mut() {
            Some(last) if last.end == read.start => last.end = read.end,
            _ => stretches.push(read),
        }
    }
    // From behind the first record to the large one, and from there to the part that is hidden altogether.
    let lb = |n: u64| n * LB_SIZE;
    assert_eq!(stretches, [lb(1)..lb(2548), lb(3548)..lb(4096)]);
}

#[test]
fn holes_of_a_file_stay_holes_and_sizes_may_be_odd() {
    use std::os::unix::fs::FileExt;
    let base = tempfile::tempfile().unwrap();
    let size = (1 << 40) + 700;
    base.set_len(size).unwrap();
    base.write_all_at(&[1; 5000], 8 << 30).unwrap();
    base.write_all_at(&[2; 300], size - 300).unwrap();
    let everything = Io::Discard {
        address: Lb(20 << 21),
        blocks: Lb(1 << 30),
    };
    let ios = [everything, write(30 << 21, 9)];
    let target = tempfile::tempfile().unwrap();
    target.set_len(size).unwrap();
    let stream = RestoreStream::new(&base, one(&ios), DiscardMode::Zero).unwrap();
    let stats = restore_to_image(stream, &target, true, &mut nonstop).unwrap();
    assert_eq!(stats.written + stats.zeros, size);
    assert!(stats.written < 64 << 10, "{stats:?}");
    let mut stream = RestoreStream::new(&target, Vec::new(), DiscardMode::Zero).unwrap();
    let mut data = 0;
    while let Some(chunk) = stream.next_chunk().unwrap() {
        if let Chunk::Data {
            position,
            data: found,
        } = chunk
        {
            let mut expected = vec![0; found.len()];
            ReadAt::read_exact_at(&base, &mut expected, position).unwrap();
            if position == 30 << 30 {
                expected[..9 * 512].fill(7);
            }
            assert!(found == expected, "at {position}");
            data += found.len() as u64;
        }
    }
    // The file system keeps whole blocks of its own.
    assert!(
        (stats.written..64 << 10).contains(&data),
        "{data} bytes, {stats:?}"
    );
}

#[test]
fn no_flipped_bit_of_a_wdiff_gives_another_image_unnoticed() {
    let base = any_base(1);
    let size = 90;
    let base = base.bytes()[..size * 512].to_vec();
    for (kind, indexed) in [
        (Compression::None, false),
        (Compression::Lz4, false),
        (Compression::Snappy, true),
        (Compression::Zstd, true),
    ] {
        let ios = random_ios(3, Lb(size as u64), 5);
        let sound = if indexed {
            indexed_wdiff(&ios, Uuid::NIL, kind, Lb(0))
        } else {
            sorted_wdiff(&ios, Uuid::NIL, kind, Lb(0))
        };
        let restored = |bytes: Vec<u8>| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
            let file = tempfile::tempfile()?;
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0)?;
            let input = WdiffReader::from_file(file, "damaged")?;
            let mut all = Vec::new();
            RestoreStream::new(base.as_slice(), vec![input], DiscardMode::Zero)?.read_to_end(&mut all)?;
            Ok(all)
        };
        let right = restored(sound.clone()).unwrap();
        assert!(right != base);
        let mut refused = 0;
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            match restored(bytes) {
                Ok(found) => assert!(found == right, "{kind:?}: byte {at} flipped"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused * 10 > sound.len() * 9, "{refused} of {}", sound.len());
        assert!(restored(sound[..sound.len() - 1].to_vec()).is_err());
    }
}

#[test]
fn a_record_beyond_the_end_is_an_error_wherever_it_starts() {
    let base = vec![1; 100 * 512];
    for address in [90, 100, 5000, u64::MAX / 512] {
        let mut stream =
            RestoreStream::new(base.as_slice(), one(&[write(address, 11)]), DiscardMode::Zero).unwrap();
        let error = std::io::copy(&mut stream, &mut io::sink()).unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref::<RestoreError>().unwrap();
        let expected = format!(
            "record at address {address} ends at {}, but the image has 100 blocks",
            address + 11
        );
        assert_eq!(error.source().unwrap().to_string(), expected);
        // What comes next could be anything: the record is lost.
        let again = stream.next_chunk().unwrap_err();
        assert!(matches!(again, RestoreError::FailedBefore { .. }), "{again:?}");
    }
}

#[test]
fn an_error_of_the_base_names_the_block_and_nothing_follows() {
    let base = Watched {
        bytes: vec![0xbd; 3 << 20],
        reads: RefCell::default(),
    };
    let ios = [write(40, 1), write(300, 300), write(4000, 1)];
    let mut stream = RestoreStream::new(&base, one(&ios), DiscardMode::Zero).unwrap();
    let error = stream.next_chunk().unwrap_err();
    assert_eq!(error.to_string(), "read the base image at block 0");
    let again = stream.next_chunk().unwrap_err();
    assert_eq!(again.to_string(), "the stream has failed before, at block 0");
}

#[test]
fn a_stop_a_small_target_and_a_failing_one_are_told() {
    let base = any_base(5);
    let stream = || RestoreStream::new(&base, one(&[write(5000, 9)]), DiscardMode::Zero).unwrap();
    let target = MemImage::filled(SIZE, 0);
    let mut calls = 0;
    let stopped = restore_to_image(stream(), &target, true, &mut |_| {
        calls += 1;
        if calls == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(RestoreError::Stopped)));
    assert_eq!(calls, 3);

    let small = MemImage::filled(Lb(SIZE.0 - 1), 0);
    let error = restore_to_image(stream(), &small, true, &mut nonstop).unwrap_err();
    let (found, expected) = (SIZE.bytes() - 512, SIZE.bytes());
    assert_eq!(
        error.to_string(),
        format!("the target has {found} bytes, expected {expected} at least")
    );

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = restore_to_writer(stream(), &mut &full, &mut nonstop).unwrap_err();
    assert_eq!(error.to_string(), "write the restored image at block 0");
    assert_eq!(
        error.source().unwrap().to_string(),
        "No space left on device (os error 28)"
    );
}

#[test]
fn progress_ends_at_the_size_and_never_goes_back() {
    let base = any_base(6);
    let stream = RestoreStream::new(&base, one(&[write(5000, 3000)]), DiscardMode::Zero).unwrap();
    let target = MemImage::filled(SIZE, 0);
    let mut told = vec![0];
    restore_to_image(stream, &target, true, &mut |done| {
        told.push(done);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(told.is_sorted() && told.last() == Some(&SIZE.bytes()), "{told:?}");
    assert_eq!(ImageTarget::size(&target).unwrap(), SIZE.bytes());
}
