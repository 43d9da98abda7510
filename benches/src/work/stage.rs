//! Servers with functions on them, and rounds in which contenders take turns.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::drive::{self, Ask};
use crate::args::{Arguments, Size};
use crate::figure::Figure;
use crate::process::Server;
use crate::stats::{Spread, spread};

/// A function made of the guest of `tests/guests/bench`.
pub(crate) const BENCH: &str = "tests/guests/target/wasm32-wasip2/release/guest_bench.wasm";
/// The event component that says hello.
pub(crate) const HELLO: &str = "tests/guests/target/wasm32-wasip2/release/guest_hello.wasm";
/// The HTTP component that streams back what it is sent.
pub(crate) const HTTP_ECHO: &str = "examples/target/wasm32-wasip2/release/http_echo.wasm";

/// A guest's code.
pub(crate) fn guest(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        let name = Path::new(path).file_name().unwrap_or_default();
        format!("{} is missing: run `cargo xtask guests`", name.display())
    })
}

/// What workloads have in common.
pub(crate) struct Context<'a> {
    pub(crate) arguments: &'a Arguments,
    /// Where the load comes from: one thread.
    pub(crate) runtime: tokio::runtime::Runtime,
    shared: OnceCell<Stage>,
    native: OnceCell<Server>,
    many: OnceCell<super::many::Many>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(arguments: &'a Arguments) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (shared, native, many) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Ok(Self { arguments, runtime, shared, native, many })
    }

    /// One of three, by the size of the run.
    pub(crate) fn pick<T>(&self, smoke: T, quick: T, full: T) -> T {
        match self.arguments.size {
            Size::Smoke => smoke,
            Size::Quick => quick,
            Size::Full => full,
        }
    }

    /// Rounds, and the time that each contender has in each.
    pub(crate) fn rounds(&self) -> (usize, Duration) {
        let (rounds, millis) = self.pick((1, 40), (3, 250), (10, 1_200));
        (rounds, Duration::from_millis(millis))
    }

    /// A server of its own, on new data.
    pub(crate) fn stage(&self, more: &[&str]) -> Result<Stage> {
        Stage::start(&self.arguments.server, TempDir::new()?, more)
    }

    /// The server that workloads without wishes share.
    pub(crate) fn shared(&self) -> Result<&Stage> {
        self.shared_or(&self.shared, || self.stage(&[]))
    }

    /// The native yardstick.
    pub(crate) fn native(&self) -> Result<&Server> {
        self.shared_or(&self.native, || {
            Server::start(std::env::current_exe()?.as_path(), &["native"])
        })
    }

    /// Data with many functions in it.
    pub(crate) fn many(&self) -> Result<&super::many::Many> {
        self.shared_or(&self.many, || super::many::Many::register(self))
    }

    fn shared_or<'b, T>(
        &self,
        cell: &'b OnceCell<T>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<&'b T> {
        if let Some(there) = cell.get() {
            return Ok(there);
        }
        let made = make()?;
        Ok(cell.get_or_init(|| made))
    }
}

/// A server, its data, and what is deployed there.
pub(crate) struct Stage {
    pub(crate) server: Server,
    data: TempDir,
    deployed: RefCell<HashSet<String>>,
}

impl Stage {
    pub(crate) fn start(program: &Path, data: TempDir, more: &[&str]) -> Result<Self> {
        let server = serve(program, data.path(), more)?;
        Ok(Self { server, data, deployed: RefCell::default() })
    }

    /// Ends the server, and starts another on its data.
    pub(crate) fn restart(self, program: &Path) -> Result<Self> {
        let Self { server, data, deployed } = self;
        drop(server);
        let server = serve(program, data.path(), &[])?;
        Ok(Self { server, data, deployed })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Puts a function there, unless one of that name was put there before.
    pub(crate) fn deploy(&self, name: &str, query: &str, code: &[u8]) -> Result<()> {
        if self.deployed.borrow_mut().insert(name.to_owned()) {
            put(self.address(), name, query, code)?;
        }
        Ok(())
    }

    /// An invocation that is known to be answered so: the first answer is checked here.
    pub(crate) fn ask(&self, name: &str, event: &str, wanted: &str) -> Ask {
        Ask::invoke(self.address(), name, event.as_bytes()).wants(wanted.as_bytes())
    }
}

/// A server on this data.
pub(crate) fn serve(program: &Path, data: &Path, more: &[&str]) -> Result<Server> {
    let data = data.to_string_lossy().into_owned();
    let own = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &data];
    Server::start(program, &[&own[..], more].concat())
}

/// Creates a function or replaces its code.
pub(crate) fn put(address: SocketAddr, name: &str, query: &str, code: &[u8]) -> Result<()> {
    let url = format!("http://{address}/v1/functions/{name}?{query}");
    ureq::put(url).send(code).with_context(|| format!("cannot deploy {name}")).map(drop)
}

/// One of those that take turns.
pub(crate) struct Contender<'a> {
    pub(crate) server: &'a Server,
    pub(crate) ask: Ask,
    pub(crate) connections: usize,
}

/// What one slice of one contender cost.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Of the server, for each request.
    pub(crate) cpu_ns: f64,
    pub(crate) p50_us: f64,
}

/// Lets contenders take turns in random order, so that what changes on the machine meets all of
/// them. The samples of each, in order of the rounds.
pub(crate) fn rounds(context: &Context<'_>, all: &[Contender<'_>]) -> Result<Vec<Vec<Sample>>> {
    let (rounds, slice) = context.rounds();
    let mut samples = vec![Vec::new(); all.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..all.len()).collect();
        fastrand::shuffle(&mut order);
        for at in order {
            let (Some(contender), Some(own)) = (all.get(at), samples.get_mut(at)) else { continue };
            // The first time there is more to warm up.
            let warm_up = if round == 0 { slice / 2 } else { slice / 10 };
            measure(context, contender, warm_up)?;
            own.push(measure(context, contender, slice)?);
        }
    }
    Ok(samples)
}

fn measure(context: &Context<'_>, contender: &Contender<'_>, time: Duration) -> Result<Sample> {
    let before = contender.server.cpu()?;
    let load = drive::closed(&contender.ask, contender.connections, time);
    let latencies = context.runtime.block_on(load)?;
    let used = contender.server.cpu()?.saturating_sub(before);
    ensure!(!latencies.is_empty(), "no answers");
    let p50 = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    Ok(Sample { cpu_ns: used as f64 / latencies.len() as f64, p50_us: f64::from(p50) })
}

/// A figure of these values: their median and quartiles.
pub(crate) fn figure(
    workload: &'static str,
    name: impl Into<String>,
    unit: &'static str,
    values: Vec<f64>,
) -> Figure {
    let Spread { low, median: value, high } = spread(values);
    let (name, note) = (name.into(), String::new());
    Figure { workload, name, unit, value, low, high, base: None, target: None, note }
}

/// The values of two contenders, round by round, as ratios.
pub(crate) fn ratios(own: &[Sample], base: &[Sample]) -> Vec<f64> {
    own.iter().zip(base).map(|(own, base)| own.cpu_ns / base.cpu_ns).collect()
}

/// Each sample's CPU time in microseconds.
pub(crate) fn cpu_us(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.cpu_ns / 1e3).collect()
}

/// Seconds since then.
pub(crate) fn since(then: Instant) -> f64 {
    then.elapsed().as_secs_f64()
}
