//! An HTTP function without a library around it, which abuses `wasi:http` as the path says.

mod script;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Function;

wasip2::http::proxy::export!(Function);

fn text(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(status);
    respond(out, response, text);
}

/// A response with these headers, and all of its body.
fn with(out: ResponseOutparam, headers: Fields, text: &str) {
    respond(out, OutgoingResponse::new(headers), text);
}

fn respond(out: ResponseOutparam, response: OutgoingResponse, text: &str) {
    let body = response.body().expect("a body");
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
    }
    let _ = OutgoingBody::finish(body, None);
}

fn length(length: &[u8]) -> Fields {
    Fields::from_list(&[("content-length".to_owned(), length.to_vec())]).expect("fields")
}

impl Guest for Function {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if let Some(query) = path.strip_prefix("/script?") {
            return script::play(query, out);
        }
        let response = OutgoingResponse::new(Fields::new());
        match path.as_str() {
            "/nothing" => drop(out),
            "/error" => {
                ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("own words".into()))))
            }
            "/bad-status" => {
                let refused = [0, 99, 1000, u16::MAX].map(|s| response.set_status_code(s).is_err());
                text(out, 200, &format!("{refused:?}"));
            }
            "/informational" => text(out, 101, "switched"),
            "/status-999" => text(out, 999, "odd"),
            "/no-body" => ResponseOutparam::set(out, Ok(response)),
            "/unfinished" => {
                let body = response.body().expect("a body");
                ResponseOutparam::set(out, Ok(response));
                let stream = body.write().expect("a stream");
                let _ = stream.blocking_write_and_flush(b"half");
                drop(stream);
                drop(body);
            }
            "/kept" | "/half-kept" => {
                let body = response.body().expect("a body");
                ResponseOutparam::set(out, Ok(response));
                if path == "/half-kept" {
                    let stream = body.write().expect("a stream");
                    let _ = stream.blocking_write_and_flush(b"half");
                }
                std::mem::forget(body);
            }
            "/trailers" => {
                let body = response.body().expect("a body");
                ResponseOutparam::set(out, Ok(response));
                let trailers = Fields::from_list(&[("x-trailer".to_owned(), b"v".to_vec())]);
                let _ = OutgoingBody::finish(body, trailers.ok());
            }
            "/many-headers" => {
                let fields = Fields::new();
                let count = (0..5_000)
                    .take_while(|n| fields.append(&format!("h{n}"), b"v").is_ok())
                    .count();
                with(out, fields, &count.to_string());
            }
            "/lingers" => {
                let memory = std::hint::black_box(vec![1u8; 40 << 20]);
                with(out, length(b"2"), "ok");
                std::thread::sleep(std::time::Duration::from_millis(200));
                drop(memory);
            }
            "/length-lies-short" | "/length-lies-long" => {
                let told: &[u8] = if path.ends_with("short") { b"2" } else { b"200" };
                with(out, length(told), "hello");
            }
            "/length-odd" => {
                let odd = ["-1", "+5", "5, 5", "0x5", "5\u{660}", ""];
                let good = odd.iter().filter(|odd| {
                    let entry = ("content-length".to_owned(), odd.as_bytes().to_vec());
                    let fields = Fields::from_list(&[entry]);
                    fields.is_ok_and(|fields| OutgoingResponse::new(fields).body().is_ok())
                });
                let good = good.count();
                text(out, 200, &good.to_string());
            }
            "/ten-gb" => {
                let body = response.body().expect("a body");
                ResponseOutparam::set(out, Ok(response));
                let stream = body.write().expect("a stream");
                let part = [b'x'; 4096];
                for _ in 0..10u64 << 18 {
                    if stream.blocking_write_and_flush(&part).is_err() {
                        break;
                    }
                }
            }
            "/read-forever" => {
                let body = request.consume().expect("a body");
                let stream = body.stream().expect("a stream");
                while stream.blocking_read(65_536).is_ok() {}
                text(out, 200, "all of it");
            }
            "/after-the-answer" => {
                text(out, 200, "early");
                loop {
                    std::hint::black_box(0);
                }
            }
            "/trap-after-the-answer" => {
                text(out, 200, "early");
                std::process::abort();
            }
            _ => text(out, 404, "no such order"),
        }
    }
}
