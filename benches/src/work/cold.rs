//! First calls: of functions that are on the disk and not in memory, and of one that was just
//! uploaded; what functions cost that nobody calls.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::drive::{self, Ask, Line};
use super::many::{Many, marked};
use super::stage::{Context, HELLO, HTTP_ECHO, figure, guest, put, since};
use crate::figure::{Cmp, Figure};

/// Connections of a storm.
const STORM: usize = 32;
/// Functions of the target.
const THOUSAND: usize = 1_000;

/// Milliseconds that the server says it took to make an instance.
fn init_ms(line: &Line) -> Option<f64> {
    line.header("x-wambda-init-ms").and_then(|text| text.parse().ok())
}

pub(crate) fn cold(context: &Context<'_>) -> Result<Vec<Figure>> {
    let many = context.many()?;
    let (mut restarts, mut storms) = (Vec::new(), Vec::new());
    let mut figures = Vec::new();
    for _ in 0..context.pick(1, 2, 5) {
        let (server, restart) = many.serve(context)?;
        restarts.push(restart.as_secs_f64() * 1e3);
        let (asks, began) = (many.asks_modules(server.address), Instant::now());
        context.runtime.block_on(drive::each(asks, STORM, |_| ()))?;
        storms.push(since(began) * 1e3);
    }
    let all = format!("{} modules, one request each, {STORM} connections", many.modules);
    let storm = figure("cold", all, "ms", storms);
    let target = (many.modules == THOUSAND).then_some((Cmp::AtMost, 1_000.0));
    let note = "after a restart, all of them in; files are in the page cache".to_owned();
    figures.push(Figure { target, note, ..storm });
    let (server, restart) = many.serve(context)?;
    restarts.push(restart.as_secs_f64() * 1e3);
    for (kind, asks) in [
        ("modules", many.asks_modules(server.address)),
        ("components", many.asks_components(server.address)),
    ] {
        let (latencies, inits) = context.runtime.block_on(drive::each(asks, 1, init_ms))?;
        let latencies: Vec<f64> = latencies.iter().map(|us| f64::from(*us) / 1e3).collect();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        let p50 = figure("cold", format!("{kind}, first answer"), "ms", latencies);
        let target = Some((Cmp::AtMost, 0.6));
        figures.push(Figure { target, note: format!("one after the other; p99 {p99:.2}"), ..p50 });
        let inits = inits.into_iter().flatten().collect();
        figures.push(figure("cold", format!("{kind}, init by the server"), "ms", inits));
    }
    let functions = many.modules + many.components;
    let name = format!("restart with {functions} functions");
    let target = Some((Cmp::AtMost, 2_000.0 + functions as f64 / 10.0));
    figures.push(Figure { target, ..figure("cold", name, "ms", restarts) });
    Ok(figures)
}

/// From the first byte of an upload to the first answer.
pub(crate) fn upload(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.shared()?;
    let address = stage.address();
    let mut figures = Vec::new();
    for (name, path) in [("http-echo", HTTP_ECHO), ("hello", HELLO)] {
        let code = guest(path)?;
        let (mut times, mut uploads) = (Vec::new(), Vec::new());
        for at in 0..context.pick(1, 3, 12) {
            let own = format!("new-{name}-{at}");
            let ask = match name {
                "hello" => stage.ask(&own, "{}", "\"hello\""),
                _ => Ask::new(address, &format!("GET /fn/{own}/"), b"").wants(b""),
            };
            let new = marked(&code, &format!("{at} {}", fastrand::u64(..)));
            let began = Instant::now();
            put(address, &own, "timeout=60", &new)?;
            uploads.push(since(began) * 1e3);
            context.runtime.block_on(drive::each(vec![ask], 1, |_| ()))?;
            times.push(since(began) * 1e3);
        }
        let shown = format!("{name}, {} KB: to its first answer", code.len() / 1_000);
        let target = (name == "http-echo").then_some((Cmp::AtMost, 120.0));
        figures.push(Figure { target, ..figure("upload", shown, "ms", times) });
        figures.push(figure("upload", format!("{name}, the upload alone"), "ms", uploads));
    }
    Ok(figures)
}

pub(crate) fn idle(context: &Context<'_>) -> Result<Vec<Figure>> {
    let many: &Many = context.many()?;
    let (server, _) = many.serve(context)?;
    // What a start leaves to be done is done by then.
    std::thread::sleep(Duration::from_millis(context.pick(300, 1_000, 5_000)));
    let (mut busy, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..context.pick(2, 4, 20) {
        let (before, began) = (server.cpu()?, Instant::now());
        std::thread::sleep(Duration::from_millis(context.pick(150, 1_000, 1_000)));
        // A thread that ends takes its time with it: such a second says nothing.
        let used = server.cpu()?.checked_sub(before);
        busy.extend(used.map(|used| used as f64 / 1e7 / since(began)));
        resident.push(server.resident()?);
    }
    let functions = many.modules + many.components;
    let resident = figure("idle", format!("{functions} functions, RSS"), "MB", resident);
    let busy = figure("idle", format!("{functions} functions, CPU"), "% of a core", busy);
    let note = "after a restart, none of them called".to_owned();
    Ok(vec![
        Figure { target: Some((Cmp::AtMost, 120.0)), note: note.clone(), ..resident },
        Figure { target: Some((Cmp::AtMost, 0.5)), note, ..busy },
    ])
}
