//! Memory that guests touch, in reused and in new instances, and calls that they make to the host.

use anyhow::Result;
use serde_json::json;

use super::stage::{BENCH, Contender, Context, Sample, cpu_us, figure, guest, rounds};
use crate::figure::Figure;

/// Connections of the load: memory is what a machine has one of.
const FEW: usize = 2;
/// Host calls in one invocation.
const CALLS: u32 = 100;
/// Pages of 4 KiB in a MiB.
const PAGES: u64 = 256;

pub(crate) fn memory(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.shared()?;
    let code = guest(BENCH)?;
    let mut all = Vec::new();
    let mut contenders = Vec::new();
    for mib in [1u64, 16, 64] {
        for reuse in ["warm", "fresh"] {
            let name = format!("touch-{reuse}-{mib}");
            stage.deploy(&name, &format!("reuse={reuse}&timeout=60"), &code)?;
            let event = json!({"do": "touch", "mib": mib}).to_string();
            let ask = stage.ask(&name, &event, &(mib * PAGES).to_string());
            contenders.push(Contender { server: &stage.server, ask, connections: FEW });
            all.push(format!("{mib} MiB, {reuse}"));
        }
    }
    let samples = rounds(context, &contenders)?;
    let mut figures = Vec::new();
    for (name, samples) in all.into_iter().zip(samples) {
        let p50 = samples.iter().map(|sample: &Sample| sample.p50_us).collect();
        figures.push(figure("memory", &name, "µs CPU", cpu_us(&samples)));
        figures.push(figure("memory", format!("{name}, p50"), "µs", p50));
    }
    Ok(figures)
}

pub(crate) fn hostcalls(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.shared()?;
    stage.deploy("bench", "reuse=warm&timeout=60", &guest(BENCH)?)?;
    let told = |call: &str, times: u32| {
        let event = json!({"do": call, "times": times}).to_string();
        let ask = stage.ask("bench", &event, "\"told\"");
        Contender { server: &stage.server, ask, connections: 32 }
    };
    let contenders = [told("clock", 0), told("clock", CALLS), told("random", CALLS)];
    let samples = rounds(context, &contenders)?;
    let [none, clock, random] = samples.as_slice() else { return Ok(Vec::new()) };
    let each = |own: &[Sample]| {
        let more = own.iter().zip(none).map(|(own, none)| own.cpu_ns - none.cpu_ns);
        more.map(|ns| ns / f64::from(CALLS)).collect()
    };
    let note = format!("{CALLS} in an invocation, less an invocation without");
    let named = |name: &str, own: &[Sample]| {
        let figure = figure("hostcalls", name, "ns CPU", each(own));
        Figure { note: note.clone(), ..figure }
    };
    Ok(vec![
        named("monotonic-clock now, each", clock),
        named("random get-random-bytes of 32, each", random),
        figure("hostcalls", "invocation with 100 clocks", "µs CPU", cpu_us(clock)),
    ])
}
