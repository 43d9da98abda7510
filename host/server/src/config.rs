//! Configuration: flags, then environment (`WAMBDA_*`), then `wambda.toml`, then defaults. All say
//! the same things under the same names.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Deserialize;
use wambda_control::Identity;
use wambda_model::event::EventSettings;
use wambda_model::limits::{
    ALLOWED_HOSTS_MAX, BODY_MEMORY_BYTES_DEFAULT, BODY_MEMORY_BYTES_MIN, BODY_MEMORY_PART,
    CLIENT_PATIENCE_DEFAULT, CODE_STORAGE_BYTES_DEFAULT, CONCURRENCY_DEFAULT, CONCURRENCY_MAX,
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, DRAIN_DEFAULT, EGRESS_PATIENCE_DEFAULT,
    LOG_MEMORY_BYTES_DEFAULT, LOG_MEMORY_BYTES_MIN, LOG_MEMORY_PART, RESPONSE_MEMORY_BYTES_DEFAULT,
    RESPONSE_MEMORY_BYTES_MIN, RESPONSE_MEMORY_PART, SLOTS_DEFAULT, SLOTS_MAX, SLOTS_MIN,
    STUCK_AFTER_DEFAULT, STUCK_AFTER_MIN,
};
use wambda_runtime::child::Limits as CompileLimits;

use crate::places::Connections;

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everyone.
    Off,
    /// Callers with an access key.
    Keys,
}

/// Whether the server confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confine {
    /// As far as the kernel can.
    Auto,
    /// Wholly, or it does not start.
    Required,
    /// Not at all.
    Off,
}

/// How log lines of the server look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `wambda serve`; the same names, with `_` for `-`, in `wambda.toml`.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeArgs {
    /// Address to listen on; port 0 picks a free one [default: 127.0.0.1:5262]
    #[arg(long, env = "WAMBDA_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where functions, code and compiled artifacts are kept [default: ./wambda-data]
    #[arg(long, env = "WAMBDA_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file [default: ./wambda.toml, if there is one]
    #[arg(long, env = "WAMBDA_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Who may call: off lets everyone, and is for loopback [default: off]
    #[arg(long, env = "WAMBDA_AUTH")]
    pub auth: Option<Auth>,
    /// Listen on other addresses than loopback although everyone may call
    #[arg(long, env = "WAMBDA_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
    /// Names that the server is called by, besides localhost and addresses; others are refused
    /// while everyone may call
    #[arg(long, env = "WAMBDA_ALLOWED_HOSTS", value_delimiter = ',', value_name = "NAME")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Region, for ARNs [default: us-east-1]
    #[arg(long, env = "WAMBDA_REGION")]
    pub region: Option<String>,
    /// Account of twelve digits, for ARNs [default: 000000000000]
    #[arg(long, env = "WAMBDA_ACCOUNT")]
    pub account: Option<String>,
    /// Invocations at once, of all functions together [default: 1000]
    #[arg(long, env = "WAMBDA_CONCURRENCY")]
    pub concurrency: Option<u32>,
    /// Where state is kept: embedded [default: embedded]
    #[arg(long, env = "WAMBDA_STORE")]
    pub store: Option<String>,
    /// Accept components of WASI 0.3, whose host code is labelled experimental by Wasmtime
    #[arg(long, env = "WAMBDA_WASI03", value_parser = FalseyValueParser::new())]
    pub wasi03: bool,
    /// Megabytes that all instances may hold together [default: half of the machine's memory]
    #[arg(long, env = "WAMBDA_MEMORY_BUDGET")]
    pub memory_budget: Option<u64>,
    /// Seconds that running invocations have to end after SIGTERM [default: 30]
    #[arg(long, env = "WAMBDA_DRAIN")]
    pub drain: Option<u64>,
    /// Seconds before the second attempt of an asynchronous invocation that failed, and before later ones
    /// [default: 60,120]
    #[arg(long, env = "WAMBDA_RETRY_DELAYS", value_delimiter = ',')]
    pub retry_delays: Option<Vec<f64>>,
    /// Shortest and longest seconds before another attempt after a throttle or a fault of the platform
    /// [default: 1,300]
    #[arg(long, env = "WAMBDA_RETRY_BACKOFF", value_delimiter = ',')]
    pub retry_backoff: Option<Vec<f64>>,
    /// Seconds beyond a function's timeout after which an asynchronous invocation that was not settled counts
    /// as lost, and is tried again [default: 60]
    #[arg(long, env = "WAMBDA_LEASE_SLACK")]
    pub lease_slack: Option<f64>,
    /// Seconds that the outcome of an asynchronous invocation is kept [default: 3600]
    #[arg(long, env = "WAMBDA_KEEP_OUTCOMES")]
    pub keep_outcomes: Option<f64>,
    /// Networks (CIDR) that functions may reach although they are private, loopback or otherwise not of the
    /// public Internet; an execution role must allow the host as well
    #[arg(long, env = "WAMBDA_EGRESS_ALLOW", value_delimiter = ',')]
    pub egress_allow: Option<Vec<String>>,
    /// Networks (CIDR) that functions may not reach, whatever their roles and --egress-allow say
    #[arg(long, env = "WAMBDA_EGRESS_DENY", value_delimiter = ',')]
    pub egress_deny: Option<Vec<String>>,
    /// Seconds that an outgoing request waits for a name, a connection, a response's head, or more of its
    /// body [default: 10]
    #[arg(long, env = "WAMBDA_EGRESS_PATIENCE")]
    pub egress_patience: Option<f64>,
    /// Name servers (ADDRESS or ADDRESS:PORT) for the hosts that functions reach [default: the machine's]
    #[arg(long, env = "WAMBDA_DNS", value_delimiter = ',')]
    pub dns: Option<Vec<String>>,
    /// The second wall, Landlock and seccomp: auto takes what the kernel has, required refuses to start
    /// without all of it [default: auto]
    #[arg(long, env = "WAMBDA_CONFINE")]
    pub confine: Option<Confine>,
    /// Instances alive at once, idle ones included [default: 4096]
    #[arg(long, env = "WAMBDA_INSTANCE_SLOTS")]
    pub instance_slots: Option<u32>,
    /// Seconds that a client has for the head of a request, and for the next bytes of its body; one that takes
    /// nothing of its response has three times as long [default: 20]
    #[arg(long, env = "WAMBDA_CLIENT_PATIENCE")]
    pub client_patience: Option<f64>,
    /// Connections that may be open [default: 8192]
    #[arg(long, env = "WAMBDA_CONNECTIONS")]
    pub connections: Option<usize>,
    /// Connections that may be open from one address; IPv6 addresses count by their first 64 bits
    /// [default: three quarters of --connections]
    #[arg(long, env = "WAMBDA_PEER_CONNECTIONS")]
    pub peer_connections: Option<usize>,
    /// Requests a second from one address; 0 is any number [default: 0]
    #[arg(long, env = "WAMBDA_PEER_RATE")]
    pub peer_rate: Option<u32>,
    /// Megabytes of request bodies that may be in memory; one address may have three quarters
    /// [default: 512, or a quarter of --memory-budget when that is less]
    #[arg(long, env = "WAMBDA_BODY_MEMORY")]
    pub body_memory: Option<u64>,
    /// Megabytes of responses that may wait to be written; one address may have three quarters
    /// [default: 512, or a quarter of --memory-budget when that is less]
    #[arg(long, env = "WAMBDA_RESPONSE_MEMORY")]
    pub response_memory: Option<u64>,
    /// Megabytes of logs that are kept in memory for all functions together
    /// [default: 256, or an eighth of --memory-budget when that is less]
    #[arg(long, env = "WAMBDA_LOG_MEMORY")]
    pub log_memory: Option<u64>,
    /// Megabytes of code and layers that are kept: uploads, and what they are unpacked and compiled to [default: 76800]
    #[arg(long, env = "WAMBDA_CODE_STORAGE")]
    pub code_storage: Option<u64>,
    /// Megabytes that all queues may hold together for an event to be taken [default: 65536]
    #[arg(long, env = "WAMBDA_EVENT_STORAGE")]
    pub event_storage: Option<u64>,
    /// Seconds after which a guest's operation that has not come back is told of, in the log and in
    /// wambda_stuck_polls [default: 30]
    #[arg(long, env = "WAMBDA_STUCK_AFTER")]
    pub stuck_after: Option<f64>,
    /// CPU seconds that compiling one upload may take [default: 120]
    #[arg(long, env = "WAMBDA_COMPILE_CPU")]
    pub compile_cpu: Option<u64>,
    /// Seconds by the clock that inspecting or compiling one upload may take [default: 300]
    #[arg(long, env = "WAMBDA_COMPILE_WALL")]
    pub compile_wall: Option<u64>,
    /// Megabytes that compiling one upload may take [default: 3072]
    #[arg(long, env = "WAMBDA_COMPILE_MEMORY")]
    pub compile_memory: Option<u64>,
    /// User to become once the port is bound; the data directory is made for this user
    #[arg(long, env = "WAMBDA_USER")]
    pub user: Option<String>,
    /// Format of the server's own log on standard error [default: text]
    #[arg(long, env = "WAMBDA_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What the server logs: a level, or a filter such as wambda=debug [default: info]
    #[arg(long, env = "WAMBDA_LOG")]
    pub log: Option<String>,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Region and account.
    pub identity: Identity,
    /// Whether requests must be signed.
    pub keys: bool,
    /// Names that the server is called by, in lower case.
    pub allowed_hosts: Vec<String>,
    /// Invocations at once, of all functions together.
    pub concurrency: u32,
    /// Whether WASI 0.3 is allowed.
    pub wasi03: bool,
    /// Bytes that all instances may hold together.
    pub memory_budget: u64,
    /// Time to end after SIGTERM.
    pub drain: Duration,
    /// When asynchronous invocations are tried again, and how long their outcomes are kept.
    pub events: EventSettings,
    /// Networks that functions may reach although they are not public, and may not although they are.
    pub egress: [Vec<IpNet>; 2],
    /// Longest wait of an outgoing request.
    pub egress_patience: Duration,
    /// Name servers; none for the machine's.
    pub dns: Vec<SocketAddr>,
    /// Whether the server confines itself.
    pub confine: Confine,
    /// Instances alive at once.
    pub slots: u32,
    /// Longest wait for clients.
    pub client_patience: Duration,
    /// Connections that may be open.
    pub connections: Connections,
    /// Requests a second from one address.
    pub peer_rate: Option<NonZeroU32>,
    /// Bytes of request bodies that may be in memory.
    pub body_memory: u64,
    /// Bytes of responses that may wait to be written.
    pub response_memory: u64,
    /// Bytes of logs in memory.
    pub log_memory: u64,
    /// Bytes of code and layers that are kept.
    pub code_storage: u64,
    /// After which a guest's operation that has not come back is told of.
    pub stuck_after: Duration,
    /// What compiling one upload may take.
    pub compiling: CompileLimits,
    /// User to become.
    pub user: Option<String>,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Filter of the log.
    pub log: String,
}

const FILE: &str = "wambda.toml";
/// Longest time that a flag takes: a week.
const SECONDS_MAX: f64 = 604_800.0;

/// The most that a flag takes: 1 TiB.
const MEGABYTES_MAX: u64 = 1 << 20;

impl ServeArgs {
    /// Completes flags and environment from the file, then from defaults, and checks the result.
    ///
    /// # Errors
    /// When a value is not valid, the file cannot be read, or the combination is refused.
    pub fn settle(self) -> Result<Settings> {
        let file = match &self.config {
            Some(path) => Some(read(path)?),
            None if Path::new(FILE).exists() => Some(read(Path::new(FILE))?),
            None => None,
        };
        let mut args = self.or(file.unwrap_or_default());
        let listen = args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 5262)));
        let keys = args.auth.unwrap_or(Auth::Off) == Auth::Keys;
        ensure_closed(listen, keys || args.insecure)?;
        let store = args.store.as_deref().unwrap_or("embedded");
        ensure!(
            store == "embedded",
            "--store {store} is not there yet: this build has `embedded` only"
        );
        let events = args.events()?;
        let budget = bytes("--memory-budget", args.memory_budget, 1, machine_memory()? / 2)?;
        let [body_memory, response_memory, log_memory] = args.held(budget)?;
        let identity = identity(args.region, args.account)?;
        let patience = one("--client-patience", args.client_patience, CLIENT_PATIENCE_DEFAULT)?;
        let dns = args.dns.unwrap_or_default();
        Ok(Settings {
            listen,
            // Children run in other directories, and this one may be left: what is relative ends here.
            data_dir: std::path::absolute(args.data_dir.unwrap_or("wambda-data".into()))
                .context("cannot tell where --data-dir is")?,
            identity,
            keys,
            allowed_hosts: hosts(args.allowed_hosts)?,
            concurrency: concurrency(args.concurrency)?,
            wasi03: args.wasi03,
            memory_budget: budget,
            drain: args.drain.map_or(DRAIN_DEFAULT, Duration::from_secs),
            events,
            egress: [
                networks("--egress-allow", args.egress_allow)?,
                networks("--egress-deny", args.egress_deny)?,
            ],
            egress_patience: one(
                "--egress-patience",
                args.egress_patience,
                EGRESS_PATIENCE_DEFAULT,
            )?,
            dns: dns.iter().map(|text| name_server(text)).collect::<Result<_>>()?,
            confine: args.confine.unwrap_or(Confine::Auto),
            slots: slots(args.instance_slots)?,
            client_patience: patience.max(Duration::from_millis(100)),
            connections: connections(args.connections, args.peer_connections)?,
            peer_rate: args.peer_rate.and_then(NonZeroU32::new),
            body_memory,
            response_memory,
            code_storage: bytes(
                "--code-storage",
                args.code_storage,
                1,
                CODE_STORAGE_BYTES_DEFAULT,
            )?,
            log_memory,
            stuck_after: stuck_after(args.stuck_after)?,
            compiling: compiling(args.compile_cpu, args.compile_wall, args.compile_memory)?,
            user: args.user,
            log_format: args.log_format.unwrap_or(LogFormat::Text),
            log: args.log.unwrap_or("info".to_owned()),
        })
    }

    /// Bytes that the server holds for others: bodies of requests, responses, logs. They are beside the budget, and
    /// in proportion to it.
    fn held(&self, budget: u64) -> Result<[u64; 3]> {
        let held = |flag, given, least: u64, part: [u64; 3]| {
            let [part, lowest, most] = part;
            bytes(flag, given, least >> 20, (budget / part).clamp(lowest, most))
        };
        let bodies = [BODY_MEMORY_PART, BODY_MEMORY_BYTES_MIN, BODY_MEMORY_BYTES_DEFAULT];
        let responses =
            [RESPONSE_MEMORY_PART, RESPONSE_MEMORY_BYTES_MIN, RESPONSE_MEMORY_BYTES_DEFAULT];
        let logs = [LOG_MEMORY_PART, LOG_MEMORY_BYTES_MIN, LOG_MEMORY_BYTES_DEFAULT];
        Ok([
            held("--body-memory", self.body_memory, BODY_MEMORY_BYTES_MIN, bodies)?,
            held("--response-memory", self.response_memory, RESPONSE_MEMORY_BYTES_MIN, responses)?,
            held("--log-memory", self.log_memory, 1 << 20, logs)?,
        ])
    }

    fn events(&mut self) -> Result<EventSettings> {
        let defaults = EventSettings::default();
        Ok(EventSettings {
            retry_delays: pair("--retry-delays", self.retry_delays.take(), defaults.retry_delays)?,
            backoff: pair("--retry-backoff", self.retry_backoff.take(), defaults.backoff)?,
            lease_slack: one("--lease-slack", self.lease_slack, defaults.lease_slack)?,
            outcome_age: one("--keep-outcomes", self.keep_outcomes, defaults.outcome_age)?,
            storage_bytes: bytes("--event-storage", self.event_storage, 1, defaults.storage_bytes)?,
        })
    }

    fn or(self, file: Self) -> Self {
        Self {
            listen: self.listen.or(file.listen),
            data_dir: self.data_dir.or(file.data_dir),
            config: self.config,
            auth: self.auth.or(file.auth),
            insecure: self.insecure || file.insecure,
            allowed_hosts: self.allowed_hosts.or(file.allowed_hosts),
            region: self.region.or(file.region),
            account: self.account.or(file.account),
            concurrency: self.concurrency.or(file.concurrency),
            store: self.store.or(file.store),
            wasi03: self.wasi03 || file.wasi03,
            memory_budget: self.memory_budget.or(file.memory_budget),
            drain: self.drain.or(file.drain),
            retry_delays: self.retry_delays.or(file.retry_delays),
            retry_backoff: self.retry_backoff.or(file.retry_backoff),
            lease_slack: self.lease_slack.or(file.lease_slack),
            keep_outcomes: self.keep_outcomes.or(file.keep_outcomes),
            egress_allow: self.egress_allow.or(file.egress_allow),
            egress_deny: self.egress_deny.or(file.egress_deny),
            egress_patience: self.egress_patience.or(file.egress_patience),
            dns: self.dns.or(file.dns),
            confine: self.confine.or(file.confine),
            instance_slots: self.instance_slots.or(file.instance_slots),
            client_patience: self.client_patience.or(file.client_patience),
            connections: self.connections.or(file.connections),
            peer_connections: self.peer_connections.or(file.peer_connections),
            peer_rate: self.peer_rate.or(file.peer_rate),
            body_memory: self.body_memory.or(file.body_memory),
            response_memory: self.response_memory.or(file.response_memory),
            code_storage: self.code_storage.or(file.code_storage),
            event_storage: self.event_storage.or(file.event_storage),
            log_memory: self.log_memory.or(file.log_memory),
            stuck_after: self.stuck_after.or(file.stuck_after),
            compile_cpu: self.compile_cpu.or(file.compile_cpu),
            compile_wall: self.compile_wall.or(file.compile_wall),
            compile_memory: self.compile_memory.or(file.compile_memory),
            user: self.user.or(file.user),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
        }
    }
}

/// Without keys, and unless the operator wants it so, only this machine reaches the server.
fn ensure_closed(listen: SocketAddr, may_be_open: bool) -> Result<()> {
    ensure!(
        may_be_open || listen.ip().is_loopback(),
        "refusing to listen on {listen} without authentication: everyone could run code there; \
         use --auth keys or a loopback address, or say --insecure if that is what you want"
    );
    Ok(())
}

/// Seconds of a flag: up to a week.
fn seconds(flag: &str, given: f64) -> Result<Duration> {
    ensure!(
        given.is_finite() && (0.0..=SECONDS_MAX).contains(&given),
        "{flag} takes 0 to {SECONDS_MAX} seconds, got {given}"
    );
    Ok(Duration::from_secs_f64(given))
}

/// A time of a flag, in seconds.
fn one(flag: &str, given: Option<f64>, default: Duration) -> Result<Duration> {
    given.map_or(Ok(default), |given| seconds(flag, given))
}

/// Two times of a flag, in seconds.
fn pair(flag: &str, given: Option<Vec<f64>>, default: [Duration; 2]) -> Result<[Duration; 2]> {
    match given.as_deref() {
        None => Ok(default),
        Some(&[first, second]) => Ok([seconds(flag, first)?, seconds(flag, second)?]),
        Some(other) => bail!("{flag} takes two numbers, got {}", other.len()),
    }
}

/// After which a guest's operation that has not come back is told of.
fn stuck_after(given: Option<f64>) -> Result<Duration> {
    let after = one("--stuck-after", given, STUCK_AFTER_DEFAULT)?;
    // Everything takes as long as a slice.
    ensure!(after >= STUCK_AFTER_MIN, "--stuck-after takes 0.01 seconds or more, got {after:?}");
    Ok(after)
}

/// Instances alive at once.
fn slots(given: Option<u32>) -> Result<u32> {
    let slots = given.unwrap_or(SLOTS_DEFAULT);
    ensure!(
        (SLOTS_MIN..=SLOTS_MAX).contains(&slots),
        "--instance-slots must be {SLOTS_MIN} to {SLOTS_MAX}, got {slots}"
    );
    Ok(slots)
}

/// Connections that may be open.
fn connections(all: Option<usize>, each: Option<usize>) -> Result<Connections> {
    let all = all.unwrap_or(CONNECTIONS_DEFAULT);
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&all),
        "--connections must be 1 to {CONNECTIONS_MAX}, got {all}"
    );
    let each = each.unwrap_or((all - all / 4).max(1));
    ensure!(
        (1..=all).contains(&each),
        "--peer-connections must be 1 to {all} (--connections), got {each}"
    );
    Ok(Connections { all, each })
}

/// Invocations at once.
fn concurrency(given: Option<u32>) -> Result<u32> {
    let number = given.unwrap_or(CONCURRENCY_DEFAULT);
    ensure!(
        (1..=CONCURRENCY_MAX).contains(&number),
        "--concurrency must be 1 to {CONCURRENCY_MAX}, got {number}"
    );
    Ok(number)
}

/// Bytes, given megabytes.
fn bytes(flag: &str, given: Option<u64>, least: u64, default: u64) -> Result<u64> {
    let Some(megabytes) = given else { return Ok(default) };
    let allowed = least..=MEGABYTES_MAX;
    ensure!(
        allowed.contains(&megabytes),
        "{flag} takes {least} to {MEGABYTES_MAX} MB, got {megabytes}"
    );
    Ok(megabytes << 20)
}

/// What compiling may take: seconds and megabytes, at least what the compiler itself needs.
fn compiling(cpu: Option<u64>, wall: Option<u64>, memory: Option<u64>) -> Result<CompileLimits> {
    let mut limits = CompileLimits::default();
    for (flag, given) in [("--compile-cpu", cpu), ("--compile-wall", wall)] {
        let good = given.is_none_or(|seconds| (1..=3_600).contains(&seconds));
        ensure!(good, "{flag} takes 1 to 3600 seconds, got {}", given.unwrap_or_default());
    }
    limits.cpu_seconds = cpu.unwrap_or(limits.cpu_seconds);
    limits.time = wall.map_or(limits.time, Duration::from_secs);
    if let Some(megabytes) = memory {
        ensure!(
            (256..=65_536).contains(&megabytes),
            "--compile-memory takes 256 to 65536 MB, got {megabytes}"
        );
        limits.address_bytes = megabytes << 20;
    }
    Ok(limits)
}

/// What is in ARNs.
fn identity(region: Option<String>, account: Option<String>) -> Result<Identity> {
    let (region, account) =
        (region.unwrap_or("us-east-1".to_owned()), account.unwrap_or("000000000000".to_owned()));
    ensure!(
        account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()),
        "--account must be twelve digits, got {account:?}"
    );
    ensure!(
        !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
        "--region must be letters, digits and '-', got {region:?}"
    );
    Ok(Identity { region: region.into(), account: account.into() })
}

/// Names of hosts, without ports.
fn hosts(given: Option<Vec<String>>) -> Result<Vec<String>> {
    let given = given.unwrap_or_default();
    ensure!(
        given.len() <= ALLOWED_HOSTS_MAX,
        "--allowed-hosts takes {ALLOWED_HOSTS_MAX} names at most, got {}",
        given.len()
    );
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    given
        .iter()
        .map(|name| {
            let name = name.trim();
            let name = name.strip_suffix('.').unwrap_or(name);
            ensure!(
                !name.is_empty() && name.bytes().all(is_of_name),
                "--allowed-hosts takes names such as wambda.example.org, without port or wildcard, \
                 got {name:?}"
            );
            Ok(name.to_ascii_lowercase())
        })
        .collect()
}

/// Networks of a flag.
fn networks(flag: &str, given: Option<Vec<String>>) -> Result<Vec<IpNet>> {
    given.unwrap_or_default().iter().map(|text| network(flag, text)).collect()
}

/// A network of a flag; a lone address is a network of one.
fn network(flag: &str, text: &str) -> Result<IpNet> {
    let text = text.trim();
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let parsed = text.parse::<IpNet>().or_else(|_| alone());
    parsed.ok().with_context(|| {
        format!("{flag} takes networks such as 10.1.0.0/16 or fd00::/8, got {text:?}")
    })
}

/// A name server of a flag; its port is 53 unless it says so.
fn name_server(text: &str) -> Result<SocketAddr> {
    let text = text.trim();
    let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    let parsed = text.parse::<SocketAddr>().or_else(|_| alone());
    parsed.ok().with_context(|| {
        format!("--dns takes addresses such as 10.0.0.2 or 10.0.0.2:53, got {text:?}")
    })
}

fn read(path: &Path) -> Result<ServeArgs> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))
}

/// Bytes of memory of this machine (proc(5), /proc/meminfo).
fn machine_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .context("cannot read /proc/meminfo: say --memory-budget")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kilobytes.context("no MemTotal in /proc/meminfo: say --memory-budget")? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: ServeArgs) -> String {
        format!("{:#}", args.settle().unwrap_err())
    }

    #[test]
    fn flags_come_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.toml");
        std::fs::write(&path, "region = 'eu-west-1'\ndrain = 5\nlisten = '127.0.0.1:1'").unwrap();
        let args = ServeArgs { config: Some(path.clone()), drain: Some(7), ..ServeArgs::default() };
        let settings = args.settle().unwrap();
        assert_eq!(&*settings.identity.region, "eu-west-1");
        assert_eq!((settings.drain.as_secs(), settings.listen.port()), (7, 1));
        std::fs::write(&path, "lisen = 1").unwrap();
        let args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        assert!(refused(args).contains("lisen"));
    }

    #[test]
    fn a_data_directory_is_absolute_whoever_says_it() {
        let here = std::env::current_dir().unwrap();
        let settled = |args: ServeArgs| args.settle().unwrap().data_dir;
        assert_eq!(settled(ServeArgs::default()), here.join("wambda-data"));
        for (said, meant) in [("./dd", here.join("dd")), ("d2", here.join("d2"))] {
            let args = ServeArgs { data_dir: Some(said.into()), ..ServeArgs::default() };
            assert_eq!(settled(args), meant);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.toml");
        std::fs::write(&path, "data_dir = 'd3'").unwrap();
        let args = ServeArgs { config: Some(path), ..ServeArgs::default() };
        assert_eq!(settled(args), here.join("d3"));
    }

    #[test]
    fn dangerous_and_wrong_values_are_refused() {
        let public: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let args = ServeArgs { listen: Some(public), ..ServeArgs::default() };
        assert!(refused(args.clone()).contains("--insecure"));
        ServeArgs { insecure: true, ..args.clone() }.settle().unwrap();
        assert!(ServeArgs { auth: Some(Auth::Keys), ..args }.settle().unwrap().keys);
        let args = ServeArgs { concurrency: Some(0), ..ServeArgs::default() };
        assert!(refused(args).contains("1 to 4000"));
        let account = |a: &str| ServeArgs { account: Some(a.to_owned()), ..ServeArgs::default() };
        assert!(refused(account("12")).contains("twelve"));
        let args = ServeArgs { store: Some("nats://x".to_owned()), ..ServeArgs::default() };
        assert!(refused(args).contains("nats://x"));
        let args = ServeArgs { retry_delays: Some(vec![1.0]), ..ServeArgs::default() };
        assert!(refused(args).contains("two numbers, got 1"));
        let args = ServeArgs { keep_outcomes: Some(-1.0), ..ServeArgs::default() };
        assert!(refused(args).contains("--keep-outcomes takes 0 to"));
        let allow = |text: &str| ServeArgs {
            egress_allow: Some(vec![text.to_owned()]),
            ..ServeArgs::default()
        };
        assert!(refused(allow("10.0.0.0/33")).contains("--egress-allow takes networks"));
        assert_eq!(allow("10.0.0.1").settle().unwrap().egress[0], ["10.0.0.1/32".parse().unwrap()]);
        let dns =
            |text: &str| ServeArgs { dns: Some(vec![text.to_owned()]), ..ServeArgs::default() };
        assert!(refused(dns("dns.example")).contains("--dns takes addresses"));
        assert_eq!(dns("::1").settle().unwrap().dns, ["[::1]:53".parse().unwrap()]);
        let hosts = |name: &str| ServeArgs {
            allowed_hosts: Some(vec![name.to_owned()]),
            ..ServeArgs::default()
        };
        for bad in ["", ".", "*", "*.example", "a:80", "http://a", "a/b", "ä.example"] {
            assert!(refused(hosts(bad)).contains("--allowed-hosts takes names"), "{bad}");
        }
        assert_eq!(hosts(" A.example. ").settle().unwrap().allowed_hosts, ["a.example"]);
        let args = ServeArgs { memory_budget: Some(0), ..ServeArgs::default() };
        assert!(refused(args).contains("takes 1 to 1048576 MB, got 0"));
    }
}
