//! The hot path beside ever more registered functions: a server for each number of them, in turns.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::drive;
use super::many;
use super::stage::{Contender, Context, Stage, cpu_us, figure, ratios, rounds};
use crate::figure::{Cmp, Figure};

/// Longest time that registering may take: the disk decides how many functions that is.
const PATIENCE: Duration = Duration::from_secs(300);

/// Hot paths beside ever more functions that are registered.
pub(crate) fn growth(context: &Context<'_>) -> Result<Vec<Figure>> {
    let sizes: &[usize] = context.pick(&[5, 20], &[10, 100, 1_000], &[10, 100, 1_000, 10_000]);
    let mut stages = Vec::new();
    for size in sizes {
        let stage = context.stage(&[])?;
        let began = Instant::now();
        let size = register(context, &stage, *size)?;
        let took = began.elapsed();
        // What is left to be done for so many uploads is not what is measured.
        stages.push((size, stage.restart(&context.arguments.server)?, took));
    }
    let contenders: Vec<_> = stages.iter().map(|(_, stage, _)| contender(stage)).collect();
    let samples = rounds(context, &contenders)?;
    let (Some(base), Some((few, ..))) = (samples.first(), stages.first()) else {
        return Ok(Vec::new());
    };
    let mut figures =
        vec![figure("growth", format!("hello, {few} functions"), "µs CPU", cpu_us(base))];
    for ((size, stage, took), own) in stages.iter().zip(&samples).skip(1) {
        let ratios = ratios(own, base);
        let ratio = figure("growth", format!("hello, {size} functions"), "×", ratios);
        let rate = *size as f64 / took.as_secs_f64();
        let note =
            format!("registered at {rate:.0} a second; RSS {:.0} MB", stage.server.resident()?);
        let base = Some(format!("{few} functions"));
        figures.push(Figure { base, note, target: Some((Cmp::AtMost, 1.05)), ..ratio });
    }
    Ok(figures)
}

/// Registers so many functions, or as many as there is time for; how many those are.
fn register(context: &Context<'_>, stage: &Stage, size: usize) -> Result<usize> {
    let (began, code) = (Instant::now(), crate::CORE.as_bytes());
    let upload = |at| many::upload(stage.address(), &format!("function-{at:05}"), code);
    let mut there = 0;
    while there < size && began.elapsed() < PATIENCE {
        let next = size.min(there + 100);
        let uploads = (there..next).map(upload).collect();
        context.runtime.block_on(drive::each(uploads, 8, |_| ()))?;
        there = next;
    }
    Ok(there)
}

fn contender(stage: &Stage) -> Contender<'_> {
    let ask = stage.ask("function-00000", "{}", "\"hello\"");
    Contender { server: &stage.server, ask, connections: 32 }
}
