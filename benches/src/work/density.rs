//! How many live instances and how many registered functions a machine holds.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::drive::{self, Ask};
use super::stage::{BENCH, Context, HELLO, Stage, figure, guest};
use crate::figure::{Cmp, Figure};

/// Megabytes in a GiB.
const GIB_MB: f64 = 1_024.0;

pub(crate) fn density(context: &Context<'_>) -> Result<Vec<Figure>> {
    let mut figures = instances(context)?;
    figures.push(budgeted(context)?);
    figures.extend(functions(context)?);
    Ok(figures)
}

/// What instances take of memory: when they wait for their first call, and after it.
fn instances(context: &Context<'_>) -> Result<Vec<Figure>> {
    let count = context.pick(20, 500, 3_000);
    // Room for all of them: what is measured is what they really take.
    let most = ["--concurrency", "4000", "--instance-slots", "8000", "--memory-budget", "100000"];
    let stage = context.stage(&most)?;
    let kept = |count: usize| format!("timeout=60&concurrency=3500&provisioned={count}");
    let code = guest(BENCH)?;
    stage.deploy("sleep", &kept(1), &code)?;
    let event = r#"{"do":"sleep","ms":1}"#;
    let once = stage.ask("sleep", event, "\"awake\"");
    context.runtime.block_on(drive::closed(&once, 1, Duration::ZERO))?;
    // Connections that have gone leave memory behind, which is not the instances'.
    let health = Ask::new(stage.address(), "GET /healthz", b"");
    let while_open = Duration::from_millis(context.pick(50, 300, 1_000));
    context.runtime.block_on(drive::closed(&health, count, while_open))?;
    let before = stage.server.proportional()?;
    super::stage::put(stage.address(), "sleep", &kept(count), &code)?;
    wait_for(&stage, "sleep", count)?;
    let virgin = (stage.server.proportional()? - before) / count as f64;
    // All of them at once: each call has an instance of its own.
    let event = format!(r#"{{"do":"sleep","ms":{}}}"#, context.pick(300, 1_000, 2_000));
    let all = stage.ask("sleep", &event, "\"awake\"");
    context.runtime.block_on(drive::closed(&all, count, Duration::ZERO))?;
    let used = number(&stage, "sleep", "/instances/warm")?;
    let target = Some((Cmp::AtLeast, 10_000.0));
    let ran = (stage.server.proportional()? - before) / used.max(1) as f64;
    let per_gib = |name: &str, each: f64, count| {
        let note = format!(
            "{:.0} KiB each, of {count} that were alive; shared pages count once",
            each * 1_024.0
        );
        Figure { note, ..figure("density", name, "instances", vec![GIB_MB / each]) }
    };
    let virgin = per_gib("instances made ahead of time, in a GiB", virgin, count as u64);
    let ran = per_gib("instances that have run, in a GiB", ran, used);
    Ok(vec![virgin, Figure { target, ..ran }])
}

/// How many instances the server itself lets live in a GiB.
fn budgeted(context: &Context<'_>) -> Result<Figure> {
    let budget = context.pick(32, 256, 1_024);
    let text = budget.to_string();
    let more = ["--concurrency", "4000", "--instance-slots", "8000", "--memory-budget", &text];
    let stage = context.stage(&more)?;
    stage.deploy("hello", "concurrency=3500&provisioned=3500", &guest(HELLO)?)?;
    let (mut count, mut still) = (0, 0);
    while still < 8 {
        std::thread::sleep(Duration::from_millis(context.pick(100, 200, 500)));
        let now = number(&stage, "hello", "/instances/prewarmed")?;
        still = if now == count && now > 0 { still + 1 } else { 0 };
        count = now;
    }
    let in_gib = count as f64 * GIB_MB / f64::from(budget);
    let figure =
        figure("density", "instances that --memory-budget lets live", "a GiB", vec![in_gib]);
    let note = "it counts linear memories in full, touched or not".to_owned();
    Ok(Figure { note, ..figure })
}

/// What functions take of memory and disk that nobody calls.
fn functions(context: &Context<'_>) -> Result<Vec<Figure>> {
    let many = context.many()?;
    let empty = context.stage(&[])?;
    let settle = Duration::from_millis(context.pick(100, 1_000, 3_000));
    let (full, _) = many.serve(context)?;
    std::thread::sleep(settle);
    let count = many.modules + many.components;
    let each_mb = (full.resident()? - empty.server.resident()?).max(0.001) / count as f64;
    let half_mb = machine_mb()? / 2.0;
    let fit = figure(
        "density",
        "functions in half of this machine's RAM",
        "functions",
        vec![half_mb / each_mb],
    );
    let note = format!("{:.1} KiB of RSS each, of {count}", each_mb * 1_024.0);
    let target = Some((Cmp::AtLeast, 100_000.0));
    let [none, modules, all] = many.disk.map(|bytes| bytes as f64 / 1_024.0);
    let [of_modules, of_components] = many.took.map(|took| took.as_secs_f64() * 1e3);
    let each = |name: &str, unit, value: f64, count: usize| {
        figure("density", name, unit, vec![value / count.max(1) as f64])
    };
    Ok(vec![
        Figure { target, note, ..fit },
        each("disk, a small module", "KiB", modules - none, many.modules),
        each("disk, a component of 74 KB", "KiB", all - modules, many.components),
        each("registering a small module", "ms", of_modules, many.modules),
        each("registering a component of 74 KB", "ms", of_components, many.components),
    ])
}

fn machine_mb() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no total")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
}

/// A number of `/scaling`.
fn number(stage: &Stage, function: &str, pointer: &str) -> Result<u64> {
    let url = format!("http://{}/v1/functions/{function}/scaling", stage.address());
    let text = ureq::get(url).call()?.body_mut().read_to_string()?;
    let value: Value = serde_json::from_str(&text)?;
    value.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer}: {text}"))
}

/// Waits until so many instances wait for calls.
fn wait_for(stage: &Stage, function: &str, count: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let idle = ["/instances/prewarmed", "/instances/warm"];
        let there = idle.map(|pointer| number(stage, function, pointer));
        let there = there.into_iter().sum::<Result<u64>>()?;
        if there >= count as u64 {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "only {there} of {count} instances");
        std::thread::sleep(Duration::from_millis(50));
    }
}
