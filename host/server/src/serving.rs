//! Connections while they are served: cut off when the head of a request is waited for too long, asked to end when
//! the server stops. Not who may connect ([`crate::places`]), nor who reads too slowly ([`crate::patient`]).
//!
//! hyper has a timer for heads, and hyper-util a way to stop. Each request arms and disarms the one, and each poll
//! asks the other, under locks that all threads share: more than a tenth of what a short request costs. Here a request
//! costs a few stores to memory that only its connection's thread writes, and one task looks at all connections.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use wambda_api::body::{Rest, Source};
use wambda_api::rates::subscriber;
use wambda_api::room::{Share, Short};
use wambda_api::within::Within;
use wambda_api::{Api, Follows, InMemory, Response};
use wambda_model::limits::{
    CONNECTIONS_RESERVED_PATIENCE, HEADERS_MAX, READER_PATIENCE_FACTOR, RESPONSE_COUNTED_BYTES_MIN,
    RESPONSE_ROOM_MIN, UNSENT_BYTES_MAX,
};
use wambda_model::{BodyError, clock, polls};

use crate::framing::{self, Framed};
use crate::patient::Patient;
use crate::readers::{self, Reader, Waiting};

/// Bytes that a connection buffers; bounds a request's head as well.
const BUFFER_BYTES: usize = 64 << 10;
/// Shortest and longest period of looking at the connections.
const PERIOD_MIN: Duration = Duration::from_millis(20);
const PERIOD_MAX: Duration = Duration::from_millis(500);
/// The connections are looked at so many times in the shortest patience.
const LOOKS: u32 = 8;

/// Every connection that is open, and the time as they tell it.
#[derive(Debug)]
pub(crate) struct Open {
    /// Milliseconds since the server began, as of the last look, and one more: never [`BUSY`].
    now: AtomicU64,
    began: Instant,
    patience: Duration,
    all: Mutex<All>,
    /// The last one has gone.
    none: Notify,
    pub(crate) waiting: Waiting,
    /// When readers were cut off last, for the sake of all and of one subscriber's own.
    shed: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct All {
    served: HashMap<u64, Arc<Watched>>,
    next: u64,
    stopping: bool,
}

/// Since when a connection waits for a head, in [`Doing`]: not at all, because it answers.
const BUSY: u64 = 0;
/// It has waited for too long.
const OVER: u64 = (1 << Doing::SINCE_BITS) - 1;

/// What a connection is doing, in one word: since when it waits for a head, whether its answer is written, and how many
/// bodies of its requests are not over. It waits from when the answer is written and no body is left: a function may
/// answer before it has read what is sent to it.
#[derive(Clone, Copy)]
struct Doing {
    since: u64,
    is_written: bool,
    bodies: u64,
}

impl Doing {
    const SINCE_BITS: u32 = 43;
    const BODIES_BITS: u32 = 20;

    fn of(word: u64) -> Self {
        let bodies = word & ((1 << Self::BODIES_BITS) - 1);
        let is_written = (word >> Self::BODIES_BITS) & 1 == 1;
        Self { since: word >> (Self::BODIES_BITS + 1), is_written, bodies }
    }

    fn word(self) -> u64 {
        let above = (self.since << 1) | u64::from(self.is_written);
        (above << Self::BODIES_BITS) | self.bodies
    }

    /// The same, with the time since when it waits, if it does so only now.
    fn from(self, now: u64) -> Self {
        let waits = self.is_written && self.bodies == 0 && self.since == BUSY;
        Self { since: if waits { now.min(OVER - 1) } else { self.since }, ..self }
    }
}

/// What is known of a connection from outside. Its own thread is all but alone in writing here.
#[derive(Debug)]
pub(crate) struct Watched {
    /// As [`Doing`] has it.
    doing: AtomicU64,
    /// Whether its answer has been handed over, and only has to be written.
    answered: AtomicBool,
    /// Whether it is to end after what it answers now.
    stops: AtomicBool,
    /// Its peer has said all that it has to say.
    half_closed: AtomicBool,
    /// The body of its request is waited for.
    starves: AtomicBool,
    /// What it answers has no end of its own: only a peer that is there gets it.
    follows: AtomicBool,
    waker: OnceLock<Waker>,
    patience_ms: u64,
    pub(crate) open: Arc<Open>,
    pub(crate) peer: IpAddr,
    pub(crate) reader: Reader,
}

impl Watched {
    fn change(&self, change: impl Fn(Doing) -> Doing) {
        let changed = |word| Some(change(Doing::of(word)).word());
        let _ = self.doing.fetch_update(AcqRel, Relaxed, changed);
    }

    /// A request's head is there.
    fn begin(&self) {
        self.answered.store(false, Relaxed);
        self.follows.store(false, Relaxed);
        self.change(|doing| Doing { since: BUSY, is_written: false, ..doing });
    }

    /// The body of the request that has begun is to come.
    fn reads(self: &Arc<Self>) -> Arc<Self> {
        self.change(|doing| Doing { bodies: doing.bodies + 1, ..doing });
        Arc::clone(self)
    }

    /// The peer has ended its side. Whether hyper may hear of that only later: a peer that has sent its request whole may
    /// do so, and is answered (RFC 9112, 9.6). hyper takes it for gone.
    pub(crate) fn half_closes(&self) -> bool {
        let doing = Doing::of(self.doing.load(Relaxed));
        let answers = doing.since == BUSY && doing.bodies == 0 && !self.follows.load(Relaxed);
        if answers {
            self.half_closed.store(true, Relaxed);
        }
        answers
    }

    /// Whether a body of its requests is not over.
    pub(crate) fn reads_body(&self) -> bool {
        Doing::of(self.doing.load(Relaxed)).bodies > 0
    }

    /// Whether such a body is waited for.
    pub(crate) fn starves(&self) -> bool {
        self.starves.load(Relaxed)
    }

    /// All that was to be written has been; whether hyper is to read again, because the end of its peer's side was kept
    /// from it.
    pub(crate) fn flushed(&self) -> bool {
        let was_answering = self.answered.load(Relaxed);
        if was_answering {
            self.answered.store(false, Relaxed);
            let now = self.open.now.load(Relaxed);
            self.change(|doing| Doing { is_written: true, ..doing }.from(now));
        }
        was_answering && self.half_closed.load(Relaxed)
    }

    fn wake(&self) {
        fence(SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Ends its waiting when that has lasted too long, with the `step` that the time as connections tell it may be behind.
    /// Nothing is taken from a request that has come meanwhile.
    fn look(&self, now: u64, step: u64) {
        let word = self.doing.load(Acquire);
        let doing = Doing::of(word);
        let since = doing.since;
        let waited = now.saturating_sub(since);
        let is_over =
            since != BUSY && since != OVER && waited > self.patience_ms.saturating_add(step);
        let over = Doing { since: OVER, ..doing }.word();
        if is_over && self.doing.compare_exchange(word, over, AcqRel, Relaxed).is_ok() {
            self.wake();
        }
    }

    /// Its reader makes it wait, for which it holds so much more.
    pub(crate) fn stalls(&self, bytes: usize) {
        self.reader.stalls(self.open.now.load(Relaxed), bytes);
    }

    /// Cuts it off.
    fn cut(&self) {
        self.change(|doing| Doing { since: OVER, ..doing });
        self.wake();
    }

    fn is_over(&self) -> bool {
        Doing::of(self.doing.load(Acquire)).since == OVER
    }
}

impl Source for Watched {
    fn over(&self) {
        let now = self.open.now.load(Relaxed);
        self.change(|doing| Doing { bodies: doing.bodies.saturating_sub(1), ..doing }.from(now));
    }

    fn waits(&self, waits: bool) {
        if self.starves.load(Relaxed) != waits {
            self.starves.store(waits, Relaxed);
        }
    }
}

impl Open {
    /// No connection yet. Each may wait `patience` for a head.
    pub(crate) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            now: AtomicU64::new(1),
            began: clock::now(),
            patience,
            all: Mutex::default(),
            none: Notify::new(),
            waiting: Waiting::default(),
            shed: Default::default(),
        })
    }

    /// Cuts off the slowest readers, until so many bytes are given back: of this peer only, when it is its own part of
    /// the room that is short. Returns how many bytes they hold.
    pub(crate) fn shed(&self, bytes: u64, short: Short, peer: IpAddr) -> u64 {
        let now = self.now.load(Relaxed);
        // It looks at all connections: as often as their clock moves, and no oftener.
        let [of_all, of_own] = &self.shed;
        let last = if short == Short::All { of_all } else { of_own };
        if last.swap(now, Relaxed) == now {
            return bytes;
        }
        let (mut slowest, mut freed) = (Vec::new(), 0);
        let all = self.lock();
        for watched in all.served.values() {
            let is_meant = short == Short::All || subscriber(watched.peer) == subscriber(peer);
            if let Some((pace, held)) = watched.reader.pace(now).filter(|_| is_meant) {
                slowest.push((pace, held, Arc::clone(watched)));
            }
        }
        drop(all);
        slowest.sort_unstable_by_key(|(pace, ..)| *pace);
        for (_, held, watched) in slowest {
            if freed >= bytes.max(RESPONSE_ROOM_MIN) {
                break;
            }
            freed += held;
            watched.cut();
        }
        freed
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all connections, for ever. Who waits for too long is cut off within two periods.
    pub(crate) async fn watch(self: Arc<Self>) {
        let shortest = self.patience.min(CONNECTIONS_RESERVED_PATIENCE);
        let mut tick = tokio::time::interval((shortest / LOOKS).clamp(PERIOD_MIN, PERIOD_MAX));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = self.now.load(Relaxed);
        loop {
            tick.tick().await;
            let passed = clock::now().saturating_duration_since(self.began);
            let now = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            self.now.store(now, Relaxed);
            let all = self.lock();
            all.served.values().for_each(|watched| watched.look(now, now - before));
            before = now;
        }
    }

    /// Lets every connection end after what it answers now, and waits for the last one.
    pub(crate) async fn stop(&self) {
        {
            let mut all = self.lock();
            all.stopping = true;
            for watched in all.served.values() {
                watched.stops.store(true, Release);
                watched.wake();
            }
        }
        loop {
            let gone = self.none.notified();
            if self.lock().served.is_empty() {
                return;
            }
            gone.await;
        }
    }

    fn enter(self: &Arc<Self>, peer: IpAddr, patience: Duration) -> Entered {
        let mut all = self.lock();
        let id = all.next;
        all.next += 1;
        let now = self.now.load(Relaxed);
        let begun = Doing { since: BUSY, is_written: true, bodies: 0 }.from(now);
        let watched = Arc::new(Watched {
            doing: AtomicU64::new(begun.word()),
            answered: AtomicBool::new(false),
            stops: AtomicBool::new(all.stopping),
            half_closed: AtomicBool::new(false),
            follows: AtomicBool::new(false),
            starves: AtomicBool::new(false),
            waker: OnceLock::new(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            open: Arc::clone(self),
            peer,
            reader: Reader::default(),
        });
        all.served.insert(id, Arc::clone(&watched));
        Entered { watched, id }
    }
}

/// A connection's place among those that are looked at.
struct Entered {
    watched: Arc<Watched>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let open = &self.watched.open;
        let mut all = open.lock();
        all.served.remove(&self.id);
        if all.served.is_empty() {
            open.none.notify_waiters();
        }
    }
}

/// What each request of a connection needs.
struct Desk {
    api: Arc<Api>,
    peer: SocketAddr,
    is_reserved: bool,
    /// The function that calls, when it is one.
    within: Option<Within>,
    watched: Arc<Watched>,
}

/// Serves a connection to its end; one that `is_reserved` answers one short question.
pub(crate) fn serve(
    open: &Arc<Open>,
    api: Arc<Api>,
    (stream, peer): (TcpStream, SocketAddr),
    is_reserved: bool,
) -> impl Future<Output = ()> + Send + use<> {
    let _ = stream.set_nodelay(true);
    // What a peer does not read stays here, where it is counted, and not with the kernel, where it is not.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    begin(open, api, (stream, peer), (is_reserved, None))
}

/// Serves one request of a function. It is answered while the server stops as well: an invocation that may end needs it.
pub(crate) fn serve_function<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    open: &Arc<Open>,
    api: Arc<Api>,
    stream: S,
    within: Within,
) -> impl Future<Output = ()> + Send + use<S> {
    let peer = within.address();
    begin(open, api, (stream, peer), (false, Some(within)))
}

fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    open: &Arc<Open>,
    api: Arc<Api>,
    (stream, peer): (S, SocketAddr),
    (is_reserved, within): (bool, Option<Within>),
) -> impl Future<Output = ()> + Send + use<S> {
    let is_one = is_reserved || within.is_some();
    let is_within = within.is_some();
    let most = if is_reserved { CONNECTIONS_RESERVED_PATIENCE } else { open.patience };
    let patience = open.patience.min(most);
    let entered = open.enter(peer.ip(), patience);
    let watched = Arc::clone(&entered.watched);
    let longest = patience * READER_PATIENCE_FACTOR;
    let stream = Patient::new(stream, longest, Arc::clone(&watched), Arc::clone(&api));
    let desk = Arc::new(Desk { api, peer, is_reserved, within, watched });
    let service = service_fn(move |request| answer(Arc::clone(&desk), request));
    // Not `pipeline_flush`: it keeps the answer to a request that cannot be parsed in the buffer.
    let connection = http1::Builder::new()
        .keep_alive(!is_one)
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    drive(entered, is_within, connection)
}

/// Drives a connection until it ends, or is over; one that is `told` is not asked to end.
async fn drive<T, S>(
    entered: Entered,
    mut told: bool,
    connection: http1::Connection<TokioIo<Patient<T>>, S>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Answer, Error = Infallible>,
{
    let watched = &entered.watched;
    let mut connection = std::pin::pin!(connection);
    poll_fn(|cx: &mut Context<'_>| {
        let _poll = polls::connection();
        // A task has one waker for all its life. Whoever does not find it has written before this looks.
        if watched.waker.get().is_none() {
            let _ = watched.waker.set(cx.waker().clone());
            fence(SeqCst);
        }
        // How a connection ends is its peer's business. A head that has come in time, and not been looked at, wins.
        let mut polled = connection.as_mut().poll(cx).map(drop);
        if polled.is_pending() && !told && watched.stops.load(Acquire) {
            told = true;
            connection.as_mut().graceful_shutdown();
            polled = connection.as_mut().poll(cx).map(drop);
        }
        if polled.is_pending() && watched.is_over() {
            return Poll::Ready(());
        }
        polled
    })
    .await;
}

async fn answer(
    desk: Arc<Desk>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Answer>, Infallible> {
    desk.watched.begin();
    // hyper takes the next request of a pipeline before the last response is written, and keeps heads
    // without a body in a buffer that has no bound.
    if desk.watched.reader.is_stalled() {
        Box::pin(desk.watched.reader.caught_up()).await;
    }
    let (mut parts, incoming) = request.into_parts();
    if let Some(within) = &desk.within {
        parts.extensions.insert(within.clone());
    }
    let method = parts.method.clone();
    let body = Rest::new(&parts.headers, incoming, || desk.watched.reads());
    let request = hyper::Request::from_parts(parts, body);
    let Desk { api, peer, is_reserved, .. } = &*desk;
    let short = api.responses.lacks(RESPONSE_ROOM_MIN, peer.ip());
    // Boxed: they are rare, and would be copied with every request's.
    let answered = match (is_reserved, short) {
        (false, None) => AssertUnwindSafe(api.handle(request, *peer)).catch_unwind().await,
        (true, _) => {
            AssertUnwindSafe(Box::pin(api.handle_beyond(request, *peer))).catch_unwind().await
        }
        (false, Some(short)) => {
            let desk = Arc::clone(&desk);
            let answer = Box::pin(answer_short(desk, request, short));
            AssertUnwindSafe(answer).catch_unwind().await
        }
    };
    let response: Response = answered.unwrap_or_else(|_| api.panicked());
    let framed = framing::fit(&method, response);
    let mut framed = framed.unwrap_or_else(|| framing::refusal(api.misframed()));
    let share = hold(&desk, &mut framed).await;
    Ok(framed.map(|body| Answer { body, share, desk }))
}

/// Answers while there is no room for what a function may answer: the slowest readers make some, or else it is refused.
async fn answer_short(desk: Arc<Desk>, request: wambda_api::Request, short: Short) -> Response {
    let Desk { api, peer, watched, .. } = &*desk;
    match readers::made(&watched.open, api, peer.ip(), short).await {
        None => api.handle(request, *peer).await,
        Some(short) => api.handle_short(request, *peer, short).await,
    }
}

/// Its part of the room for responses, when a response is large; one for which there is none is replaced.
async fn hold(desk: &Desk, framed: &mut hyper::Response<Framed>) -> Option<Arc<Share>> {
    let in_memory = framed.extensions().get::<InMemory>().map_or(0, |InMemory(bytes)| *bytes);
    let size = framed.body().held_bytes().max(in_memory);
    if size == 0 && framed.extensions().get::<Follows>().is_some() {
        desk.watched.follows.store(true, Relaxed);
    }
    if size < RESPONSE_COUNTED_BYTES_MIN {
        return None;
    }
    // Some found room before they were made.
    if let Some(found) = framed.extensions_mut().remove() {
        desk.watched.reader.holds(size);
        return Some(found);
    }
    let Desk { api, peer, watched, .. } = desk;
    match Box::pin(readers::room(&watched.open, api, peer.ip(), size)).await {
        Ok(share) => {
            // Not before: until there is a response, its reader has taken all that there is.
            desk.watched.reader.holds(size);
            Some(share)
        }
        Err(error) => {
            *framed = framing::refusal(api.no_room(framed.headers(), error));
            None
        }
    }
}

/// An answer's body, that tells when the connection has taken all of it.
struct Answer {
    body: Framed,
    /// Its part of the room for responses, when it is large.
    share: Option<Arc<Share>>,
    desk: Arc<Desk>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.desk.watched.answered.store(true, Relaxed);
    }
}

impl HttpBody for Answer {
    type Data = hyper::body::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<hyper::body::Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match (polled, &self.share) {
            (Poll::Ready(Some(Ok(frame))), Some(share)) => {
                let frame = frame.map_data(|data| wambda_api::room::held(data, share));
                Poll::Ready(Some(Ok(frame)))
            }
            (polled, _) => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
