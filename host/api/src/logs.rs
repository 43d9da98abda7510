//! Function logs over HTTP: a page, text, or server-sent events that follow.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wambda_model::limits::{INLINE_WORK_BYTES_MAX, LOG_RING_LINES, STREAM_RECHECK};
use wambda_model::{FunctionName, LogEntry, LogRing, clock};

use crate::auth::Lasting;
use crate::room::{Room, Share, held};
use crate::{Api, ApiError, Response, native, reply};

/// Entries of one page.
const PAGE: usize = 1_000;
/// Bytes that one of a text may take in JSON, and those of an event beside its text.
const ESCAPED: usize = 6;
const LINE: usize = 256;
/// Silence after which a follower is sent a comment, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Milliseconds since the Unix epoch as RFC 3339.
pub(crate) fn timestamp(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

#[derive(Debug)]
struct Wanted {
    follow: bool,
    text: bool,
    since_ms: u64,
    after: u64,
    limit: usize,
}

fn parse(query: Option<&str>) -> Result<Wanted, ApiError> {
    let mut wanted = Wanted { follow: false, text: false, since_ms: 0, after: 0, limit: PAGE };
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let wrong = |takes: &str| {
            let message = format!("{key} takes {takes}, got {value:?}");
            ApiError::invalid("InvalidParameter", message)
        };
        match (&*key, &*value) {
            ("follow", "1" | "true" | "") => wanted.follow = true,
            ("follow", "0" | "false") => wanted.follow = false,
            ("format", "text") => wanted.text = true,
            ("format", "json") => wanted.text = false,
            ("format", _) => return Err(wrong("text or json")),
            ("since", value) => {
                wanted.since_ms = since(value).ok_or_else(|| {
                    wrong("a time such as 2026-01-31T12:00:00Z, an age such as 10m, or Unix milliseconds")
                })?;
            }
            ("after", value) => {
                wanted.after = value.parse().map_err(|_| wrong("a sequence number"))?
            }
            ("limit", value) => {
                let valid = value.parse().ok().filter(|n| (1..=LOG_RING_LINES).contains(n));
                wanted.limit = valid.ok_or_else(|| wrong("1 to 4096"))?;
            }
            ("follow", _) => return Err(wrong("0 or 1")),
            _ => {
                let message = format!(
                    "unknown parameter {key:?}: known are follow, since, after, limit and format"
                );
                return Err(ApiError::invalid("InvalidParameter", message));
            }
        }
    }
    Ok(wanted)
}

fn since(text: &str) -> Option<u64> {
    if let Ok(unix_ms) = text.parse() {
        return Some(unix_ms);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return u64::try_from(at.as_millisecond()).ok();
    }
    let unit = match text.chars().last()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let (count, _) = text.split_at(text.len() - 1);
    let age = count.parse::<u64>().ok()?.checked_mul(unit)?;
    Some(clock::unix_ms().saturating_sub(age))
}

/// `GET /v1/functions/{name}/logs`
pub(crate) fn read(
    (api, peer): (&Arc<Api>, SocketAddr),
    name: &FunctionName,
    query: Option<&str>,
    right: impl FnOnce() -> Result<Lasting, ApiError>,
) -> Result<Response, ApiError> {
    let wanted = parse(query)?;
    let ring = Arc::clone(&native::version_of(api, name)?.logs);
    if wanted.follow {
        let may = Rechecked { api: Arc::clone(api), name: name.clone(), right: right()? };
        return Ok(follow((api, peer), ring, wanted, may));
    }
    let entries = ring.read(wanted.after, wanted.since_ms, wanted.limit);
    if wanted.text {
        let lines: String =
            entries.iter().map(|e| format!("{} {}\n", timestamp(e.unix_ms), e.text())).collect();
        let mut response = reply::bytes(StatusCode::OK, lines);
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        return Ok(response);
    }
    let next = entries.last().map_or(wanted.after, |entry| entry.seq);
    let lines: Vec<Value> = entries.iter().map(line).collect();
    Ok(reply::json(StatusCode::OK, &json!({"lines": lines, "next": next})))
}

fn line(entry: &LogEntry) -> Value {
    json!({
        "seq": entry.seq,
        "time": timestamp(entry.unix_ms),
        "request_id": entry.id.to_string(),
        "stream": entry.stream().as_str(),
        "message": entry.text(),
    })
}

/// What a follower must have to be sent more.
struct Rechecked {
    api: Arc<Api>,
    name: FunctionName,
    right: Lasting,
}

impl Rechecked {
    /// Whether the function is there, with these logs, and the caller may read them.
    fn holds(&self, ring: &Arc<LogRing>) -> bool {
        let latest = self.api.catalog.latest(&self.name);
        latest.is_some_and(|latest| Arc::ptr_eq(&latest.logs, ring)) && self.right.holds()
    }
}

struct Follower {
    ring: Arc<LogRing>,
    wanted: Wanted,
    ready: watch::Receiver<bool>,
    may: Rechecked,
    /// When that is asked again.
    recheck: Instant,
    /// When the client was last sent something.
    sent: Instant,
}

/// Server-sent events: what is there, then what comes, until the server drains, or the client may not have them any
/// more. They are written on the work threads: a function may log as much as it likes, and have many followers.
fn follow(
    (api, peer): (&Arc<Api>, SocketAddr),
    ring: Arc<LogRing>,
    wanted: Wanted,
    may: Rechecked,
) -> Response {
    let now = Instant::now();
    let (ready, recheck) = (api.ready.clone(), now + STREAM_RECHECK);
    let mut follower = Follower { ring, wanted, ready, may, recheck, sent: now };
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let this = Arc::clone(api);
    api.offload.spawn(async move {
        let tell = async {
            // Without room the client sees that its log ends, and asks for what comes after the last
            // that it has.
            while let Some((chunk, share)) = follower.next((&this.responses, peer)).await
                && sender.send(held(chunk, &Arc::new(share))).await.is_ok()
            {}
        };
        tokio::select! { () = tell => (), () = sender.closed() => () }
    });
    let events = unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), receiver))
    });
    let body = StreamBody::new(events).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    response.extensions_mut().insert(crate::Follows);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl Follower {
    /// What comes next, and its part of the room; none when nothing more comes, or there is none.
    async fn next(&mut self, (room, peer): (&Room, SocketAddr)) -> Option<(Bytes, Share)> {
        let mut share = room.share(peer.ip());
        loop {
            if Instant::now() >= self.recheck {
                if !self.may.holds(&self.ring) {
                    return None;
                }
                self.recheck = Instant::now() + STREAM_RECHECK;
            }
            let Wanted { after, since_ms, .. } = self.wanted;
            let entries = self.ring.page(after, since_ms, PAGE, INLINE_WORK_BYTES_MAX);
            if let Some(last) = entries.last() {
                self.wanted.after = last.seq;
                self.sent = Instant::now();
                let most = entries.iter().map(|entry| ESCAPED * entry.text().len() + LINE).sum();
                share.cover(room, most).await.ok()?;
                let events: String = entries
                    .iter()
                    .map(|e| format!("id: {}\ndata: {}\n\n", e.seq, line(e)))
                    .collect();
                share.shrink(events.len());
                return Some((events.into(), share));
            }
            tokio::select! {
                () = self.ring.changed(self.wanted.after) => {
                    // Entries that the filter leaves out must not be met again and again.
                    let seen = self.ring.read(self.wanted.after, 0, LOG_RING_LINES);
                    let left_out = |e: &&LogEntry| e.unix_ms < self.wanted.since_ms;
                    if let Some(last) = seen.iter().take_while(left_out).last() {
                        self.wanted.after = last.seq;
                    }
                }
                () = tokio::time::sleep_until(self.recheck.min(self.sent + KEEP_ALIVE)) => {
                    if self.sent.elapsed() >= KEEP_ALIVE {
                        self.sent = Instant::now();
                        return Some((Bytes::from_static(b": waiting\n\n"), share));
                    }
                }
                drained = self.ready.wait_for(|ready| !ready) => {
                    drop(drained);
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_and_out() {
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(since("1700000000123"), Some(1_700_000_000_123));
        assert_eq!(since("2023-11-14T22:13:20.123Z"), Some(1_700_000_000_123));
        assert!(since("10m").unwrap() <= clock::unix_ms() - 600_000);
        assert_eq!([since(""), since("m"), since("1y"), since("é")], [None; 4]);
    }

    #[test]
    fn parameters_are_checked() {
        assert!(parse(Some("follow=1&since=5m&limit=10&format=text")).unwrap().follow);
        for bad in
            ["follow=maybe", "limit=0", "limit=5000", "since=x", "after=-1", "tail=1", "format=xml"]
        {
            assert!(parse(Some(bad)).is_err(), "{bad} was taken");
        }
    }
}
