//! Latencies in an open loop: at half of what the server can do, and beside neighbours that spin.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::drive::{self, Ask};
use super::stage::{Context, HELLO, Stage, figure, guest};
use crate::figure::{Cmp, Figure};
use crate::process::{self, Server};

/// Never comes back.
const SPIN: &str = "(module (memory (export \"memory\") 1)
  (func (export \"wambda_alloc\") (param i32) (result i32) (i32.const 0))
  (func (export \"wambda_handle\") (param i32 i32) (result i64) (loop $l (br $l)) (i64.const 0)))";
const SPINNERS: usize = 8;
/// Hello's requests a second beside them.
const CALM: f64 = 200.0;

/// Microseconds at a quantile.
fn us(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

pub(crate) fn tails(context: &Context<'_>) -> Result<Vec<Figure>> {
    // The server on one half of the cores, the load on the other, which it may not leave for a
    // moment: on a virtual machine, waking a thread takes longer than an invocation.
    let own = || Ok((context.stage(&[])?, Server::start(&std::env::current_exe()?, &["native"])?));
    let (stage, native) = process::apart(own)?;
    let figures = apart(context, &stage, &native);
    process::together()?;
    figures
}

fn apart(context: &Context<'_>, stage: &Stage, native: &Server) -> Result<Vec<Figure>> {
    let code = guest(HELLO)?;
    stage.deploy("warm", "reuse=warm", &code)?;
    stage.deploy("fresh", "reuse=fresh", &code)?;
    let [warm, fresh] = ["warm", "fresh"].map(|name| stage.ask(name, "{}", "\"hello\""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let capacity = |ask: &Ask, time: Duration| -> Result<f64> {
        let done = runtime.block_on(drive::closed(ask, 32, time))?;
        Ok(done.len() as f64 / time.as_secs_f64())
    };
    let slice = Duration::from_millis(context.pick(100, 300, 2_000));
    // Both at the same rate, which is half of what the dearer one can do.
    capacity(&warm, slice)?;
    let half = capacity(&fresh, slice)?.min(capacity(&warm, slice)?) / 2.0;
    let base = Ask::new(native.address, "POST /", b"{}").wants(b"{}");
    let (mut all, mut added, mut bases) = ([const { Vec::new() }; 4], Vec::new(), Vec::new());
    for _ in 0..context.pick(1, 3, 12) {
        let mut order = [(&warm, 0), (&fresh, 1), (&base, 2)];
        fastrand::shuffle(&mut order);
        let mut medians = [0.0; 3];
        for (ask, at) in order {
            let seen = runtime.block_on(drive::open(ask, half, slice, true))?;
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| us(&seen, quantile));
            match at {
                0 => {
                    let values = [p50, p99, p999, p999 / p50];
                    all.iter_mut().zip(values).for_each(|(own, value)| own.push(value));
                }
                2 => bases.push(p999 / p50),
                _ => {}
            }
            if let Some(median) = medians.get_mut(at) {
                *median = p50;
            }
        }
        let [warm, fresh, _] = medians;
        added.push(fresh - warm);
    }
    let [p50, p99, p999, ratio] = all;
    let note =
        format!("{half:.0} requests a second, open loop, server and load on cores of their own");
    let ratio = figure("tails", "warm, p99.9", "×", ratio);
    let bases = figure("tails", "a native program, p99.9", "×", bases);
    let added = figure("tails", "fresh, p50 more than warm", "µs", added);
    Ok(vec![
        Figure { note, ..figure("tails", "warm, p50", "µs", p50) },
        figure("tails", "warm, p99", "µs", p99),
        figure("tails", "warm, p99.9", "µs", p999),
        Figure { base: Some("p50".to_owned()), target: Some((Cmp::AtMost, 3.0)), ..ratio },
        Figure { base: Some("its p50".to_owned()), ..bases },
        Figure { target: Some((Cmp::AtMost, 1.0)), ..added },
    ])
}

pub(crate) fn neighbours(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.stage(&[])?;
    stage.deploy("hello", "", crate::CORE.as_bytes())?;
    stage.deploy("spin", "timeout=60", SPIN.as_bytes())?;
    let hello = stage.ask("hello", "{}", "\"hello\"");
    let rounds = context.pick(1, 3, 5);
    let time = Duration::from_millis(context.pick(200, 700, 3_000));
    let mut figures = Vec::new();
    let mut measure = |name: &str, target| -> Result<()> {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let seen = context.runtime.block_on(drive::open(&hello, CALM, time, false))?;
            p50.push(us(&seen, 0.5) / 1e3);
            p99.push(us(&seen, 0.99) / 1e3);
        }
        let p99 = figure("neighbours", format!("hello beside {name}, p99"), "ms", p99);
        let note = format!("{CALM} a second; about 1 ms is the load's timer");
        figures.push(Figure { target, note, ..p99 });
        figures.push(figure("neighbours", format!("hello beside {name}, p50"), "ms", p50));
        Ok(())
    };
    measure("nobody", None)?;
    let spin = stage.ask("spin", "{}", "");
    for _ in 0..SPINNERS {
        let spin = spin.clone();
        // The server is stopped before they are answered.
        context.runtime.spawn(async move { drive::closed(&spin, 1, Duration::ZERO).await });
    }
    std::thread::sleep(Duration::from_millis(context.pick(100, 500, 1_000)));
    measure("8 that spin", Some((Cmp::AtMost, 5.0)))?;
    Ok(figures)
}
