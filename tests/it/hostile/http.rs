//! HTTP guests: answers that are none, too long, too short, and never finished.

use wambda_tests::guest;

use super::{Case, Do, TIMED_OUT, TRAPPED, trap};

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

pub(super) fn cases() -> Vec<Case> {
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
