//! Guests that abuse what the platform offers them: clocks, polls, handles, randomness, output, sockets.

use wambda_tests::guest;

use super::{CUT, Case, TIMED_OUT, TOO_LARGE, no_memory, timeout, trap, well};

fn on(guest_name: &str, case: impl Fn(&str, Vec<u8>) -> Case, name: &str, event: &str) -> Case {
    case(name, guest(guest_name)).event(event)
}

fn hostile(case: impl Fn(&str, Vec<u8>) -> Case, name: &str, event: &str) -> Case {
    on("hostile", case, name, event)
}

fn event(case: impl Fn(&str, Vec<u8>) -> Case, name: &str, order: &str) -> Case {
    on("event", case, name, order)
}

fn says(says: &'static str) -> impl Fn(&str, Vec<u8>) -> Case {
    move |name, upload| well(name, upload, says)
}

fn traps(says: &'static str) -> impl Fn(&str, Vec<u8>) -> Case {
    move |name, upload| trap(name, upload, says)
}

fn too_large(query: &'static str, says: &'static str) -> impl Fn(&str, Vec<u8>) -> Case {
    move |name, upload| Case { error: TOO_LARGE, ..trap(name, upload, says) }.with(query)
}

pub(super) fn cases() -> Vec<Case> {
    let late = |name: &str, upload: Vec<u8>| timeout(name, upload);
    vec![
        event(late, "spin in a component", r#"{"do":"loop"}"#),
        event(late, "sleep", r#"{"do":"sleep","ms":60000}"#),
        event(late, "sleep for ever", r#"{"do":"sleep-forever"}"#),
        hostile(late, "naps", r#"{"do":"nap","ms":1}"#),
        hostile(late, "poll for ever", r#"{"do":"poll-forever"}"#),
        hostile(late, "read clocks for ever", r#"{"do":"clock-forever"}"#),
        hostile(late, "read the environment for ever", r#"{"do":"environment-forever"}"#),
        hostile(late, "make handles for ever", r#"{"do":"terminal-forever"}"#),
        hostile(late, "flush for ever", r#"{"do":"flush-forever"}"#),
        hostile(late, "randomness for ever", r#"{"do":"random-forever"}"#),
        event(late, "print for ever", r#"{"do":"print-forever"}"#).logging(""),
        hostile(traps(""), "a million timers", r#"{"do":"pollables","n":1000000}"#),
        hostile(says("true"), "four hundred timers at once", r#"{"do":"poll-many","n":400}"#),
        hostile(traps(""), "poll for nothing", r#"{"do":"poll-nothing"}"#),
        hostile(says("1000"), "one timer a thousand times", r#"{"do":"poll-repeated","n":1000}"#),
        hostile(traps(""), "leak header sets", r#"{"do":"leak-fields","n":100000}"#),
        hostile(traps(""), "leak requests", r#"{"do":"leak-requests","n":100000}"#),
        hostile(traps(""), "leak streams", r#"{"do":"leak-streams","n":100000}"#),
        // None is made: there are no sockets.
        hostile(says("100000"), "leak sockets", r#"{"do":"leak-sockets","n":100000}"#)
            .within(5_000),
        hostile(traps(""), "32,769 headers", r#"{"do":"headers","n":32769}"#),
        hostile(traps(""), "32,769 headers at once", r#"{"do":"headers-at-once","n":32769}"#),
        hostile(traps(""), "a header of a megabyte", r#"{"do":"long-header","bytes":1000000}"#),
        hostile(says("[0,0]"), "headers that are none", r#"{"do":"header-lines"}"#),
        hostile(traps(""), "a gigabyte of randomness", r#"{"do":"random","bytes":1073741824}"#),
        hostile(
            traps(""),
            "all randomness there is",
            r#"{"do":"random","bytes":18446744073709551615}"#,
        ),
        hostile(
            traps(""),
            "a gigabyte of bad randomness",
            r#"{"do":"insecure-random","bytes":1073741824}"#,
        ),
        hostile(
            says("65536"),
            "as much randomness as there may be",
            r#"{"do":"random","bytes":65536}"#,
        ),
        hostile(says("20000"), "print byte by byte", r#"{"do":"print-singly","n":20000}"#),
        hostile(says("16"), "print 16 MB", r#"{"do":"print-blocks","n":16}"#).logging(CUT),
        hostile(says(""), "write more than there is room for", r#"{"do":"write-beyond"}"#),
        hostile(says("true"), "write zeroes", r#"{"do":"write-zeroes","n":4096}"#),
        hostile(
            traps("zeroes"),
            "write a gigabyte of zeroes",
            r#"{"do":"write-zeroes","n":1073741824}"#,
        ),
        hostile(
            traps("zeroes"),
            "write all zeroes",
            r#"{"do":"write-zeroes","n":18446744073709551615}"#,
        ),
        hostile(
            |name, upload| Case { status: 504, error: TIMED_OUT, ..timeout(name, upload) },
            "spin once more",
            r#"{"do":"clock-forever"}"#,
        ),
        event(
            says("written"),
            "print what is not text",
            r#"{"do":"print-bytes","hex":"fffe801b5b324a1b5b48070d0a00"}"#,
        )
        .logging("\u{fffd}"),
        event(says("5000000"), "one line of 5 MB", r#"{"do":"print-long","bytes":5000000}"#)
            .logging(CUT),
        hostile(says("0"), "read standard input", r#"{"do":"stdin"}"#),
        hostile(says("0"), "look for directories", r#"{"do":"directories"}"#),
        hostile(says("Err("), "listen", r#"{"do":"listen"}"#),
        hostile(says("Err("), "datagrams", r#"{"do":"udp"}"#),
        hostile(says("Err("), "look a name up", r#"{"do":"lookup","name":"localhost"}"#),
        hostile(says("Err("), "look an address up", r#"{"do":"lookup","name":"169.254.169.254"}"#),
        hostile(says("false"), "start a thread", r#"{"do":"thread"}"#),
        hostile(traps("unreachable"), "abort", r#"{"do":"abort"}"#),
        hostile(
            traps("without providing a reason"),
            "exit as if all were well",
            r#"{"do":"exit-well"}"#,
        ),
        event(traps("exit status 1"), "exit", r#"{"do":"exit","status":3}"#),
        event(traps(""), "panic", r#"{"do":"panic"}"#).logging("as you wished"),
        event(traps(""), "recursion in Rust", r#"{"do":"recurse"}"#),
        event(
            |name, upload| no_memory(name, upload, "memory=16&timeout=5"),
            "grow in a component",
            r#"{"do":"grow"}"#,
        ),
        event(
            too_large("timeout=10", "6291556"),
            "an answer that is too large",
            r#"{"do":"answer","bytes":6291556}"#,
        )
        .large(),
        event(
            too_large("timeout=5&memory=128", ""),
            "an answer that is far too large",
            r#"{"do":"answer","bytes":30000000}"#,
        )
        .large(),
        event(
            too_large("payload=100", "(100 bytes)"),
            "an answer beyond its own limit",
            r#"{"do":"answer","bytes":99}"#,
        ),
        hostile(
            too_large("timeout=5", "6291556"),
            "a complaint that is too large",
            r#"{"do":"complain","bytes":4000000,"frames":0}"#,
        )
        .large(),
        hostile(
            too_large("timeout=5&memory=256", ""),
            "a complaint with a million frames",
            r#"{"do":"complain","bytes":1,"frames":1000000}"#,
        )
        .large(),
        event(
            |name, upload| Case { error: "Wanted", ..trap(name, upload, "as you wished") },
            "an error of its own",
            r#"{"do":"error"}"#,
        ),
        event(
            |name, upload| Case { error: "InvalidEvent", ..trap(name, upload, "") },
            "an event that it cannot read",
            "{",
        ),
        event(says("refused"), "open a socket", r#"{"do":"reach","address":"127.0.0.1:1"}"#),
        event(says("refused"), "look at files", r#"{"do":"files"}"#),
        event(says("error"), "read the machine's users", r#"{"do":"read","path":"/etc/passwd"}"#),
        event(
            says("error"),
            "climb out of what is not there",
            r#"{"do":"read","path":"/opt/../../../etc/passwd"}"#,
        ),
        event(says("error"), "write a file", r#"{"do":"write","path":"/tmp/x"}"#),
    ]
}
