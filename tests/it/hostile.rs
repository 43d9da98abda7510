//! Hostile guests: tables of what they do and of what must come of it. The runner in [`stage`] looks after
//! each case whether the server and its neighbour have noticed anything.

mod bombs;
mod commands;
mod components;
mod concurrent;
mod http;
mod layers;
mod lifts;
mod modules;
mod stage;
mod together;
mod uploads;
mod wasi;
mod wire;

use std::time::Duration;

pub(crate) use bombs::slow_to_check;
use stage::Stage;
use wambda_tests::{Answer, Server};
use wire::Wire;

/// What a case does once its function is there.
enum Do {
    /// `POST /v1/…/invoke` with this event, twice: what it leaves behind must not matter.
    Invoke(String),
    /// A request to the function as an HTTP endpoint.
    Request(&'static str, &'static str, Vec<u8>),
    /// The same on a connection of its own, where the response may look like one of these.
    Wire(&'static str, &'static [Wire]),
    /// Nothing: the upload itself is what is tested, and refused.
    Upload,
    /// Nothing, but the upload may be refused with a reason, or be compiled within the limits.
    Either,
    /// Nothing: the upload is published as a layer.
    Layer,
}

/// One hostile guest, and what must come of it.
struct Case {
    name: String,
    upload: Vec<u8>,
    /// Configuration.
    query: String,
    action: Do,
    status: u16,
    /// `x-wambda-error`, of functions that ran.
    error: &'static str,
    /// What the answer must contain.
    says: &'static str,
    /// What the function's log must contain.
    logs: &'static str,
    /// Longest time from request to answer.
    within_ms: u64,
}

const TRAPPED: &str = "Runtime.ExitError";
const TIMED_OUT: &str = "Sandbox.Timedout";
const NO_MEMORY: &str = "Runtime.OutOfMemory";
const TOO_LARGE: &str = "Function.ResponseSizeTooLarge";
/// What the log says of more than it takes.
const CUT: &str = "truncated: this invocation's limit is 262144 bytes";
const FAST: &str = "timeout=0.1";
/// What a guest is configured with, unless its case says otherwise.
const CONFIG: &str = "memory=32&timeout=3&cpu=&payload=6MB&reuse=&logs=256KB";

/// A guest that traps when it is invoked.
fn trap(name: &str, upload: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case {
        name: name.to_owned(),
        upload: upload.into(),
        query: String::new(),
        action: Do::Invoke("x".to_owned()),
        status: 500,
        error: TRAPPED,
        says,
        logs: "",
        within_ms: 1_500,
    }
}

/// One that goes on until its 0.1 s are over.
fn timeout(name: &str, upload: impl Into<Vec<u8>>) -> Case {
    let says = "Task timed out after 0.10 seconds";
    Case { error: TIMED_OUT, status: 504, within_ms: 350, ..trap(name, upload, says) }.with(FAST)
}

/// One that takes more memory than it may.
fn no_memory(name: &str, upload: impl Into<Vec<u8>>, query: &str) -> Case {
    Case { error: NO_MEMORY, ..trap(name, upload, "signal: killed") }.with(query)
}

/// One that answers.
fn well(name: &str, upload: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case { status: 200, error: "", ..trap(name, upload, says) }
}

/// An upload that is refused.
fn refused(name: &str, upload: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case {
        action: Do::Upload,
        status: 400,
        error: "",
        within_ms: 8_000,
        ..trap(name, upload, says)
    }
}

/// One that is refused or compiled, within what the compiler may take.
fn either(name: &str, upload: impl Into<Vec<u8>>) -> Case {
    Case { action: Do::Either, within_ms: 130_000, ..refused(name, upload, "") }
}

/// An upload that is refused as a layer.
fn no_layer(name: &str, upload: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case { action: Do::Layer, ..refused(name, upload, says) }
}

impl Case {
    /// What its function is configured with.
    fn configuration(&self) -> String {
        format!("{CONFIG}&{}", self.query)
    }

    fn with(self, query: &str) -> Self {
        Self { query: query.to_owned(), ..self }
    }

    fn event(self, event: &str) -> Self {
        Self { action: Do::Invoke(event.to_owned()), ..self }
    }

    fn logging(self, logs: &'static str) -> Self {
        Self { logs, ..self }
    }

    fn within(self, within_ms: u64) -> Self {
        Self { within_ms, ..self }
    }

    /// Its bodies go through the host by the megabyte.
    fn large(self) -> Self {
        self.within(8_000)
    }

    /// Whether it took too long, or had to end too early: another time it may be better. Anything else that is wrong is so for
    /// good.
    fn check(&self, answer: &Answer) -> Result<(), String> {
        let (name, text) = (&self.name, answer.text());
        if answer.header("x-wambda-error") == TIMED_OUT && self.error != TIMED_OUT {
            return Err(format!("it timed out after {:?}", answer.took));
        }
        if matches!(self.action, Do::Either) {
            assert!(matches!(answer.status, 200 | 201 | 400), "{name}: {text}");
            assert!(answer.status != 400 || !answer.message().is_empty(), "{name}: {text}");
        } else {
            let found = (answer.status, answer.header("x-wambda-error"));
            assert_eq!(found, (self.status, self.error), "{name}: {text}");
            assert!(text.contains(self.says), "{name}: {text}");
        }
        self.in_time(answer.took)
    }

    fn in_time(&self, took: Duration) -> Result<(), String> {
        let is_late = took >= Duration::from_millis(self.within_ms);
        if is_late { Err(format!("it took {took:?}")) } else { Ok(()) }
    }
}

fn run(cases: &[Case]) -> Server {
    Stage::new(&[]).run(cases)
}

#[test]
fn hostile_modules_harm_nobody() {
    let server = run(&modules::cases());
    for (reason, least) in [("timeout", 10.0), ("memory", 4.0), ("cpu", 1.0), ("trap", 10.0)] {
        let series = format!("wambda_kills_total{{function=\"guest\",reason=\"{reason}\"}}");
        assert!(server.metric(&series) >= least, "{reason}");
    }
}

#[test]
fn hostile_components_harm_nobody() {
    run(&[components::cases(), lifts::cases()].into_iter().flatten().collect::<Vec<_>>());
}

#[test]
fn abuse_of_wasi_harms_nobody() {
    run(&wasi::cases());
}

#[test]
fn abuse_of_preview_1_harms_nobody() {
    run(&commands::cases());
}

#[test]
fn abuse_of_wasi_03_harms_nobody() {
    Stage::new(&["--wasi03"]).run(&concurrent::cases());
}

#[test]
fn abuse_of_layers_harms_nobody() {
    layers::stage().run(&layers::cases());
}

#[test]
fn hostile_http_guests_harm_nobody() {
    run(&http::cases());
}

#[test]
fn hostile_uploads_harm_nobody() {
    run(&uploads::cases());
}

#[test]
fn compile_bombs_harm_nobody() {
    run(&bombs::cases());
}

/// The tables together, without those of uploads, which take long to make: what the specification promises.
#[test]
fn there_are_ninety_hostile_guests() {
    let tables = [
        modules::cases(),
        components::cases(),
        lifts::cases(),
        wasi::cases(),
        commands::cases(),
        concurrent::cases(),
        http::cases(),
    ];
    let count: usize = tables.iter().map(Vec::len).sum();
    assert!(count >= 90, "{count}");
    let mut names: Vec<String> = tables.into_iter().flatten().map(|case| case.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "each case has a name of its own");
}
