//! The binary `wambda` with a clock that panics, for the test of what a panic of the host does: whoever connects to
//! `WAMBDA_PANICS` and sends a number has one in so many readings of the clock panic, and none with 0. Publishing reads it,
//! admission, queues, the plan, users and roles; what only measures does not. None panics while its thread unwinds already,
//! which would end the process whatever the server does.

#![allow(clippy::disallowed_methods, clippy::panic)] // the environment is this program's only input, and panics its only aim

use std::io::Read;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use wambda_model::{Clock, SystemClock};

#[derive(Debug, Default)]
struct Panicking {
    one_in: AtomicU64,
    readings: AtomicU64,
}

impl Panicking {
    fn read(&self) {
        let one_in = self.one_in.load(Relaxed);
        if one_in == 0 || std::thread::panicking() {
            return;
        }
        let reading = self.readings.fetch_add(1, Relaxed);
        assert!(!(reading + 1).is_multiple_of(one_in), "as you wished");
    }
}

impl Clock for Panicking {
    fn now(&self) -> Instant {
        self.read();
        SystemClock.now()
    }

    fn unix_ms(&self) -> u64 {
        self.read();
        SystemClock.unix_ms()
    }
}

fn main() -> ExitCode {
    let clock = Arc::new(Panicking::default());
    if let Ok(address) = std::env::var("WAMBDA_PANICS") {
        let listener = match TcpListener::bind(&address) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("cannot listen on {address}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let told = Arc::clone(&clock);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut text = String::new();
                let _ = stream.read_to_string(&mut text);
                told.one_in.store(text.trim().parse().unwrap_or(0), Relaxed);
                // Closing says that it is so.
                drop(stream);
            }
        });
    }
    wambda_cli::main_with(clock)
}
