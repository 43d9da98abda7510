//! From samples to a table and a JSON file.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::load::Latencies;

/// One slice of one contender.
pub(crate) struct Sample {
    cpu_ns: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// One contender.
pub(crate) struct Row {
    name: &'static str,
    about: &'static str,
    pub(crate) samples: Vec<Sample>,
}

impl Sample {
    pub(crate) fn new(cpu_ns: u64, latencies: &Latencies, slice: Duration) -> Self {
        let count = latencies.len().max(1);
        let at = |part: usize| latencies.get(count * part / 100).copied().unwrap_or_default();
        Self {
            cpu_ns: cpu_ns as f64 / count as f64,
            per_second: count as f64 / slice.as_secs_f64(),
            p50_us: f64::from(at(50)),
            p99_us: f64::from(at(99)),
        }
    }
}

impl Row {
    pub(crate) fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about, samples: Vec::new() }
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        sorted(self.samples.iter().map(of)).median
    }
}

struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

/// Median and quartiles.
fn sorted(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let last = values.len().saturating_sub(1);
        values.get(last * part / 4).copied().unwrap_or(f64::NAN)
    };
    Spread { low: at(1), median: at(2), high: at(3) }
}

/// What one contender costs more than another, round by round.
pub(crate) fn compare(rows: &[Row], name: &str, base: &str) {
    let find = |name: &str| rows.iter().find(|row| row.name == name);
    let (Some(own), Some(base)) = (find(name), find(base)) else { return };
    let pairs = || own.samples.iter().zip(&base.samples);
    let ratio = sorted(pairs().map(|(own, base)| own.cpu_ns / base.cpu_ns));
    let more = sorted(pairs().map(|(own, base)| (own.cpu_ns - base.cpu_ns) / 1e3));
    println!(
        "{name} costs {:.2} ({:.2}-{:.2}) of {}, {:+.2} us ({:+.2} to {:+.2})",
        ratio.median, ratio.low, ratio.high, base.name, more.median, more.low, more.high
    );
}

pub(crate) fn print(
    rows: &[Row],
    rounds: usize,
    slice: Duration,
    connections: usize,
) -> Result<()> {
    let Some(bare) = rows.first() else { return Ok(()) };
    println!(
        "\n{rounds} rounds of {slice:?}, {connections} connections; ratio: median (quartiles) of the rounds' CPU per request to bare\n"
    );
    println!(
        "{:12} {:>10} {:>22} {:>9} {:>8} {:>8}  what",
        "", "CPU us/req", "ratio to bare", "req/s", "p50 us", "p99 us"
    );
    let mut json_rows = Vec::new();
    for row in rows {
        let ratios =
            row.samples.iter().zip(&bare.samples).map(|(own, bare)| own.cpu_ns / bare.cpu_ns);
        let ratio = sorted(ratios);
        let cpu = row.median(|s| s.cpu_ns) / 1e3;
        let (rate, p50, p99) =
            (row.median(|s| s.per_second), row.median(|s| s.p50_us), row.median(|s| s.p99_us));
        let spread = format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.low, ratio.high);
        println!(
            "{:12} {cpu:>10.1} {spread:>22} {rate:>9.0} {p50:>8.0} {p99:>8.0}  {}",
            row.name, row.about
        );
        json_rows.push(json!({
            "name": row.name,
            "cpu_us_per_request": cpu,
            "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
            "requests_per_second": rate,
            "p50_us": p50,
            "p99_us": p99,
        }));
    }
    std::fs::create_dir_all("target/bench")?;
    let report = json!({"rounds": rounds, "slice_ms": slice.as_millis(), "connections": connections, "rows": json_rows});
    std::fs::write("target/bench/report.json", serde_json::to_string_pretty(&report)?)?;
    println!("\nalso in target/bench/report.json");
    Ok(())
}
