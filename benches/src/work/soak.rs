//! Ten minutes of mixed load: what the server's memory does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::drive::{Ask, Line};
use super::stage::{BENCH, Context, HELLO, Stage, figure, guest, since};
use crate::figure::Figure;

/// Connections of each kind of request.
const EACH: usize = 2;
/// Pause between two requests of a connection: for load, not for its own sake.
const PAUSE: Duration = Duration::from_millis(2);

pub(crate) fn soak(context: &Context<'_>) -> Result<Vec<Figure>> {
    let stage = context.stage(&[])?;
    let (time, period) = context.pick((2.0, 0.1), (60.0, 1.0), (600.0, 5.0));
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for ask in mixed(&stage)? {
        for _ in 0..EACH {
            let (ask, stop, count) = (ask.clone(), Arc::clone(&stop), Arc::clone(&count));
            tasks.push(context.runtime.spawn(repeat(ask, stop, count)));
        }
    }
    let (began, mut samples) = (Instant::now(), Vec::new());
    while since(began) < time {
        std::thread::sleep(Duration::from_secs_f64(period));
        ensure!(tasks.iter().all(|task| !task.is_finished()), "a connection has ended: see below");
        samples.push((since(began), stage.server.resident()?));
    }
    stop.store(true, Relaxed);
    for task in tasks {
        context.runtime.block_on(task)??;
    }
    // What grows in the first fifth is what is kept for later.
    let settled: Vec<_> = samples.iter().filter(|(at, _)| *at >= time / 5.0).copied().collect();
    let slope = slope(&settled).context("too few samples")? * 3_600.0;
    let resident: Vec<f64> = settled.iter().map(|(_, resident)| *resident).collect();
    let requests = count.load(Relaxed);
    let note = format!(
        "{requests} requests in {time:.0} s (warm, fresh, 16 MiB, failing) without the first fifth"
    );
    Ok(vec![
        Figure { note, ..figure("soak", "RSS slope", "MB/hour", vec![slope]) },
        figure("soak", "RSS", "MB", resident),
    ])
}

fn mixed(stage: &Stage) -> Result<[Ask; 4]> {
    let (hello, bench) = (guest(HELLO)?, guest(BENCH)?);
    stage.deploy("warm", "reuse=warm", &hello)?;
    stage.deploy("fresh", "reuse=fresh", &hello)?;
    stage.deploy("touch", "reuse=warm&timeout=60", &bench)?;
    stage.deploy("fail", "reuse=warm", &bench)?;
    Ok([
        stage.ask("warm", "{}", "\"hello\""),
        stage.ask("fresh", "{}", "\"hello\""),
        stage.ask("touch", r#"{"do":"touch","mib":16}"#, "4096"),
        Ask::invoke(stage.address(), "fail", br#"{"do":"fail"}"#).answers_with(500),
    ])
}

async fn repeat(ask: Ask, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> Result<()> {
    let mut line = Line::open(ask.address).await?;
    while !stop.load(Relaxed) {
        line.ask(&ask).await?;
        count.fetch_add(1, Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Least squares: how much the second number grows for each one of the first.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let square: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let product: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (square > 0.0).then(|| product / square)
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_line_has_its_slope() {
        let points: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 - 2.0 * f64::from(x))).collect();
        assert_eq!(slope(&points).map(f64::round), Some(-2.0));
        assert_eq!(slope(&[(1.0, 1.0)]), None);
    }
}
