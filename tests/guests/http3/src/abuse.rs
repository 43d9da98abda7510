//! What a component of WASI 0.3 can leave behind, and never end.

use std::future::pending;
use std::mem::forget;

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

use crate::{answer, files};

/// Does what the path says.
pub async fn act(order: &str, request: Request) -> Result<Response, ErrorCode> {
    let (order, count) = order.split_once('?').unwrap_or((order, ""));
    let count: usize = count.parse().unwrap_or(0);
    match order {
        "leak-streams" => keep(count, || wit_stream::new::<u8>()),
        "leak-futures" => keep(count, || wit_future::new::<Result<(), ErrorCode>>(|| Ok(()))),
        "leak-fields" => keep(count, Fields::new),
        // Each is a call of the host that goes on after its guest has answered.
        "leak-tasks" => (0..count).for_each(|_| spawn(wait_for(u64::MAX))),
        "leak-pending" => (0..count).for_each(|_| spawn(pending())),
        "tasks-for-ever" => loop {
            spawn(wait_for(u64::MAX));
            wait_for(1).await;
        },
        "naps-for-ever" => loop {
            wait_for(1_000).await;
        },
        "yields-for-ever" => loop {
            wit_bindgen::yield_async().await;
        },
        "sleep-for-ever" => wait_for(u64::MAX).await,
        "never" => pending().await,
        "grow" => loop {
            forget(vec![1u8; 1 << 20]);
        },
        "loop-after" => spawn(async {
            wait_for(200_000_000).await;
            loop {
                std::hint::black_box(0);
            }
        }),
        "trap-after" => spawn(async {
            wait_for(200_000_000).await;
            std::process::abort();
        }),
        "plant" => forget(std::hint::black_box("canary!!".repeat(count << 17))),
        "dig" => return Ok(answer(dig(count).to_string())),
        "print-singly" => print(b"x", count).await,
        "print-blocks" => print(&b"y".repeat(1 << 20), count).await,
        "files-open" | "files-list" | "files-stream" | "files-read" | "files-out" => {
            let good = files::act(order.trim_start_matches("files-"), count).await;
            return Ok(answer(format!("{good} of {count}")));
        }
        "error" => return Err(ErrorCode::InternalError(Some("own words".to_owned()))),
        "unread" => forget(request),
        _ => return body(order),
    }
    Ok(answer(format!("{order} {count}")))
}

/// Goes on beside and after the answer.
fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(wit_bindgen::spawn_local(task));
}

fn keep<T>(count: usize, make: impl Fn() -> T) {
    forget((0..count).map(|_| make()).collect::<Vec<_>>());
}

/// Responses of which the head is well and the rest is not.
fn body(order: &str) -> Result<Response, ErrorCode> {
    let length = match order {
        "length-lies-short" => Some("2"),
        "length-lies-long" => Some("200"),
        _ => None,
    };
    let mut entries: Vec<(String, Vec<u8>)> =
        length.map(|length| ("content-length".to_owned(), length.into())).into_iter().collect();
    let more: &[(&str, &str)] = match order {
        "two-lengths" => &[("content-length", "5"), ("content-length", "6")],
        "hop-by-hop" => &[("connection", "close"), ("keep-alive", "timeout=1")],
        "transfer-encoding" => &[("transfer-encoding", "chunked")],
        "line-break" => &[("a", "x\r\ny: z")],
        "upgrade" => &[("upgrade", "websocket")],
        _ => &[],
    };
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    entries.extend(more);
    if order == "many-headers" {
        entries.extend((0..32_769).map(|n| (format!("h{n}"), b"x".to_vec())));
    }
    // What the host does not take is left out, and said.
    let (fields, refused) = match Fields::from_list(&entries) {
        Ok(fields) => (fields, false),
        Err(_) => (Fields::new(), true),
    };
    let (mut body, stream) = wit_stream::new();
    let (trailers, end) = wit_future::new(|| Ok(None));
    let act = order.to_owned();
    wit_bindgen::spawn_local(async move {
        body.write_all(if refused { &b"refused"[..] } else { &b"hello"[..] }.to_vec()).await;
        match &*act {
            "endless" => while body.write_all(vec![b'x'; 4096]).await.is_empty() {},
            // Nobody ends its body, or its trailers.
            "unfinished" => return forget((body, trailers)),
            "without-trailers" => return forget(trailers),
            "failed" => {
                let _ = trailers.write(Err(ErrorCode::HttpProtocolError)).await;
                return;
            }
            _ => {}
        }
        drop(body);
        let _ = trailers.write(Ok(None)).await;
    });
    let (response, _sent) = Response::new(fields, Some(stream), end);
    if let Some(status) = order.strip_prefix("status-").and_then(|status| status.parse().ok()) {
        let _ = response.set_status_code(status);
    }
    Ok(response)
}

/// Writes this to the standard output, so many times.
async fn print(bytes: &[u8], count: usize) {
    let (mut out, stream) = wit_stream::new();
    let written = wasip3::cli::stdout::write_via_stream(stream);
    for _ in 0..count {
        if !out.write_all(bytes.to_vec()).await.is_empty() {
            break;
        }
    }
    drop(out);
    let _ = written.await;
}

/// Words that are not zero in so many megabytes that nobody of this instance has written.
fn dig(megabytes: usize) -> usize {
    let pages = megabytes * 16;
    let before = core::arch::wasm32::memory_grow(0, pages);
    if before == usize::MAX {
        return usize::MAX;
    }
    let words = (before * 65_536..(before + pages) * 65_536).step_by(8);
    // SAFETY: pages that were added just now, which nothing else uses.
    words.filter(|at| unsafe { core::ptr::read_volatile(*at as *const u64) } != 0).count()
}
