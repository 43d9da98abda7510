//! A server in a process of its own, and the CPU time it uses.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a program that prints `… listening on http://ADDRESS` when it is ready.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let address = line.trim().rsplit_once("http://").map(|(_, address)| address.parse());
        let address = address.with_context(|| format!("unexpected {line:?}"))??;
        Ok(Self { child, address })
    }

    /// Starts a program that says nothing, and waits until it listens on `address`.
    pub(crate) fn quiet(program: &Path, arguments: &[&str], address: SocketAddr) -> Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut this = Self { child, address };
        for _ in 0..200 {
            if std::net::TcpStream::connect(address).is_ok() {
                return Ok(this);
            }
            if let Some(status) = this.child.try_wait()? {
                anyhow::bail!("{} ended: {status}", program.display());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        anyhow::bail!("{} does not listen on {address}", program.display())
    }

    /// Resident megabytes.
    pub(crate) fn resident(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: f64 = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1_024.0)
    }

    /// Megabytes in memory, where a page that is mapped many times counts once (proc(5), Pss).
    pub(crate) fn proportional(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
    }

    /// Nanoseconds on a CPU, of all threads.
    pub(crate) fn cpu(&self) -> Result<u64> {
        cpu(self.child.id())
    }

    /// The same, with the processes that it has started and that still run.
    pub(crate) fn cpu_with_children(&self) -> Result<u64> {
        let (mut total, mut left) = (0, vec![self.child.id()]);
        while let Some(process) = left.pop() {
            // A child may have ended by now.
            total += cpu(process).unwrap_or_default();
            left.extend(children(process));
        }
        Ok(total)
    }
}

/// Nanoseconds that a process was on a CPU, of all threads (proc(5), schedstat).
pub(crate) fn cpu(process: u32) -> Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

fn children(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| text.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Runs `start` on the first half of this machine's cores, where what it starts stays, and leaves
/// this thread, with those that it starts from then on, the others. Whoever sends the load does not
/// take the server's cores then. With one core there is nothing to halve.
pub(crate) fn apart<T>(start: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    let (first, rest) = cores.split_at(cores.len() / 2);
    let only = |cores: &[usize]| {
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
        sched_setaffinity(None, &set).context("cannot choose cores")
    };
    if first.is_empty() {
        return start();
    }
    only(first)?;
    let started = start();
    only(rest)?;
    started
}

/// Gives this thread the machine's cores back, all that it may have.
pub(crate) fn together() -> Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| set.set(core));
    sched_setaffinity(None, &set).context("cannot take the cores back")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
