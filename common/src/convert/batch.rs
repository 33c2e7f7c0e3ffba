//! Writes to an image on their way from the thread that makes them (reads, checks, decompresses) to the one that does
//! them. A fixed number of batches goes round, so memory is bounded and neither side gets far ahead.

use std::sync::mpsc::sync_channel;
use std::thread;

/// Data a batch holds. Small enough that what one core wrote is still in the shared cache when the other reads it, and
/// that the page cache need not find huge pages for one write; larger batches measured slower.
pub(super) const BATCH_BYTES: usize = 512 << 10;
/// Operations a batch holds: those without data take no room there.
const BATCH_OPS: usize = 4096;
/// Batches in circulation: one being made, one being done, one between.
const BATCHES: usize = 3;

/// What to do to a range of the image. Positions and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    pub position: u64,
    pub length: u64,
    pub what: What,
}

/// See [`Op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The data that start here in the batch's buffer.
    Data(usize),
    Zeros,
    Discard,
}

/// Some operations in address order, with their data.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ops: Vec<Op>,
    buf: Vec<u8>,
}

impl Batch {
    /// Empties it. Memory that an exceptionally large record took is given back.
    pub fn clear(&mut self) {
        self.ops.clear();
        if self.buf.len() > BATCH_BYTES {
            self.buf = Vec::new();
        }
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn is_full(&self) -> bool {
        self.ops.len() >= BATCH_OPS
    }

    /// Part of the buffer, to be filled.
    pub fn room(&mut self, from: usize, length: usize) -> &mut [u8] {
        if self.buf.len() < from + length {
            // Zeroed once, then used again and again.
            self.buf.resize((from + length).max(BATCH_BYTES), 0);
        }
        &mut self.buf[from..from + length]
    }

    /// The data of an operation; none if it has none.
    pub fn data(&self, op: &Op) -> Option<&[u8]> {
        match op.what {
            What::Data(from) => Some(&self.buf[from..from + op.length as usize]),
            What::Zeros | What::Discard => None,
        }
    }

    /// Adds an operation; one that goes on where the last ended becomes part of it.
    pub fn push(&mut self, op: Op) {
        if op.length == 0 {
            return;
        }
        if let Some(last) = self.ops.last_mut()
            && last.position + last.length == op.position
            && match (last.what, op.what) {
                (What::Data(from), What::Data(next)) => from + last.length as usize == next,
                (last, next) => last == next,
            }
        {
            last.length += op.length;
            return;
        }
        self.ops.push(op);
    }
}

/// Runs `make` on a thread of its own, as long as it says true or left something in the batch, and `use_up` here on
/// each batch in turn. An error of either ends both.
pub(super) fn pipelined<E: Send>(
    mut make: impl FnMut(&mut Batch) -> Result<bool, E> + Send,
    mut use_up: impl FnMut(&Batch) -> Result<(), E>,
) -> Result<(), E> {
    // What fits one batch is not worth a thread.
    let mut first = Batch::default();
    let more = make(&mut first)?;
    if !more {
        return use_up(&first);
    }
    let (give, take) = sync_channel::<Result<Batch, E>>(BATCHES);
    let (give_back, take_back) = sync_channel::<Batch>(BATCHES);
    for _ in 1..BATCHES {
        let _ = give_back.send(Batch::default());
    }
    // Moved in: an early return must close the channels before it waits for the thread.
    thread::scope(move |scope| {
        scope.spawn(move || {
            // Either channel closed: the other side failed, and knows why.
            while let Ok(mut batch) = take_back.recv() {
                batch.clear();
                let more = make(&mut batch);
                let last = !matches!(more, Ok(true));
                if give.send(more.map(|_| batch)).is_err() || last {
                    return;
                }
            }
        });
        let mut batch = first;
        loop {
            use_up(&batch)?;
            let _ = give_back.send(batch);
            match take.recv() {
                Ok(made) => batch = made?,
                Err(_) => return Ok(()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(position: u64, length: u64, what: What) -> Op {
        Op {
            position,
            length,
            what,
        }
    }

    #[test]
    fn neighbours_become_one_operation() {
        let mut batch = Batch::default();
        batch.push(op(0, 10, What::Data(0)));
        batch.push(op(10, 5, What::Data(10)));
        batch.push(op(15, 5, What::Data(20)));
        batch.push(op(20, 0, What::Discard));
        batch.push(op(20, 5, What::Zeros));
        batch.push(op(25, 5, What::Zeros));
        batch.push(op(31, 5, What::Zeros));
        assert_eq!(
            batch.ops(),
            [
                op(0, 15, What::Data(0)),
                op(15, 5, What::Data(20)),
                op(20, 10, What::Zeros),
                op(31, 5, What::Zeros)
            ]
        );
    }

    #[test]
    fn every_batch_arrives_in_order_until_either_side_fails() {
        for (make_fails, use_fails) in [(100, 100), (7, 100), (100, 7), (0, 100), (100, 0), (19, 100)] {
            let (mut made, mut seen) = (0u64, Vec::new());
            let end = pipelined(
                |batch| {
                    if made == make_fails {
                        return Err("make");
                    }
                    batch.room(0, 1)[0] = made as u8;
                    batch.push(op(made, 1, What::Data(0)));
                    made += 1;
                    Ok(made < 20)
                },
                |batch| {
                    if seen.len() as u64 == use_fails {
                        return Err("use");
                    }
                    let op = batch.ops()[0];
                    assert_eq!(batch.data(&op), Some(&[op.position as u8][..]));
                    seen.push(op.position);
                    Ok(())
                },
            );
            let expected = make_fails.min(use_fails).min(20);
            assert!(seen.iter().copied().eq(0..expected), "{seen:?}");
            assert_eq!(end.is_ok(), expected == 20, "{end:?}");
        }
    }
}
