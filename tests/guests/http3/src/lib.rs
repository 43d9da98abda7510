//! A wasi:http 0.3 function: answers with the method and path it was asked with, or does what the path says.

mod abuse;
mod files;
mod script;

use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Function;

wasip3::http::service::export!(Function);

impl wasip3::exports::http::handler::Guest for Function {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        if let Some(order) = path.strip_prefix("/abuse/") {
            return abuse::act(order, request).await;
        }
        if let Some(query) = path.strip_prefix("/script?") {
            return Ok(script::play(query));
        }
        if path == "/panic" {
            panic!("as you wished");
        }
        if path == "/loop" {
            loop {
                std::hint::black_box(0);
            }
        }
        Ok(answer(match path.as_str() {
            "/fetch" => fetch(&request).await.unwrap_or_else(|code| format!("error {code:?}")),
            _ => format!("{:?} {path}", request.get_method()),
        }))
    }
}

/// A whole response with this text.
fn answer(text: String) -> Response {
    let (mut body, stream) = wit_stream::new();
    let (trailers, end) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        body.write_all(text.into_bytes()).await;
        drop(body);
        let _ = trailers.write(Ok(None)).await;
    });
    Response::new(Fields::new(), Some(stream), end).0
}

/// Sends the request that the headers name: `x-scheme`, `x-authority`, `x-path`; with `x-body` it posts that, with the
/// headers that are named behind `x-pass-`. The answer shows its status, its length, and `x-head` bytes (64) of it.
async fn fetch(order: &Request) -> Result<String, ErrorCode> {
    let headers = order.get_headers();
    let text = |name: &str| {
        let value = headers.get(name).pop().unwrap_or_default();
        String::from_utf8(value).unwrap_or_default()
    };
    let fields = headers.copy_all().into_iter();
    let passed =
        fields.filter_map(|(name, value)| Some((name.strip_prefix("x-pass-")?.to_owned(), value)));
    let fields = Fields::from_list(&passed.collect::<Vec<_>>());
    let fields = fields.map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let (trailers, end) = wit_future::new(|| Ok(None));
    let posted = text("x-body").into_bytes();
    let posts = !posted.is_empty();
    let (mut body, stream) = wit_stream::new();
    let (request, _sent) = Request::new(fields, posts.then_some(stream), end, None);
    if posts {
        request.set_method(&Method::Post).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
        wit_bindgen::spawn_local(async move {
            body.write_all(posted).await;
            drop(body);
            let _ = trailers.write(Ok(None)).await;
        });
    }
    let scheme = if text("x-scheme") == "https" { Scheme::Https } else { Scheme::Http };
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&scheme)).map_err(invalid)?;
    request.set_authority(Some(&text("x-authority"))).map_err(invalid)?;
    request.set_path_with_query(Some(&text("x-path"))).map_err(invalid)?;
    let response = wasip3::http::client::send(request).await?;
    let status = response.get_status_code();
    let (_, done) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Response::consume_body(response, done);
    let body = body.collect().await;
    let shown = text("x-head").parse().unwrap_or(64);
    let head = String::from_utf8_lossy(&body[..body.len().min(shown)]).into_owned();
    Ok(format!("{status} {} {head}", body.len()))
}
