//! The NBD front-end: a client that sends anything.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use walb_common::types::PhysicalBlockSize;
use walb_fuzz_engine::memory::bounded;
use walb_wdev::block::{BlockDevice, IoErrno, IoOp, IoRequest};
use walb_wdev::nbd::protocol::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, MAX_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_BYTES,
    REQUEST_MAGIC, Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, be32, be64, cmd, opt,
};
use walb_wdev::nbd::testing::{Transmission, converse};
use walb_wdev::nbd::{Export, Exports};

use super::Target;

const SIZE: usize = 32 << 10;

/// A device in memory that answers at once.
struct Memory(Mutex<Vec<u8>>);

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }
    fn pbs(&self) -> PhysicalBlockSize {
        PhysicalBlockSize::B512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn submit(&self, request: IoRequest) {
        assert_eq!(
            request.op.check(self.size()),
            Ok(()),
            "the front-end checks first"
        );
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match request.op {
            IoOp::Read { offset, len } => {
                Ok(Bytes::copy_from_slice(&bytes[offset as usize..][..len as usize]))
            }
            IoOp::Write { offset, data, .. } => {
                bytes[offset as usize..][..data.len()].copy_from_slice(&data);
                Ok(Bytes::new())
            }
            IoOp::Discard { offset, len, .. } | IoOp::WriteZeroes { offset, len, .. } => {
                bytes[offset as usize..][..len as usize].fill(0);
                Ok(Bytes::new())
            }
            IoOp::Flush => Err(IoErrno::EIO),
        };
        drop(bytes);
        (request.done)(result);
    }
}

/// Input: what a client sends, from its flags on.
pub const NBD: Target = Target {
    name: "nbd",
    about: "options and requests of an NBD client",
    seeds,
    repair: |input, deep| repair(input, deep),
    run,
    max_len: 8 << 10,
};

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [
        &OPTION_MAGIC.to_be_bytes()[..],
        &number.to_be_bytes(),
        &(data.len() as u32).to_be_bytes(),
        data,
    ]
    .concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let flags = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        .to_be_bytes()
        .to_vec();
    let named = |tail: &[u8]| [&1_u32.to_be_bytes()[..], b"v", tail].concat();
    let request = |kind, offset, length| {
        Request {
            flags: 0,
            kind,
            cookie: 7,
            offset,
            length,
        }
        .encode()
        .to_vec()
    };
    let requests = [
        [request(cmd::WRITE, 512, 1024), vec![5; 1024]].concat(),
        request(cmd::READ, 0, 2048),
        request(cmd::TRIM, 1024, 512),
        request(cmd::READ, 512, 1024),
        request(cmd::WRITE_ZEROES, 0, 512),
        request(cmd::CACHE, 0, 512),
        request(cmd::BLOCK_STATUS, 512, 4096),
        request(cmd::FLUSH, 0, 0),
        request(cmd::READ, u64::MAX - 511, 512),
        request(cmd::DISC, 0, 0),
    ]
    .concat();
    let haggling = [
        option(opt::LIST, &[]),
        option(opt::STRUCTURED_REPLY, &[]),
        option(
            opt::SET_META_CONTEXT,
            &named(&[0, 0, 0, 1, 0, 0, 0, 2, b'a', b':']),
        ),
        option(opt::INFO, &named(&[0, 1, 0, 3])),
        option(opt::STARTTLS, &[]),
        option(
            opt::SET_META_CONTEXT,
            &named(&[&[0, 0, 0, 1, 0, 0, 0, 15], &b"base:allocation"[..]].concat()),
        ),
    ]
    .concat();
    vec![
        [
            flags.clone(),
            haggling,
            option(opt::GO, &named(&[0, 0])),
            requests.clone(),
        ]
        .concat(),
        [flags.clone(), option(opt::EXPORT_NAME, b"v"), requests].concat(),
        [flags, option(opt::ABORT, &[])].concat(),
    ]
}

/// There are no sums, but magic numbers: those of options up to the one that chooses, then those of requests.
fn repair(input: &mut [u8], deep: bool) {
    if !deep || input.len() < 4 {
        return;
    }
    input[..3].fill(0);
    input[3] = 1 | input[3] & 2;
    let mut at = 4;
    while at + 16 <= input.len() {
        input[at..at + 8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        let (number, length) = (be32(input, at + 8), be32(input, at + 12));
        at = at.saturating_add(16 + length as usize);
        if number == opt::GO || number == opt::EXPORT_NAME {
            break;
        }
    }
    while at + REQUEST_BYTES <= input.len() {
        input[at..at + 4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        let (kind, length) = (be32(input, at + 4) & 0xffff, be32(input, at + 24));
        at += REQUEST_BYTES;
        if kind == u32::from(cmd::WRITE) {
            at = at.saturating_add(length as usize);
        }
    }
}

fn run(input: &[u8]) {
    let exports = Exports::new();
    let memory = Arc::new(Memory(Mutex::new(vec![0xaa; SIZE])));
    exports.add(Export::new("v", memory.clone()));
    // A request's payload, and answers: at most what is read, which takes 28 bytes to ask for.
    let answers = input.len() / REQUEST_BYTES * (SIZE + 64);
    let limit = MAX_PAYLOAD as usize + 64 * input.len() + 4 * answers + (64 << 10);
    let (greeting, phase) = bounded(limit, || converse(input, &exports));
    let mut at = 18;
    // All that is said while haggling is whole, but the answer to NBD_OPT_EXPORT_NAME has no frame.
    while at + 20 <= greeting.len() && be64(&greeting, at) == OPTION_REPLY_MAGIC {
        at += 20 + be32(&greeting, at + 16) as usize;
    }
    let left = greeting.len().checked_sub(at).expect("answers are whole");
    assert!(
        left == 0 || left == 10 || left == 134,
        "{left} bytes after the last answer"
    );
    if let Some(phase) = phase {
        check_answers(&phase, input, &memory);
    }
}

fn check_answers(phase: &Transmission, input: &[u8], memory: &Memory) {
    let (answers, structured) = (&phase.answers[..], phase.structured);
    // Follow the requests by hand, on a copy of the device.
    let mut device = vec![0xaa; SIZE];
    let (mut at, mut answer) = (phase.from, 0);
    while answer < answers.len() {
        let raw: &[u8; REQUEST_BYTES] = input[at..].first_chunk().expect("an answer has a request");
        let request = Request::decode(raw).expect("an answer has a good request");
        at += REQUEST_BYTES;
        let (start, length) = (request.offset as usize, request.length as usize);
        let error = be32(answers, answer + 4);
        let is_read = request.kind == cmd::READ;
        if structured && (is_read || request.kind == cmd::BLOCK_STATUS) {
            assert_eq!(be32(answers, answer), STRUCTURED_REPLY_MAGIC);
            assert_eq!(be64(answers, answer + 8), request.cookie);
            let tail = be32(answers, answer + 16) as usize;
            let body = &answers[answer + 20..answer + 20 + tail];
            match be32(answers, answer + 4) {
                0x0001_0001 => {
                    assert!(is_read);
                    assert_eq!(be64(body, 0), request.offset);
                    assert_eq!(body[8..], device[start..start + length], "data read");
                }
                0x0001_0005 => {
                    assert!(!is_read);
                    assert_eq!(be32(body, 0), 1, "the context's number");
                    let extents = body[4..].chunks_exact(8).map(|e| be32(e, 0));
                    let (all, none_empty) =
                        extents.fold((0, true), |(sum, full), e| (sum + u64::from(e), full && e > 0));
                    assert!(
                        none_empty && all > 0 && all <= u64::from(request.length),
                        "{all} bytes told"
                    );
                }
                other => assert_eq!(other, 0x0001_8001, "an error"),
            }
            answer += 20 + tail;
        } else {
            assert_eq!(be32(answers, answer), SIMPLE_REPLY_MAGIC);
            assert_eq!(be64(answers, answer + 8), request.cookie);
            answer += 16;
            if error == 0 && is_read {
                assert_eq!(
                    answers[answer..answer + length],
                    device[start..start + length],
                    "data read"
                );
                answer += length;
            }
        }
        if request.kind == cmd::WRITE {
            let payload = &input[at..at + length];
            if error == 0 {
                device[start..start + length].copy_from_slice(payload);
            }
            at += length;
        }
        if error == 0 && (request.kind == cmd::TRIM || request.kind == cmd::WRITE_ZEROES) {
            device[start..start + length].fill(0);
        }
    }
    assert_eq!(answer, answers.len(), "answers are whole");
    assert_eq!(
        *memory.0.lock().unwrap_or_else(PoisonError::into_inner),
        device,
        "the device afterwards"
    );
}
