//! From nothing to a thousand calls at once: each on a connection that is there already, none
//! refused.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::drive::Ask;
use super::stage::{Context, HELLO, figure, guest, since};
use crate::figure::{Cmp, Figure};

pub(crate) fn burst(context: &Context<'_>) -> Result<Vec<Figure>> {
    let count = context.pick(50, 1_000, 1_000);
    let stage = context.stage(&[])?;
    let hello = guest(HELLO)?;
    let mut figures = vec![yardstick(context, count)?];
    for (kind, code) in [("modules", crate::CORE.as_bytes()), ("components", &hello)] {
        let (mut cold, mut warm, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..context.pick(1, 3, 10) {
            // A function that has no instances yet.
            let name = format!("{kind}-{round}");
            stage.deploy(&name, "", code)?;
            let ask = stage.ask(&name, "{}", "\"hello\"");
            let health = Ask::new(stage.address(), "GET /healthz", b"");
            let mut connections = open(stage.address(), &health, count)?;
            let began = Instant::now();
            cold.push(at_once(&mut connections, &ask)?);
            all.push(since(began) * 1e3);
            std::thread::sleep(Duration::from_millis(100));
            warm.push(at_once(&mut connections, &ask)?);
        }
        let note = "from the last request sent to the last answer read, reading included";
        let target = Some((Cmp::AtMost, 5.0));
        let cold = figure("burst", format!("0 to {count} {kind}, after the last"), "ms", cold);
        figures.push(Figure { target, note: note.to_owned(), ..cold });
        figures.push(figure("burst", format!("0 to {count} {kind}, in all"), "ms", all));
        let warm = figure("burst", format!("{count} again, after the last"), "ms", warm);
        figures.push(warm);
    }
    Ok(figures)
}

/// What it takes to send so many requests and to read so many answers, when there is little in
/// between.
fn yardstick(context: &Context<'_>, count: usize) -> Result<Figure> {
    let native = context.native()?;
    let ask = Ask::new(native.address, "POST /", b"{}").wants(b"{}");
    let mut connections = open(native.address, &ask, count)?;
    let times: Result<Vec<f64>> =
        (0..context.pick(1, 3, 10)).map(|_| at_once(&mut connections, &ask)).collect();
    Ok(figure("burst", format!("{count} to a native program, after the last"), "ms", times?))
}

/// Connections, each accepted: they have had an answer.
fn open(address: SocketAddr, first: &Ask, count: usize) -> Result<Vec<TcpStream>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&first.request)?;
        read(&mut stream, &mut Vec::new())?;
        all.push(stream);
    }
    Ok(all)
}

/// Sends all, then reads all: milliseconds from one to the other.
fn at_once(connections: &mut [TcpStream], ask: &Ask) -> Result<f64> {
    for stream in connections.iter_mut() {
        stream.write_all(&ask.request)?;
    }
    let last = Instant::now();
    let wanted = ask.wanted.as_deref().unwrap_or_default();
    let mut answer = Vec::with_capacity(2_048);
    for stream in connections {
        answer.clear();
        read(stream, &mut answer)?;
        let is_good = answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(wanted);
        ensure!(is_good, "refused: {}", String::from_utf8_lossy(&answer));
    }
    Ok(since(last) * 1e3)
}

/// A whole answer: they are short, and mostly come at once.
fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<()> {
    let mut part = [0; 2_048];
    loop {
        let count = stream.read(&mut part)?;
        ensure!(count > 0, "the connection was closed");
        answer.extend_from_slice(part.get(..count).unwrap_or_default());
        let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default());
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("no content-length")?.parse()?;
        if answer.len() >= head + 4 + length {
            return Ok(());
        }
    }
}
