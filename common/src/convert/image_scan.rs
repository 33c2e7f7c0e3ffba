//! Reads a whole image, stripe by stripe, on several threads.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::convert::image_source::ImageSource;
use crate::types::{LB_SIZE, Lb};

/// An image could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It failed.
    #[error("{act} the image at block {address}")]
    Image {
        /// What was tried.
        act: &'static str,
        /// Where.
        address: Lb,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("reading the image was stopped")]
    Stopped,
}

/// What a stripe holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stripe<'a> {
    /// Its bytes.
    Data(&'a [u8]),
    /// So many zeros: the image has a hole there.
    Zeros(u64),
}

/// Gives each stripe of `stripe` bytes (the last may be shorter) with its number to `work`, on up to `threads` threads
/// with this one, in no order. `progress` is told the bytes that are through, and can stop it. The image's size.
pub(super) fn scan<S: ImageSource + Sync + ?Sized>(
    image: &S,
    stripe: u32,
    threads: usize,
    work: &(dyn Fn(u64, Stripe<'_>) + Sync),
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<u64, ScanError> {
    let size = image.size().map_err(failed("size", 0))?;
    let scan = Scan {
        image,
        size,
        stripe: u64::from(stripe),
        work,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let others = size.div_ceil(scan.stripe).min(threads as u64).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| scan.run(&mut |_| ControlFlow::Continue(())));
        }
        scan.run(progress);
    });
    match scan.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        // The last stripe may have been another thread's.
        None if progress(size).is_break() => Err(ScanError::Stopped),
        None => Ok(size),
    }
}

struct Scan<'a, S: ?Sized> {
    image: &'a S,
    size: u64,
    stripe: u64,
    work: &'a (dyn Fn(u64, Stripe<'_>) + Sync),
    /// Number of the next stripe nobody has taken.
    next: AtomicU64,
    /// Bytes that are through.
    done: AtomicU64,
    /// Somebody failed: nobody takes another stripe.
    stop: AtomicBool,
    error: Mutex<Option<ScanError>>,
}

impl<S: ImageSource + ?Sized> Scan<'_, S> {
    fn run(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) {
        let mut buf = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let start = number * self.stripe;
            if start >= self.size {
                return;
            }
            let length = self.stripe.min(self.size - start);
            let outcome = self.one(number, start, length, &mut buf).and_then(|()| {
                let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
                match progress(done) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(ScanError::Stopped),
                }
            });
            if let Err(error) = outcome {
                self.stop.store(true, Ordering::Relaxed);
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                return;
            }
        }
    }

    fn one(&self, number: u64, start: u64, length: u64, buf: &mut Vec<u8>) -> Result<(), ScanError> {
        let data = self
            .image
            .data_from(start)
            .map_err(failed("find data of", start))?;
        if data.is_none_or(|data| data.start >= start + length) {
            (self.work)(number, Stripe::Zeros(length));
            return Ok(());
        }
        if buf.is_empty() {
            buf.resize(self.stripe as usize, 0);
        }
        let buf = &mut buf[..length as usize];
        self.image
            .read_exact_at(buf, start)
            .map_err(failed("read", start))?;
        (self.work)(number, Stripe::Data(buf));
        Ok(())
    }
}

fn failed(act: &'static str, position: u64) -> impl FnOnce(io::Error) -> ScanError {
    let address = Lb(position / LB_SIZE);
    move |source| ScanError::Image { act, address, source }
}
