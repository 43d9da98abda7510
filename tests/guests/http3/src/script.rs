//! A response step by step, as the request's query says, in the words of the proxy guest's scripts: `status:N`,
//! `header:NAME=VALUE`, `none` (no body at all), `write:N`, `trailers`, `forget`, `fail`, `sleep:MS`, `trap`.

use std::mem::forget;

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

/// Plays the script of this query.
pub fn play(query: &str) -> Response {
    let steps: Vec<(String, String)> = query
        .split(',')
        .map(|step| step.split_once(':').unwrap_or((step, "")))
        .map(|(what, with)| (what.to_owned(), with.to_owned()))
        .collect();
    let headers = steps.iter().filter(|(what, _)| what == "header").map(|(_, with)| {
        let (name, value) = with.split_once('=').unwrap_or((with, ""));
        (name.to_owned(), value.as_bytes().to_vec())
    });
    let fields = Fields::from_list(&headers.collect::<Vec<_>>()).unwrap_or_else(|_| Fields::new());
    let status = steps.iter().find(|(what, _)| what == "status");
    let status = status.and_then(|(_, with)| with.parse().ok());
    let has_body = !steps.iter().any(|(what, _)| what == "none");
    let (mut body, stream) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        let mut ending = Ok(None);
        for (what, with) in steps {
            let number: usize = with.parse().unwrap_or(0);
            match what.as_str() {
                "write" if has_body => drop(body.write_all(vec![b'g'; number]).await),
                "trailers" => {
                    let entry = ("x-trailer".to_owned(), b"v".to_vec());
                    ending = Ok(Fields::from_list(&[entry]).ok());
                }
                "fail" => ending = Err(ErrorCode::HttpProtocolError),
                "forget" => return forget((body, end)),
                "sleep" => wait_for(number.min(200) as u64 * 1_000_000).await,
                "trap" => std::process::abort(),
                _ => {}
            }
        }
        drop(body);
        let _ = end.write(ending).await;
    });
    let (response, _sent) = Response::new(fields, has_body.then_some(stream), trailers);
    if let Some(status) = status {
        let _ = response.set_status_code(status);
    }
    response
}
