//! Hostile guests: tables of what they do and of what must come of it, and one runner, which looks
//! after each case whether the server and its neighbour have noticed anything.

mod components;
mod http;
mod modules;
mod uploads;
mod wasi;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_tests::{Answer, Server, guest, percentile};

use crate::wats;

/// What a case does once its function is there.
enum Do {
    /// `POST /v1/…/invoke` with this event, twice: what it leaves behind must not matter.
    Invoke(String),
    /// A request to the function as an HTTP endpoint.
    Request(&'static str, &'static str, Vec<u8>),
    /// Nothing: the upload itself is what is tested.
    Upload,
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
const FAST: &str = "timeout=0.1";

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

impl Case {
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
}

/// Bytes that the server may keep after a case, beyond what it had before.
const KEPT_MAX: u64 = 8 << 20;
/// Bytes that it may keep after all of a table, beyond what it had after its warm-up. Threads that sleep keep what others
/// freed of theirs.
const KEPT_TOGETHER_MAX: u64 = 48 << 20;
/// How long the server has to give memory and files back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a neighbour waits meanwhile, on two cores that the guest, its compiler and the client share.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(50);

struct Stage {
    server: Server,
    resident: u64,
    files: usize,
}

/// A server whose memory and files are what they are once everything was used once.
fn stage() -> Stage {
    let server = Server::start();
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    for (name, upload) in
        [("event", guest("event")), ("hostile", guest("hostile")), ("http", guest("http"))]
    {
        server.deploy(name, &upload, "memory=64&timeout=5");
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for mb in [1, 30] {
                    server.invoke("event", &format!(r#"{{"do":"take","mb":{mb}}}"#)).expect(200);
                }
                server.invoke("event", r#"{"do":"answer","bytes":6000000}"#).expect(200);
                server.invoke("event", r#"{"do":"print-long","bytes":3000000}"#).expect(200);
                server.invoke("event", r#"{"do":"panic"}"#).expect(500);
                server.invoke("hostile", r#"{"do":"leak-fields","n":100}"#).expect(200);
                server.request("POST", "/fn/http/echo", &[], &[b'x'; 1 << 20]).expect(200);
                server.invoke("neighbour", "x").expect(200);
            });
        }
    });
    server.invoke("hostile", r#"{"do":"complain","bytes":4000000,"frames":0}"#).expect(500);
    server.deploy("guest", wats::spin().as_bytes(), FAST);
    server.invoke("guest", "x").expect(504);
    std::thread::sleep(Duration::from_millis(300));
    let (resident, files) = (server.resident(), server.open_files());
    Stage { server, resident, files }
}

/// Threads that may keep something each.
const TRIES: usize = 4;

impl Stage {
    fn act(&self, case: &Case) -> Vec<Answer> {
        let server = &self.server;
        let query =
            format!("memory=32&timeout=3&cpu=&payload=6MB&reuse=&logs=256KB&{}", case.query);
        let uploaded = server.put("guest", &case.upload, &query);
        if matches!(case.action, Do::Upload) {
            return vec![uploaded];
        }
        assert!(matches!(uploaded.status, 200 | 201), "{}: {}", case.name, uploaded.text());
        match &case.action {
            Do::Invoke(event) => vec![server.invoke("guest", event), server.invoke("guest", event)],
            Do::Request(method, path, body) => {
                vec![server.request(method, &format!("/fn/guest{path}"), &[], body)]
            }
            Do::Upload => Vec::new(),
        }
    }

    /// Runs a case beside a neighbour; then everything must be as it was. A thread that sleeps keeps what another one
    /// freed of its memory, until it wakes: what one case left so, the next one finds again. What leaks is
    /// left each time.
    fn run(&self, case: &Case) {
        let mut left = Vec::new();
        for _ in 0..TRIES {
            let before = self.server.resident();
            self.once(case);
            let most = (before + KEPT_MAX).min(self.resident + KEPT_TOGETHER_MAX);
            match self.as_before(most) {
                Ok(()) => return,
                Err(what) => left.push(what),
            }
        }
        panic!("{} left behind: {}", case.name, left.join("; "));
    }

    fn once(&self, case: &Case) {
        let (name, server) = (&case.name, &self.server);
        let stop = AtomicBool::new(false);
        let (answers, slowest) = std::thread::scope(|scope| {
            let neighbour = scope.spawn(|| {
                let mut took = Vec::new();
                while !stop.load(Relaxed) {
                    took.push(server.invoke("neighbour", "hi").expect(200).took);
                    std::thread::sleep(Duration::from_millis(1));
                }
                // One in fifty may have met something else on this machine.
                percentile(&mut took, 98)
            });
            let answers = std::panic::catch_unwind(AssertUnwindSafe(|| self.act(case)));
            stop.store(true, Relaxed);
            let slowest = neighbour.join().unwrap();
            (answers.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), slowest)
        });
        for answer in &answers {
            let text = answer.text();
            assert_eq!(
                (answer.status, answer.header("x-wambda-error")),
                (case.status, case.error),
                "{name}: {text}"
            );
            assert!(text.contains(case.says), "{name}: {text}");
            assert!(
                answer.took < Duration::from_millis(case.within_ms),
                "{name} took {:?}",
                answer.took
            );
        }
        if !case.logs.is_empty() {
            let log = server.log("guest");
            assert!(log.contains(case.logs), "{name}: {log}");
        }
        assert!(slowest < NEIGHBOUR_MAX, "{name}: the neighbour waited {slowest:?}");
        assert!(
            server.invoke("neighbour", "hi").expect(200).took < NEIGHBOUR_MAX,
            "{name}: afterwards"
        );
        server.assert_well();
        // An idle instance has its memory by right: those of this case go with their version.
        server.deploy("guest", wats::echo().as_bytes(), "memory=32");
    }

    /// Memory and open files are back; or else what is not.
    fn as_before(&self, most: u64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (resident, files) = (self.server.resident(), self.server.open_files());
            // Connections of this very test come and go.
            if resident <= most && files <= self.files + 2 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (kb, files) =
                    (resident.saturating_sub(most) >> 10, files.saturating_sub(self.files));
                return Err(format!("{kb} KB too much and {files} open files"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(cases: Vec<Case>) -> Server {
    let stage = stage();
    let mut failed = Vec::new();
    for case in &cases {
        // All of them: one that fails says little of the next.
        if std::panic::catch_unwind(AssertUnwindSafe(|| stage.run(case))).is_err() {
            failed.push(&*case.name);
        }
    }
    assert!(failed.is_empty(), "{} of {} hostile guests: {failed:?}", failed.len(), cases.len());
    stage.server
}

#[test]
fn hostile_modules_harm_nobody() {
    let server = run(modules::cases());
    for (reason, least) in [("timeout", 10.0), ("memory", 4.0), ("cpu", 1.0), ("trap", 10.0)] {
        let series = format!("wambda_kills_total{{function=\"guest\",reason=\"{reason}\"}}");
        assert!(server.metric(&series) >= least, "{reason}");
    }
}

#[test]
fn hostile_components_harm_nobody() {
    run(components::cases());
}

#[test]
fn abuse_of_wasi_harms_nobody() {
    run(wasi::cases());
}

#[test]
fn hostile_http_guests_harm_nobody() {
    run(http::cases());
}

#[test]
fn hostile_uploads_harm_nobody() {
    run(uploads::cases());
}

/// The tables together: what the specification promises.
#[test]
fn there_are_ninety_hostile_guests() {
    let tables =
        [modules::cases(), components::cases(), wasi::cases(), http::cases(), uploads::cases()];
    let count: usize = tables.iter().map(Vec::len).sum();
    assert!(count >= 90, "{count}");
    let mut names: Vec<String> = tables.into_iter().flatten().map(|case| case.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "each case has a name of its own");
}
