//! A response step by step, as the request's query says: what a table and a fuzzer ask for.
//!
//! Steps are separated by `,`: `status:N`, `header:NAME=VALUE`, `body` (take it), `set` (give the head), `write:N`,
//! `finish`, `trailers`, `drop`, `forget`, `sleep:MS`, `trap`. What is not possible at its place is left out.

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::OutputStream;

/// Most that one step writes at a time.
const PART: usize = 4096;

#[derive(Default)]
struct Stage {
    status: Option<u16>,
    headers: Vec<(String, Vec<u8>)>,
    response: Option<OutgoingResponse>,
    body: Option<OutgoingBody>,
    stream: Option<OutputStream>,
    out: Option<ResponseOutparam>,
}

/// Plays the script of this query.
pub fn play(query: &str, out: ResponseOutparam) {
    let mut stage = Stage { out: Some(out), ..Stage::default() };
    for step in query.split(',') {
        let (what, with) = step.split_once(':').unwrap_or((step, ""));
        stage.step(what, with);
    }
    // What is left is dropped in the order of its fields.
}

impl Stage {
    fn response(&mut self) -> Option<&OutgoingResponse> {
        if self.response.is_none() && self.out.is_some() {
            let fields = Fields::from_list(&self.headers).unwrap_or_else(|_| Fields::new());
            let response = OutgoingResponse::new(fields);
            if let Some(status) = self.status {
                let _ = response.set_status_code(status);
            }
            self.response = Some(response);
        }
        self.response.as_ref()
    }

    fn step(&mut self, what: &str, with: &str) {
        let number = with.parse().unwrap_or(0);
        match what {
            "status" => self.status = u16::try_from(number).ok(),
            "header" => {
                let (name, value) = with.split_once('=').unwrap_or((with, ""));
                self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            "body" => {
                let body = self.response().and_then(|response| response.body().ok());
                self.stream = body.as_ref().and_then(|body| body.write().ok());
                self.body = body;
            }
            "set" => {
                self.response();
                if let (Some(out), Some(response)) = (self.out.take(), self.response.take()) {
                    ResponseOutparam::set(out, Ok(response));
                }
            }
            "write" => self.write(number),
            "finish" | "trailers" => {
                self.stream = None;
                let entry = ("x-trailer".to_owned(), b"v".to_vec());
                let trailers =
                    (what == "trailers").then(|| Fields::from_list(&[entry]).ok()).flatten();
                if let Some(body) = self.body.take() {
                    let _ = OutgoingBody::finish(body, trailers);
                }
            }
            "drop" => {
                self.stream = None;
                self.body = None;
            }
            "forget" => {
                std::mem::forget(self.stream.take());
                std::mem::forget(self.body.take());
            }
            "sleep" => std::thread::sleep(std::time::Duration::from_millis(number.min(200) as u64)),
            "trap" => std::process::abort(),
            _ => {}
        }
    }

    fn write(&mut self, mut left: usize) {
        let part = [b'g'; PART];
        while let Some(stream) = self.stream.as_ref().filter(|_| left > 0) {
            let size = left.min(PART);
            if stream.blocking_write_and_flush(&part[..size]).is_err() {
                self.stream = None;
            }
            left -= size;
        }
    }
}
