//! What an event costs in a guest and in a native program that does the same: JSON, hashing, a
//! picture, calls. Both compile the same source, `tests/guests/bench/src/work.rs`.

use anyhow::{Context as _, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::drive::{Ask, Line};
use super::stage::{BENCH, Contender, Context, cpu_us, figure, guest, ratios, rounds};
use crate::figure::{Cmp, Figure};

/// Target 12: what arithmetic may cost more than natively.
const TARGET: (Cmp, f64) = (Cmp::AtMost, 1.35);
/// Connections of a load that takes all cores anyway.
const FEW: usize = 2;

pub(crate) fn echo(context: &Context<'_>) -> Result<Vec<Figure>> {
    let mut items: Vec<Value> = Vec::new();
    let event = |items: &[Value]| json!({"items": items, "total": 12.5, "user": "ada"}).to_string();
    while event(&items).len() < 1_024 {
        let number = items.len();
        items.push(json!({"id": number, "name": "a thing", "price": 1.25, "tags": ["a", null]}));
    }
    let event = event(&items);
    let mut figures = compare(context, "echo", &event, Some(&event), 32)?;
    if let Some(ratio) = figures.first_mut() {
        ratio.target = None;
        ratio.note = format!("{} bytes of JSON, parsed and written again", event.len());
    }
    Ok(figures)
}

pub(crate) fn sha256(context: &Context<'_>) -> Result<Vec<Figure>> {
    let data: String = ('a'..='z').cycle().take(1 << 20).collect();
    let wanted = json!(wambda_sigv4::sha256_hex(data.as_bytes())).to_string();
    let event = json!({"do": "sha256", "data": data}).to_string();
    let mut figures = compare(context, "sha256", &event, Some(&wanted), FEW)?;
    if let Some(ratio) = figures.first_mut() {
        ratio.note = "1 MiB in the event; neither uses the CPU's instructions for it".to_owned();
    }
    Ok(figures)
}

pub(crate) fn fib(context: &Context<'_>) -> Result<Vec<Figure>> {
    let event = json!({"do": "fib", "n": 30}).to_string();
    compare(context, "fib", &event, Some("832040"), FEW)
}

pub(crate) fn thumbnail(context: &Context<'_>) -> Result<Vec<Figure>> {
    let photo = std::fs::read("examples/thumbnail/photo.png").context("photo.png")?;
    let event = json!({"do": "thumbnail", "image": BASE64.encode(photo), "width": 160}).to_string();
    compare(context, "thumbnail", &event, None, FEW)
}

/// The ratio, and what it is made of.
fn compare(
    context: &Context<'_>,
    workload: &'static str,
    event: &str,
    wanted: Option<&str>,
    connections: usize,
) -> Result<Vec<Figure>> {
    let (stage, native) = (context.shared()?, context.native()?);
    stage.deploy("bench", "reuse=warm&timeout=60", &guest(BENCH)?)?;
    let guest = Ask::invoke(stage.address(), "bench", event.as_bytes());
    let base = Ask::new(native.address, "POST /", event.as_bytes());
    let known = |ask: Ask| match wanted {
        Some(wanted) => Ok(ask.wants(wanted.as_bytes())),
        // The transcendental functions of two C libraries may differ in the last digit.
        None => picture(context, ask),
    };
    let contenders = [
        Contender { server: &stage.server, ask: known(guest)?, connections },
        Contender { server: native, ask: known(base)?, connections },
    ];
    let samples = rounds(context, &contenders)?;
    let (Some(own), Some(base)) = (samples.first(), samples.get(1)) else { return Ok(Vec::new()) };
    let ratio = figure(workload, "guest, CPU per event", "×", ratios(own, base));
    Ok(vec![
        Figure { base: Some("native".to_owned()), target: Some(TARGET), ..ratio },
        figure(workload, "guest", "µs CPU", cpu_us(own)),
        figure(workload, "native", "µs CPU", cpu_us(base)),
    ])
}

/// Looks at the first answer, and wants the same ever after.
fn picture(context: &Context<'_>, ask: Ask) -> Result<Ask> {
    let body = context.runtime.block_on(async {
        let mut line = Line::open(ask.address).await?;
        line.ask(&ask).await?;
        anyhow::Ok(line.body().to_vec())
    })?;
    let answer: Value = serde_json::from_slice(&body)?;
    let side = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    let image = answer.get("image").and_then(Value::as_str).unwrap_or_default();
    let jpeg = BASE64.decode(image)?;
    let is_good = side("width").max(side("height")) == 160 && jpeg.starts_with(&[0xff, 0xd8, 0xff]);
    anyhow::ensure!(is_good, "no picture: {:?}", String::from_utf8_lossy(&body));
    Ok(ask.wants(&body))
}
