//! Workloads beyond hello, and how each grows. `cargo xtask bench work NAME…` runs some of them.
//!
//! A workload is a function that returns figures; [`WORKLOADS`] is the list. Where a figure is a
//! ratio, contenders take turns within the run (`stage.rs`). Answers are checked, and an error ends
//! the workload.

mod bodies;
mod burst;
mod cold;
mod compute;
mod density;
mod drive;
mod growth;
mod many;
mod memory;
pub(crate) mod native;
mod soak;
mod stage;
mod tails;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use self::stage::Context;
use crate::args::Arguments;
use crate::figure::Figure;

/// Its name, what it is about, and what runs it.
type Workload = (&'static str, &'static str, fn(&Context<'_>) -> Result<Vec<Figure>>);

/// Runs only when it is named: it takes ten minutes.
const SOAK: &str = "soak";

const WORKLOADS: [Workload; 16] = [
    ("echo", "1 KiB of JSON there and back", compute::echo),
    ("sha256", "1 MiB hashed, target 12", compute::sha256),
    ("thumbnail", "a picture shrunk, target 12", compute::thumbnail),
    ("fib", "calls and additions, target 12", compute::fib),
    ("memory", "1, 16 and 64 MiB touched", memory::memory),
    ("hostcalls", "100 host calls in an invocation", memory::hostcalls),
    ("bodies", "64 KiB to 16 MiB streamed through wasi:http", bodies::bodies),
    ("upload", "upload to first answer, target 7", cold::upload),
    ("cold", "all functions after a restart, target 6", cold::cold),
    ("idle", "functions that nobody calls, target 14", cold::idle),
    ("density", "instances in a GiB, registered functions, target 8", density::density),
    ("growth", "hello beside ever more functions", growth::growth),
    ("burst", "0 to 1,000 calls, target 10; events and target 13: bench queue", burst::burst),
    ("tails", "latencies at half load, targets 5 and 11", tails::tails),
    ("neighbours", "hello beside 8 that spin, target 9; more: bench overload", tails::neighbours),
    (SOAK, "ten minutes of mixed load, when named", soak::soak),
];

/// Runs the workloads that are named; without names, all but the one that takes ten minutes.
pub(crate) fn run(arguments: &Arguments, filter: &[String]) -> Result<Vec<Figure>> {
    for wanted in filter {
        let is_known = WORKLOADS.iter().any(|(name, ..)| name == wanted);
        ensure!(is_known, "no workload {wanted:?}: known are\n{}", list());
    }
    let is_wanted = |name: &str| match filter {
        [] => name != SOAK,
        names => names.iter().any(|wanted| wanted == name),
    };
    let context = Context::new(arguments)?;
    let mut figures = Vec::new();
    for (name, about, run) in WORKLOADS.iter().filter(|(name, ..)| is_wanted(name)) {
        let began = Instant::now();
        eprintln!("{name:<12}{about}");
        figures.extend(run(&context).with_context(|| format!("workload {name}"))?);
        eprintln!("{name:<12}done in {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(figures)
}

fn list() -> String {
    WORKLOADS.iter().map(|(name, about, _)| format!("  {name:<12}{about}\n")).collect()
}
