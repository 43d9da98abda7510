//! Components of WASI 0.3: what they leave behind when they have answered, and what never ends.

use wambda_tests::guest;

use super::wire::Wire::{self, Cut, Failed, Nothing, Whole};
use super::{CUT, Case, Do, NO_MEMORY, TIMED_OUT, TOO_LARGE, TRAPPED, trap};

/// An event for a path of the guest, and how that ends.
fn event(order: &'static str, count: u32, status: u16, error: &'static str) -> Case {
    let event = format!(r#"{{"rawPath":"/abuse/{order}","rawQueryString":"{count}"}}"#);
    let case = trap(&format!("0.3 {order} {count}"), guest("http3"), "");
    Case { status, error, ..case }.event(&event)
}

fn well(order: &'static str, count: u32) -> Case {
    event(order, count, 200, "")
}

fn timeout(order: &'static str) -> Case {
    Case { within_ms: 600, ..event(order, 0, 504, TIMED_OUT) }.with("timeout=0.2")
}

/// A request for a path, and what its response may look like.
fn wire(path: &'static str, allowed: &'static [Wire], says: &'static str) -> Case {
    let case = trap(&format!("0.3 {path} on the wire"), guest("http3"), says);
    Case { action: Do::Wire(path, allowed), within_ms: 600, ..case }.with("timeout=0.2")
}

fn ask(path: &'static str, status: u16, error: &'static str) -> Case {
    let case = trap(&format!("0.3 {path}"), guest("http3"), "");
    let action = Do::Request("POST", path, vec![b'x'; 100_000]);
    Case { action, status, error, within_ms: 600, ..case }.with("timeout=0.2")
}

pub(super) fn cases() -> Vec<Case> {
    let invalid = "Runtime.InvalidResponse";
    vec![
        well("leak-streams", 1_000),
        event("leak-streams", 100_000, 500, TRAPPED),
        well("leak-futures", 1_000),
        event("leak-futures", 100_000, 500, TRAPPED),
        well("leak-fields", 500),
        event("leak-fields", 100_000, 500, TRAPPED),
        well("leak-tasks", 1_000),
        event("leak-tasks", 100_000, 500, NO_MEMORY),
        // Tasks that wait for nothing: its own runtime gives up once the host would wait for ever.
        event("leak-pending", 1_000, 500, TRAPPED),
        event("leak-pending", 100_000, 500, TRAPPED),
        event("never", 0, 500, TRAPPED),
        timeout("tasks-for-ever"),
        timeout("naps-for-ever"),
        timeout("yields-for-ever"),
        timeout("sleep-for-ever"),
        timeout("unfinished"),
        timeout("without-trailers"),
        event("grow", 0, 500, NO_MEMORY),
        // It has answered: what goes on after that ends with it.
        well("loop-after", 0),
        well("trap-after", 0),
        well("unread", 0),
        event("error", 0, 500, invalid),
        event("failed", 0, 500, invalid),
        event("length-lies-short", 0, 500, invalid),
        event("length-lies-long", 0, 500, invalid),
        event("endless", 0, 500, TOO_LARGE).within(4_000),
        // A head that would not be one, or that is not a guest's to write.
        wire("/abuse/two-lengths", &[Failed, Whole], ""),
        wire("/abuse/hop-by-hop", &[Whole], "refused"),
        wire("/abuse/transfer-encoding", &[Whole], "refused"),
        wire("/abuse/upgrade", &[Whole], "refused"),
        wire("/abuse/line-break", &[Whole], "refused"),
        wire("/abuse/status-999", &[Failed, Whole], ""),
        wire("/abuse/status-1000", &[Whole], "hello"),
        wire("/abuse/status-101", &[Failed], ""),
        event("many-headers", 0, 200, ""),
        well("print-singly", 20_000).logging("xxxx").within(5_000),
        well("print-blocks", 64).logging(CUT).within(5_000),
        ask("/panic", 502, TRAPPED),
        ask("/loop", 504, TIMED_OUT),
        ask("/abuse/never", 502, TRAPPED),
        ask("/abuse/sleep-for-ever", 504, TIMED_OUT),
        ask("/abuse/error", 502, invalid),
        ask("/abuse/unread", 200, ""),
        wire("/abuse/endless", &[Cut], "xxxx").within(3_000),
        wire("/abuse/unfinished", &[Cut], "hello"),
        wire("/abuse/without-trailers", &[Cut], "hello"),
        wire("/abuse/failed", &[Nothing, Cut, Failed], ""),
        wire("/abuse/leak-pending?1000", &[Nothing, Cut, Failed], ""),
        wire("/abuse/length-lies-short", &[Nothing, Cut, Whole, Failed], ""),
        wire("/abuse/length-lies-long", &[Nothing, Cut, Failed], ""),
        wire("/abuse/loop-after", &[Whole], "loop-after"),
        wire("/abuse/trap-after", &[Whole], "trap-after"),
    ]
}
