//! `cargo xtask bench`: the server beside a bare hyper server and its peers, in one run, and what
//! else it is used for.
//!
//! The contenders are in contenders.rs, the rounds in hello.rs, the workloads in work.rs; report.rs
//! says what came out. `bench queue` and `bench overload` are runs of their own.

#![allow(clippy::disallowed_methods)] // a stopwatch

mod args;
mod bare;
mod contenders;
mod figure;
mod hello;
mod load;
mod machine;
mod open;
mod overload;
mod page;
mod peers;
mod plot;
mod process;
mod queue;
mod report;
mod servers;
mod sign;
mod stats;
mod work;

use std::path::Path;

use anyhow::{Context, Result};

use crate::args::{Arguments, Command};
use crate::machine::Machine;
use crate::report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A core module that answers `"hello"`.
const CORE: &str = include_str!("../core.wat");

fn main() -> Result<()> {
    match args::read(std::env::args().skip(1))? {
        Command::Bare(which) => bare::run(which),
        Command::Native => work::native::run(),
        Command::Queue(arguments) => queue::run(&arguments),
        Command::Overload(arguments) => overload::run(&arguments),
        Command::Compare { arguments, hello, work } => compare(&arguments, hello, work.as_deref()),
    }
}

fn compare(arguments: &Arguments, hello: bool, work: Option<&[String]>) -> Result<()> {
    let mut hello = if hello { Some(hello::run(arguments)?) } else { None };
    let mut figures = hello.as_mut().map(|hello| std::mem::take(&mut hello.figures));
    if let Some(names) = work {
        figures.get_or_insert_default().extend(work::run(arguments, names)?);
    }
    // Programs lie in folders that are named for their profile.
    let server = arguments.server.canonicalize().context("the server is not there")?;
    let profile = server.parent().and_then(Path::file_name).unwrap_or_default();
    let profile = profile.to_string_lossy().into_owned();
    let figures = figures.unwrap_or_default();
    let report = Report { machine: Machine::here()?, profile, hello, figures };
    if arguments.smoke {
        report.print_count();
        return report.write(Path::new("target/bench/smoke"));
    }
    report.print();
    report.write(Path::new("target/bench"))
}
