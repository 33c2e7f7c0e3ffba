//! Requests that the thread which brings them does by itself.

use std::thread::{self, ThreadId};

use super::*;

/// Which thread answers.
fn answered_by(engine: &Engine, ops: Vec<IoOp>) -> Vec<ThreadId> {
    let (sender, receiver) = mpsc::channel();
    let count = ops.len();
    let request = |op| {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Bytes, _>| {
            result.unwrap();
            sender.send(thread::current().id()).unwrap();
        });
        IoRequest { op, done }
    };
    engine.submit_here(ops.into_iter().map(request).collect());
    (0..count).map(|_| receiver.recv().unwrap()).collect()
}

fn write_op(at_lb: u64, blocks: u64) -> IoOp {
    IoOp::Write {
        offset: at_lb * LB_SIZE,
        data: Bytes::from(block_of(u8::try_from(at_lb % 250).unwrap() + 1, blocks)),
        fua: false,
    }
}

fn place() -> Place {
    Place::new(PhysicalBlockSize::B4096, 8 << 20, 1 << 20)
}

#[test]
fn a_caller_logs_flushes_and_reads_by_itself_where_nothing_else_is_under_way() {
    let mut place = place();
    // Nobody syncs but for a flush.
    place.limits.log_sync_interval_ms = 60_000;
    let engine = place.open();
    let me = thread::current().id();
    assert_eq!(answered_by(&engine, vec![write_op(0, 8)]), [me]);
    assert_eq!(
        answered_by(&engine, (0..20).map(|n| write_op(n * 8, 8)).collect()),
        [me; 20]
    );
    let durable = |offset| IoOp::Write {
        offset,
        data: Bytes::from(block_of(9, 8)),
        fua: true,
    };
    for op in [durable(0), IoOp::Flush, IoOp::Read { offset: 0, len: 4096 }] {
        assert_eq!(answered_by(&engine, vec![op]), [me]);
    }
    let lsids = engine.status().lsids;
    assert_eq!(lsids.permanent, lsids.latest);
    assert_eq!(engine.shared.lock().callers_at_work, 0);
}

#[test]
fn a_caller_leaves_to_the_devices_threads_what_may_take_long() {
    let place = place();
    let engine = place.open();
    let me = thread::current().id();
    // Too large.
    let by = answered_by(&engine, vec![write_op(0, 1024)]);
    assert_ne!(by, [me]);
    // Held back.
    engine.freeze(None).unwrap();
    let held = thread::scope(|scope| {
        let held = scope.spawn(|| answered_by(&engine, vec![write_op(0, 8)]));
        while engine.shared.lock().queue.is_empty() {
            thread::yield_now();
        }
        engine.melt();
        held.join().unwrap()
    });
    assert_ne!(held, [me]);
    assert_eq!(read_all(&engine)[..4096], block_of(1, 8));
}

#[test]
fn callers_on_many_threads_and_the_devices_own_keep_every_order() {
    let place = place();
    let engine = place.open();
    thread::scope(|scope| {
        for client in 0..4_u64 {
            let engine = &engine;
            scope.spawn(move || {
                // Each has blocks of its own, and overwrites them.
                for round in 0..100_u8 {
                    let at = client * 64 + u64::from(round % 8) * 8;
                    let data = block_of(round + 1, 8);
                    let result = match round % 3 {
                        0 => write(engine, at, data),
                        1 => write_here(engine, at, data),
                        _ => {
                            let op = IoOp::Write {
                                offset: at * LB_SIZE,
                                data: Bytes::from(data),
                                fua: round % 2 == 0,
                            };
                            here(engine, vec![op, IoOp::Flush]).remove(0).map(drop)
                        }
                    };
                    result.unwrap();
                }
            });
        }
    });
    engine.abandon();
    drop(engine);
    let found = read_all(&place.open());
    for client in 0..4 {
        for slot in 0..8 {
            // The last round that wrote there.
            let last = (0..100_u8)
                .rev()
                .find(|round| usize::from(round % 8) == slot)
                .unwrap();
            let start = (client * 64 + slot * 8) * LB_SIZE as usize;
            assert!(
                found[start..start + 4096].iter().all(|&byte| byte == last + 1),
                "client {client}, slot {slot}"
            );
        }
    }
}

#[test]
fn a_device_that_ends_answers_what_callers_brought() {
    for _ in 0..20 {
        let place = place();
        let engine = place.open();
        let answers: Vec<_> = thread::scope(|scope| {
            let callers: Vec<_> = (0..3_u64)
                .map(|client| {
                    let engine = &engine;
                    scope.spawn(move || {
                        let ops = || (0..50).map(|n| write_op(client * 400 + n * 8, 8));
                        let one_by_one = ops().map(|op| here(engine, vec![op]).remove(0).is_ok());
                        one_by_one.collect::<Vec<_>>()
                    })
                })
                .collect();
            engine.abandon();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert_eq!(engine.shared.lock().callers_at_work, 0);
        drop(engine);
        let found = read_all(&place.open());
        for (client, answers) in answers.into_iter().enumerate() {
            for (n, _) in answers.into_iter().enumerate().filter(|(_, ok)| *ok) {
                let at = client * 400 + n * 8;
                let expected = u8::try_from(at % 250).unwrap() + 1;
                assert_eq!(found[at * LB_SIZE as usize], expected, "an acknowledged write");
            }
        }
    }
}
