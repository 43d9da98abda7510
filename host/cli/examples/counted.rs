//! The binary `wambda` with an allocator that counts, for the test of what a warm invocation allocates: whoever connects
//! to `WAMBDA_COUNTED` is told how many allocations there were.

#![allow(clippy::disallowed_methods)] // the environment is this program's only input

use std::io::Write;
use std::net::TcpListener;
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    if let Ok(address) = std::env::var("WAMBDA_COUNTED") {
        let listener = match TcpListener::bind(&address) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("cannot listen on {address}: {error}");
                return ExitCode::FAILURE;
            }
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let stats = ALLOCATOR.stats();
                let count = stats.allocations + stats.reallocations;
                let _ = writeln!(&stream, "{count}");
            }
        });
    }
    wambda_cli::main()
}
