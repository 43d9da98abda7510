//! The runner of the tables: a server, a neighbour on it, and what must hold during and after each case.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wambda_tests::{Server, guest};

use super::wire::Wire;
use super::{Case, Do, FAST};
use crate::wats;

/// Bytes that the server may keep after a case, beyond what it had before.
const KEPT_MAX: u64 = 8 << 20;
/// Bytes that it may keep after all of a table, beyond what it had once everything was used once: threads that sleep keep
/// what others freed of theirs.
const KEPT_TOGETHER_MAX: u64 = 24 << 20;
/// Bytes that it may take during a case beyond what the guest's memory may have: with each of its events it takes up to
/// six megabytes in and six out, and what its neighbour and the threads in between take comes on top.
const BESIDE_ITS_MEMORY_MAX: u64 = 16 << 20;
/// How long the server has to give memory and files back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a neighbour waits meanwhile, on two cores that the guest, its compiler and the client share.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(50);
/// Open files that it may take during a case: what one instance may have, and another that waits beside it.
const FILES_MAX: usize = 300;
/// Threads that it may start during a case.
const THREADS_MAX: usize = 100;
/// Lines that all guests of a table may have the server write for whoever looks after it.
const LINES_MAX: usize = 40;
/// What else goes on on this machine may disturb the neighbour, and a thread that sleeps keeps what others freed of its
/// memory. One time of these has to be good: a guest does the same each time, and so does what is wrong with it.
const TRIES: usize = 5;

/// Its memory, in bytes.
const MEMORY: u64 = 32 << 20;

/// Whether an answer came in time; or else how late.
type InTime = Result<(), String>;

/// What the server had at most.
#[derive(Default)]
struct Most {
    files: AtomicUsize,
    threads: AtomicUsize,
}

/// A server whose memory and files are what they are once everything was used once.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) resident: u64,
    files: usize,
    /// Whether what is taken during a case is bound as well. Not where what is uploaded, sent or answered is large.
    is_tight: bool,
}

impl Stage {
    pub(super) fn new(arguments: &[&str]) -> Self {
        // Free slots of the pool keep half of this, so some 192 KiB each and not a megabyte: that would hide what else is kept.
        let budget = ["--memory-budget", "2048"];
        let server = Server::with(&[&budget[..], arguments].concat());
        server.deploy("neighbour", wats::echo().as_bytes(), "");
        for (name, upload) in
            [("event", guest("event")), ("hostile", guest("hostile")), ("http", guest("http"))]
        {
            server.deploy(name, &upload, "memory=64&timeout=5");
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| warm(&server));
            }
        });
        server.invoke("hostile", r#"{"do":"complain","bytes":4000000,"frames":0}"#).expect(500);
        server.deploy("guest", wats::spin().as_bytes(), FAST);
        server.invoke("guest", "x").expect(504);
        Self { server, resident: 0, files: 0, is_tight: false }.settled()
    }

    /// The memory and files of now are what it must come back to.
    pub(super) fn settled(mut self) -> Self {
        std::thread::sleep(Duration::from_millis(300));
        (self.resident, self.files) = (self.server.resident(), self.server.open_files());
        self
    }

    /// What cases take meanwhile is measured too.
    pub(super) fn tight(self) -> Self {
        Self { is_tight: true, ..self }
    }

    /// Runs all of them: one that fails says little of the next.
    pub(super) fn run(self, cases: &[Case]) -> Server {
        let mut failed = Vec::new();
        let names: BTreeSet<&str> = cases.iter().map(|case| &*case.name).collect();
        assert_eq!(names.len(), cases.len(), "each case has a name of its own");
        for case in cases {
            if std::panic::catch_unwind(AssertUnwindSafe(|| self.case(case))).is_err() {
                failed.push(&*case.name);
            }
        }
        let lines = self.server.said().lines();
        assert!(lines <= LINES_MAX, "guests had the server write {lines} lines into its own log");
        assert!(
            failed.is_empty(),
            "{} of {} hostile guests: {failed:?}",
            failed.len(),
            cases.len()
        );
        self.server
    }

    /// Runs a case beside a neighbour; then everything must be as it was.
    fn case(&self, case: &Case) {
        let mut wrong = Vec::new();
        for _ in 0..TRIES {
            let before = self.server.resident();
            let mut this_time = self.once(case);
            let most = (before + KEPT_MAX).min(self.resident + KEPT_TOGETHER_MAX);
            let left = self.as_before(most).err();
            this_time.extend(left.map(|left| format!("left behind {left}")));
            if this_time.is_empty() {
                return;
            }
            wrong.extend(this_time);
        }
        panic!("{}: {}", case.name, wrong.join("; "));
    }

    /// Runs it, and checks what comes of it. What took too long or too much: another time it may be better.
    fn once(&self, case: &Case) -> Vec<String> {
        let (name, server) = (&case.name, &self.server);
        let (mut acted, most) = (None, Most::default());
        let threads = server.threads();
        let held = server.metric("wambda_long_polls_total");
        let taken = server.most_resident(|| acted = Some(self.beside_a_neighbour(case, &most)));
        let (acted, slowest) = acted.unwrap();
        let mut wrong: Vec<String> = acted.into_iter().filter_map(Result::err).collect();
        if !case.logs.is_empty() {
            let log = server.log("guest");
            assert!(log.contains(case.logs), "{name}: {log}");
        }
        let slowest = slowest.max(server.invoke("neighbour", "hi").expect(200).took);
        if slowest >= NEIGHBOUR_MAX {
            wrong.push(format!("the neighbour waited {slowest:?}"));
        }
        let held = server.metric("wambda_long_polls_total") - held;
        if held > 0.0 {
            wrong.push(format!("the host's work for it held a thread that answers {held} times"));
        }
        if self.is_tight {
            if taken > MEMORY + BESIDE_ITS_MEMORY_MAX {
                wrong.push(format!("it took {} KB", taken >> 10));
            }
            let files = most.files.into_inner().saturating_sub(self.files);
            let threads = most.threads.into_inner().saturating_sub(threads);
            assert!(files <= FILES_MAX, "{name} had {files} files open");
            assert!(threads <= THREADS_MAX, "{name} had {threads} threads started");
        }
        server.assert_well();
        // An idle instance has its memory by right: those of this case go with their version.
        server.deploy("guest", wats::echo().as_bytes(), "memory=32");
        wrong
    }

    /// What came of a case, and how long the neighbour waited meanwhile; `most` becomes what the server had meanwhile.
    fn beside_a_neighbour(&self, case: &Case, most: &Most) -> (Vec<InTime>, Duration) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let neighbour = scope.spawn(|| {
                let mut slowest = Duration::ZERO;
                while !stop.load(Relaxed) {
                    slowest = slowest.max(self.server.invoke("neighbour", "hi").expect(200).took);
                    most.files.fetch_max(self.server.open_files(), Relaxed);
                    most.threads.fetch_max(self.server.threads(), Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                slowest
            });
            let acted = std::panic::catch_unwind(AssertUnwindSafe(|| self.act(case)));
            stop.store(true, Relaxed);
            let slowest = neighbour.join().unwrap();
            (acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), slowest)
        })
    }

    /// Does what the case says, and checks each answer.
    fn act(&self, case: &Case) -> Vec<InTime> {
        let server = &self.server;
        if matches!(case.action, Do::Layer) {
            return vec![case.check(&server.publish_layer("hostile", &case.upload))];
        }
        let uploaded = server.put("guest", &case.upload, &case.configuration());
        if matches!(case.action, Do::Upload | Do::Either) {
            return vec![case.check(&uploaded)];
        }
        assert!(matches!(uploaded.status, 200 | 201), "{}: {}", case.name, uploaded.text());
        match &case.action {
            Do::Invoke(event) => {
                [(); 2].map(|()| case.check(&server.invoke("guest", event))).into()
            }
            Do::Request(method, path, body) => {
                let path = format!("/fn/guest{path}");
                vec![case.check(&server.request(method, &path, &[], body))]
            }
            Do::Wire(path, allowed) => {
                let began = Instant::now();
                let said = server.raw(
                    format!("GET /fn/guest{path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
                        .as_bytes(),
                );
                let (wire, took) = (Wire::of(&said), began.elapsed());
                let head: String = said.chars().take(2_000).collect();
                assert!(allowed.contains(&wire), "{}: {wire:?}: {head}", case.name);
                assert!(said.contains(case.says) || wire == Wire::Nothing, "{}: {head}", case.name);
                vec![case.in_time(took)]
            }
            Do::Layer | Do::Upload | Do::Either => Vec::new(),
        }
    }

    /// Memory and open files are back; or else what is not.
    pub(super) fn as_before(&self, most: u64) -> Result<(), String> {
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

/// What may stay in memory after the first time is there after this.
fn warm(server: &Server) {
    for mb in [1, 30] {
        server.invoke("event", &format!(r#"{{"do":"take","mb":{mb}}}"#)).expect(200);
    }
    server.invoke("event", r#"{"do":"answer","bytes":6000000}"#).expect(200);
    server.invoke("event", r#"{"do":"print-long","bytes":3000000}"#).expect(200);
    server.invoke("event", r#"{"do":"panic"}"#).expect(500);
    server.invoke("hostile", r#"{"do":"leak-fields","n":100}"#).expect(200);
    server.request("POST", "/fn/http/echo", &[], &[b'x'; 1 << 20]).expect(200);
    server.invoke("neighbour", "x").expect(200);
}
