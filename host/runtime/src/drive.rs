//! How a guest is driven: [`Guarded`] polls it within its limits; [`Drive`] decides on which thread.
//!
//! A short call runs inline, on the thread that parsed its request: no spawn, no channel, no timer.
//! One that outlives its first slices, and computes, moves to the long-run executor, so that short calls never
//! queue behind it. One whose caller goes away finishes there as well, as Lambda's do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use wambda_model::{BoxFuture, InvokeError, KillReason, Outcome, Version, polls};

use crate::counted::Counted;
use crate::engine::Ticker;
use crate::executor::panicked;
use crate::meter::{Meter, now_ns};
use crate::watchdog;

/// The wall-clock deadline passed while the guest waited for the host.
#[derive(Debug)]
pub(crate) struct TimedOut;

/// Polls guest code: arms the meter around each poll, keeps the epoch ticking meanwhile, and ends
/// at the deadline even when the guest is waiting. The caller drops the store then.
pub(crate) struct Guarded<'a, F> {
    future: Pin<&'a mut F>,
    meter: &'a Meter,
    ticker: &'a Ticker,
    version: &'a Version,
    /// When the first poll is, if that is known: asking costs as much as a small part of a call.
    first: Option<u64>,
    /// Between its slices it wants a core and has none.
    starving: Option<Counted<'a>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<'a, F: Future> Guarded<'a, F> {
    pub(crate) fn new(
        future: Pin<&'a mut F>,
        meter: &'a Meter,
        ticker: &'a Ticker,
        version: &'a Version,
    ) -> Self {
        Self { future, meter, ticker, version, first: None, starving: None, sleep: None }
    }

    /// The first poll is `now`.
    pub(crate) fn from(self, now: u64) -> Self {
        Self { first: Some(now), ..self }
    }
}

/// Ends what was begun for a poll even when the guest's poll panics.
struct Running {
    _guest: polls::During,
}

impl Running {
    fn new(ticker: &Ticker, version: &Version, begin: u64) -> Self {
        watchdog::begin(begin, version.uid);
        ticker.rouse();
        Self { _guest: polls::guest() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        watchdog::end();
    }
}

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.starving = None;
        let slices = this.meter.slices();
        let begin = this.first.take().unwrap_or_else(now_ns);
        if begin >= this.meter.deadline_ns() {
            // Behind others who run: what is over must not take another slice from them.
            this.meter.end(begin);
            this.meter.kill(KillReason::Timeout);
            return Poll::Ready(Err(TimedOut));
        }
        this.meter.poll_begin(begin);
        let running = Running::new(this.ticker, this.version, begin);
        let polled = this.future.as_mut().poll(cx);
        drop(running);
        let now = now_ns();
        this.meter.poll_end(now);
        let deadline = this.meter.deadline_ns();
        if let Poll::Ready(done) = polled {
            if now < deadline {
                return Poll::Ready(Ok(done));
            }
            // One operation can outlast the deadline, and the guest end before anything looks.
            this.meter.kill(KillReason::Timeout);
            return Poll::Ready(Err(TimedOut));
        }
        let at = this.meter.deadline();
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        if now >= deadline || sleep.as_mut().poll(cx).is_ready() {
            this.meter.kill(KillReason::Timeout);
            return Poll::Ready(Err(TimedOut));
        }
        // It waits for its next slice, or else for something that is no core.
        this.starving =
            (this.meter.slices() > slices).then(|| Counted::new(&this.version.share.starved));
        Poll::Pending
    }
}

/// A panic in host code, caught.
#[derive(Debug)]
pub(crate) struct Panicked;

/// A future that runs inline while it is short, elsewhere when it is long, and to its end in any
/// case.
pub(crate) struct Drive<T: Send + 'static> {
    inline: Option<BoxFuture<'static, T>>,
    moved: Option<JoinHandle<T>>,
    meter: Arc<Meter>,
    long_run: Handle,
}

impl<T: Send + 'static> Drive<T> {
    /// Starts inline, or, when `long` is expected, elsewhere at once.
    pub(crate) fn new(
        future: BoxFuture<'static, T>,
        meter: Arc<Meter>,
        long_run: Handle,
        long: bool,
    ) -> Self {
        let (inline, moved) =
            if long { (None, Some(long_run.spawn(future))) } else { (Some(future), None) };
        Self { inline, moved, meter, long_run }
    }
}

impl<T: Send + 'static> Future for Drive<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(future) = self.inline.as_mut() {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                self.inline = None;
                return Poll::Ready(Ok(done));
            }
            if !self.meter.outlived() {
                return Poll::Pending;
            }
            if let Some(future) = self.inline.take() {
                self.moved = Some(self.long_run.spawn(future));
            }
        }
        match self.moved.as_mut() {
            Some(task) => Pin::new(task).poll(cx).map_err(|_| Panicked),
            None => Poll::Ready(Err(Panicked)),
        }
    }
}

/// An invocation that is driven; a panic of host code is the platform's failure.
pub(crate) struct Driven(pub(crate) Drive<Result<Outcome, InvokeError>>);

impl Future for Driven {
    type Output = Result<Outcome, InvokeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|done| done.unwrap_or_else(|Panicked| Err(panicked())))
    }
}

impl<T: Send + 'static> Drop for Drive<T> {
    fn drop(&mut self) {
        // Neither a finished future (taken above) nor one that is unwinding is run again.
        if let Some(future) = self.inline.take()
            && !std::thread::panicking()
        {
            drop(self.long_run.spawn(future));
        }
    }
}
