//! HTTP guests: answers that are none, too long, too short, and never finished.

use wambda_tests::guest;

use super::wire::Wire::{self, Cut, Failed, Nothing, Whole};
use super::{Case, Do, TIMED_OUT, TOO_LARGE, TRAPPED, trap};
use crate::wats::core_with;

fn ask(
    guest_name: &str,
    method: &'static str,
    path: &'static str,
    status: u16,
    error: &'static str,
) -> Case {
    let case = trap(&format!("{guest_name} {path}"), guest(guest_name), "");
    Case { action: Do::Request(method, path, b"body".to_vec()), status, error, ..case }
}

fn proxy(path: &'static str, status: u16, error: &'static str) -> Case {
    ask("proxy", "POST", path, status, error)
}

fn http(path: &'static str, status: u16, error: &'static str) -> Case {
    ask("http", "POST", path, status, error)
}

fn slow(case: Case) -> Case {
    Case { within_ms: 600, ..case }.with("timeout=0.2")
}

/// A request whose response may break off: what it may look like to who asked.
fn wire(path: &'static str, allowed: &'static [Wire], says: &'static str) -> Case {
    let case = trap(&format!("proxy {path} on the wire"), guest("proxy"), says);
    Case { action: Do::Wire(path, allowed), within_ms: 600, ..case }.with("timeout=0.2")
}

/// The same path asked for by an event, whose result is whole or none.
fn event(path: &'static str, status: u16, error: &'static str) -> Case {
    let case = trap(&format!("proxy {path} as an event"), guest("proxy"), "");
    Case { status, error, ..case }.event(&format!("{{\"rawPath\":\"{path}\"}}")).with("timeout=0.2")
}

/// An event function that answers with this, as a response through `/fn`.
fn shaped(name: &str, json: &str, status: u16, says: &'static str) -> Case {
    let data = format!("(memory (export \"memory\") 1) (data (i32.const 8) {json:?})");
    let packed = (8u64 << 32) | json.len() as u64;
    let case = trap(name, core_with(&data, &format!("(i64.const {packed})")), says);
    let error = if status == 200 { "" } else { INVALID };
    Case { action: Do::Request("GET", "/", Vec::new()), status, error, ..case }
}

/// An event function that answers with so many headers.
fn many_headers(name: &str, count: usize, status: u16) -> Case {
    let headers: Vec<String> = (0..count).map(|n| format!(r#""h{n}":"x""#)).collect();
    let json = format!(r#"{{"statusCode":200,"headers":{{{}}},"body":"hi"}}"#, headers.join(","));
    let data = format!("(memory (export \"memory\") 32) (data (i32.const 65536) {json:?})");
    let packed = (65_536u64 << 32) | json.len() as u64;
    let upload = core_with(&data, &format!("(i64.const {packed})"));
    Case { upload: upload.into_bytes(), ..shaped(name, "", status, "") }
}

const INVALID: &str = "Runtime.InvalidResponse";

pub(super) fn cases() -> Vec<Case> {
    [responses(), broken(), shapes()].into_iter().flatten().collect()
}

/// Responses that break off, or never end.
fn broken() -> Vec<Case> {
    vec![
        wire("/unfinished", &[Nothing, Cut, Failed], ""),
        event("/unfinished", 500, INVALID),
        wire("/kept", &[Whole], ""),
        event("/kept", 200, ""),
        wire("/half-kept", &[Nothing, Cut, Whole, Failed], "half"),
        // The first two bytes of five are what it promised; nothing comes after them.
        wire("/length-lies-short", &[Nothing, Cut, Whole, Failed], ""),
        event("/length-lies-short", 500, INVALID),
        wire("/length-lies-long", &[Nothing, Cut, Failed], ""),
        event("/length-lies-long", 500, INVALID),
        wire("/ten-gb", &[Cut], "xxxx").within(3_000),
        event("/ten-gb", 500, TOO_LARGE).with("timeout=3").within(4_000),
        // On a busy machine its end may be seen with its head: it is told of then.
        wire("/after-the-answer", &[Cut, Failed], ""),
        Case { within_ms: 600, ..event("/after-the-answer", 504, TIMED_OUT) },
        wire("/trap-after-the-answer", &[Nothing, Cut, Failed], ""),
        event("/trap-after-the-answer", 500, TRAPPED),
    ]
}

/// What event functions say that is no response, and what of it must not reach the wire.
fn shapes() -> Vec<Case> {
    let header = |name: &str, value: &str| {
        format!(r#"{{"statusCode":200,"headers":{{"{name}":"{value}"}},"body":"hi"}}"#)
    };
    let with = |more: &str| format!(r#"{{"statusCode":200,"body":"hi"{more}}}"#);
    vec![
        shaped("a line break in a header", &header("a", r"x\r\ny: z"), 502, ""),
        shaped("half a line break in a header", &header("a", r"x\ny: z"), 502, ""),
        shaped("a line break in a header's name", &header(r"a\r\nb", "x"), 502, ""),
        shaped("no name of a header", &header("", "x"), 502, ""),
        shaped("a zero in a header", &header("a", r"x\u0000y"), 502, ""),
        shaped("a line break in a cookie", &with(r#","cookies":["a=b\r\ny: z"]"#), 502, ""),
        shaped("a length that is too long", &header("content-length", "200"), 200, "hi"),
        shaped("a length that is too short", &header("content-length", "1"), 200, "hi"),
        shaped("a length that is none", &header("content-length", "-1"), 200, "hi"),
        shaped("an encoding of its own", &header("transfer-encoding", "chunked"), 200, "hi"),
        shaped("a connection of its own", &header("connection", "upgrade"), 200, "hi"),
        shaped("a status that is none", r#"{"statusCode":99999,"body":"hi"}"#, 502, ""),
        shaped("a status in between", r#"{"statusCode":101,"body":"hi"}"#, 502, ""),
        many_headers("32,769 headers of an event function", 32_769, 502),
        many_headers("ninety headers of an event function", 90, 200),
        shaped("a body that is no base64", &with(r#","isBase64Encoded":true"#), 502, ""),
    ]
}

fn responses() -> Vec<Case> {
    vec![
        http("/panic", 502, TRAPPED),
        http("/exit", 502, TRAPPED),
        slow(http("/loop", 504, TIMED_OUT)),
        slow(http("/sleep", 504, TIMED_OUT)),
        http("/lengths", 502, TRAPPED),
        http("/hop", 502, TRAPPED),
        http("/outside", 200, ""),
        Case {
            action: Do::Request("POST", "/unread", vec![b'x'; 3 << 20]),
            ..http("/unread", 200, "")
        },
        proxy("/nothing", 502, "Runtime.NoResponse"),
        proxy("/error", 502, "Runtime.InvalidResponse"),
        Case { says: "true, true", ..proxy("/bad-status", 200, "") },
        proxy("/informational", 502, "Runtime.InvalidResponse"),
        proxy("/status-999", 502, "Runtime.InvalidResponse"),
        proxy("/no-body", 200, ""),
        Case { says: "0", ..proxy("/length-odd", 200, "") },
        proxy("/many-headers", 502, TRAPPED),
        proxy("/trailers", 200, ""),
        Case { says: "all of it", ..proxy("/read-forever", 200, "") },
    ]
}
