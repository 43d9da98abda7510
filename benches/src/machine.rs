//! The machine that all of this runs on: what it is, and whether anybody else was using it.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process;

/// What a report says of its machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// UTC, to the minute.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn here() -> Result<Self> {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or("unknown").trim_matches([' ', '\t', ':']).to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: Times::read()?.cores,
            memory_gib: memory / f64::from(1 << 20),
            kernel: format!("Linux {}", kernel.trim()),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        })
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "memory_gib": self.memory_gib,
            "kernel": self.kernel,
            "date": self.date,
        })
    }
}

/// What the cores have done since the machine started (proc(5), stat).
struct Times {
    cores: usize,
    /// Nanoseconds of all cores together, for programs of this machine and for other machines.
    busy: u64,
}

impl Times {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let fields: Vec<u64> =
            line.split_whitespace().filter_map(|part| part.parse().ok()).collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        // user, nice, system and steal. Interrupts are left out: most of them are the packets of
        // the measured server, whose time may or may not have them, as the kernel was built.
        let ticks = field(0) + field(1) + field(2) + field(7);
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let cores = text.lines().filter(|line| line.starts_with("cpu")).count().saturating_sub(1);
        Ok(Self { cores: cores.max(1), busy: ticks * tick_ns })
    }
}

/// What is left of a slice's core time when the server and the load have had theirs.
pub(crate) struct Watch {
    began: Instant,
    busy: u64,
    own: u64,
}

impl Watch {
    pub(crate) fn start() -> Result<Self> {
        let own = process::cpu(std::process::id())?;
        Ok(Self { began: Instant::now(), busy: Times::read()?.busy, own })
    }

    /// The part of all cores that others took meanwhile; `served` is the server's time in
    /// nanoseconds.
    pub(crate) fn others(&self, served: u64) -> Result<f64> {
        let now = Times::read()?;
        let all = self.began.elapsed().as_nanos() as f64 * now.cores as f64;
        let own = process::cpu(std::process::id())?.saturating_sub(self.own);
        let others = now.busy.saturating_sub(self.busy).saturating_sub(served + own);
        Ok(others as f64 / all.max(1.0))
    }
}
