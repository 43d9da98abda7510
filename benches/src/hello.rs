//! The rounds: each measures every contender once, in random order.
//!
//! The figure is the server's CPU time per request (`/proc/PID/task/*/schedstat`), as a ratio to
//! the bare server's of the same round: absolute times drift with the machine, ratios do not.
//! Answers are checked. A slice in which others took the cores is measured anew, or not counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::args::{Arguments, Size};
use crate::bare::Bare;
use crate::contenders::{COMPARISONS, CONTENDERS, Comparison, Contender, Host};
use crate::figure::Figure;
use crate::load::{self, Latencies};
use crate::machine::Watch;
use crate::servers::{Servers, users};
use crate::stats::{Spread, spread};

/// Connections of the load, each with one request in flight.
pub(crate) const CONNECTIONS: usize = 32;
/// The part of a slice's core time that others may take.
const OTHERS_MAX: f64 = 0.1;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    slice: Duration,
    /// How often a disturbed slice is measured anew.
    retries: usize,
    /// Whether disturbed slices are counted all the same.
    keep: bool,
}

impl Plan {
    fn new(arguments: &Arguments) -> Self {
        let (rounds, slice_ms, retries) = match arguments.size {
            Size::Smoke => (1, 150, 0),
            Size::Quick => (3, 600, 1),
            Size::Full => (12, 2_000, 2),
        };
        let keep = arguments.keep_disturbed || arguments.smoke;
        Self { rounds, slice: Duration::from_millis(slice_ms), retries, keep }
    }
}

/// One slice of one contender.
#[derive(Debug)]
struct Sample {
    cpu_ns: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Sample {
    fn new(cpu_ns: u64, latencies: &Latencies, took: Duration) -> Self {
        let count = latencies.len().max(1);
        let at = |part: usize| latencies.get(count * part / 100).copied().unwrap_or_default();
        Self {
            cpu_ns: cpu_ns as f64 / count as f64,
            per_second: count as f64 / took.as_secs_f64(),
            p50_us: f64::from(at(50)),
            p99_us: f64::from(at(99)),
        }
    }
}

/// One contender; a sample for each round, none where it was disturbed.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) contender: &'static Contender,
    samples: Vec<Option<Sample>>,
}

/// A row, summed up.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) contender: &'static Contender,
    pub(crate) cpu_us: Spread,
    pub(crate) ratio: Spread,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Slices that count.
    pub(crate) slices: usize,
}

/// What the rounds have found.
pub(crate) struct Hello {
    pub(crate) lines: Vec<Line>,
    pub(crate) figures: Vec<Figure>,
    /// How it was measured, in sentences.
    pub(crate) notes: Vec<String>,
    pub(crate) versions: Vec<String>,
    pub(crate) flags: Vec<(String, String)>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Hello> {
    let plan = Plan::new(arguments);
    let mut servers = Servers::start(arguments)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let there = CONTENDERS.iter().filter(|contender| servers.get(contender.host).is_some());
    let mut rows: Vec<Row> =
        there.map(|contender| Row { contender, samples: Vec::new() }).collect();
    let (mut slices, mut disturbed) = (0, 0);
    for round in 0..plan.rounds {
        eprint!("\rround {} of {} ", round + 1, plan.rounds);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            let Some(row) = rows.get_mut(at) else { continue };
            if servers.get(row.contender.host).is_none() {
                row.samples.push(None);
                continue;
            }
            match one(&runtime, &servers, row.contender, plan) {
                Ok(turn) => {
                    slices += turn.taken;
                    disturbed += turn.disturbed;
                    row.samples.push(turn.sample);
                }
                // Ours must not fail; a peer that does is left out.
                Err(error) if row.contender.host.is_peer() => {
                    servers.give_up(row.contender.host, &error);
                    row.samples.push(None);
                }
                Err(error) => return Err(error.context(row.contender.name)),
            }
        }
    }
    eprintln!();
    let mut notes = vec![about(plan), about_disturbed(plan, slices, disturbed)];
    notes.append(&mut servers.missing);
    Ok(Hello {
        lines: rows.iter().map(|row| line(row, &rows)).collect(),
        figures: COMPARISONS.iter().filter_map(|wanted| compare(&rows, wanted)).collect(),
        notes,
        versions: std::mem::take(&mut servers.versions),
        flags: servers.flags.iter().map(|(host, flags)| (users(*host), flags.clone())).collect(),
    })
}

/// A contender's turn: slices until one counts.
struct Turn {
    sample: Option<Sample>,
    taken: usize,
    disturbed: usize,
}

fn one(runtime: &Runtime, servers: &Servers, contender: &Contender, plan: Plan) -> Result<Turn> {
    let server = servers.get(contender.host).context("no server")?;
    let job = servers.job(contender, server);
    let mut turn = Turn { sample: None, taken: 0, disturbed: 0 };
    while turn.sample.is_none() && turn.taken <= plan.retries {
        runtime.block_on(load::run(&job, CONNECTIONS, plan.slice / 5))?;
        let (watch, before, began) = (Watch::start()?, server.cpu_with_children()?, Instant::now());
        let done = runtime.block_on(load::run(&job, CONNECTIONS, plan.slice))?;
        let took = began.elapsed();
        let used = server.cpu_with_children()?.saturating_sub(before);
        let is_disturbed = watch.others(used)? > OTHERS_MAX;
        turn.taken += 1;
        turn.disturbed += usize::from(is_disturbed);
        if !is_disturbed || plan.keep {
            turn.sample = Some(Sample::new(used, &done, took));
        }
    }
    Ok(turn)
}

fn about(plan: Plan) -> String {
    let Plan { rounds, slice, .. } = plan;
    format!(
        "{rounds} rounds of slices of {slice:?} in random order, a fifth of that before each to warm up; \
         {CONNECTIONS} keep-alive connections with one request in flight each, from the same cores; POST of {{}}, \
         and each answer is checked to be \"hello\". CPU is the server's, in user mode and kernel. Ratios are of \
         the same round; medians, with quartiles."
    )
}

fn about_disturbed(plan: Plan, slices: usize, disturbed: usize) -> String {
    let limit = OTHERS_MAX * 100.0;
    let what = if plan.keep { "counted all the same" } else { "discarded" };
    format!(
        "In {disturbed} of {slices} slices others took more than {limit:.0} % of the cores: these were {what}."
    )
}

/// Samples of two contenders that are of the same round.
fn pairs<'a>(own: &'a Row, base: &'a Row) -> impl Iterator<Item = (&'a Sample, &'a Sample)> {
    own.samples.iter().zip(&base.samples).filter_map(|(own, base)| own.as_ref().zip(base.as_ref()))
}

fn line(row: &Row, rows: &[Row]) -> Line {
    let all = || row.samples.iter().flatten();
    let median = |of: fn(&Sample) -> f64| spread(all().map(of)).median;
    let bare = rows.iter().find(|row| row.contender.host == Host::Bare(Bare::Timed)).unwrap_or(row);
    Line {
        contender: row.contender,
        cpu_us: spread(all().map(|sample| sample.cpu_ns / 1e3)),
        ratio: spread(pairs(row, bare).map(|(own, bare)| own.cpu_ns / bare.cpu_ns)),
        per_second: median(|sample| sample.per_second),
        p50_us: median(|sample| sample.p50_us),
        p99_us: median(|sample| sample.p99_us),
        slices: all().count(),
    }
}

/// What one contender costs in that of another, when both are there.
fn compare(rows: &[Row], wanted: &Comparison) -> Option<Figure> {
    let find = |name: &str| rows.iter().find(|row| row.contender.name == name);
    let (own, base) = (find(wanted.name)?, find(wanted.base)?);
    let ratio = spread(pairs(own, base).map(|(own, base)| own.cpu_ns / base.cpu_ns));
    let more = spread(pairs(own, base).map(|(own, base)| (own.cpu_ns - base.cpu_ns) / 1e3));
    let note = match more.median.is_nan() {
        true => "no slice of both was undisturbed".to_owned(),
        false => format!("{:+.1} µs ({:+.1} to {:+.1})", more.median, more.low, more.high),
    };
    Some(Figure {
        workload: "hello",
        name: wanted.name.to_owned(),
        unit: "×",
        value: ratio.median,
        low: ratio.low,
        high: ratio.high,
        base: Some(wanted.base.to_owned()),
        target: wanted.target,
        note,
    })
}

impl Line {
    pub(crate) fn json(&self) -> Value {
        let spread = |of: &Spread| json!({"median": of.median, "low": of.low, "high": of.high});
        json!({
            "name": self.contender.name,
            "about": self.contender.about,
            "cpu_us_per_request": self.cpu_us.median,
            "cpu_us": spread(&self.cpu_us),
            "ratio": spread(&self.ratio),
            "requests_per_second": self.per_second,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "slices": self.slices,
        })
    }
}
