//! Who says hello: the ways that are compared, and what they are compared by. How their servers are
//! started is in servers.rs, how they are measured in hello.rs.

use crate::bare::Bare;
use crate::figure::Cmp;

/// One way to get `"hello"`.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) host: Host,
    pub(crate) group: Group,
    pub(crate) front: Front,
    /// What is deployed; none where the server is the function.
    pub(crate) code: Option<Code>,
}

/// The process that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// hyper alone.
    Bare(Bare),
    /// `wambda serve`
    Wambda,
    /// The same with `--auth keys`.
    Keys,
    /// The same with `--wasi03`.
    Wasi03,
    /// `wasmtime serve`
    Wasmtime,
    /// The same with all that its flags offer.
    Tuned,
    /// The same with WASI 0.3.
    Wasmtime03,
    /// `workerd serve`
    Workerd,
}

impl Host {
    /// Whether it is somebody else's, and comes from a package registry.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Wasmtime | Self::Tuned | Self::Wasmtime03 | Self::Workerd)
    }
}

/// How long an instance lives, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Bare,
    /// Wambda, with instances that answer one request after another.
    Warm,
    /// Wambda, with an instance for each request.
    Fresh,
    Peer,
}

/// By which address a function is invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// `/`, of servers with one function.
    Root,
    /// `/v1/functions/NAME/invoke`
    Native,
    /// AWS Lambda's `Invoke`.
    Lambda,
    /// `/fn/NAME/`
    Url,
}

/// The upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Core,
    Event,
    Http,
    Http3,
}

use Bare::{Cores, Timed, Untimed};
use Code::{Core, Event, Http, Http3};
use Front::{Lambda, Native, Url};
use Group::{Fresh, Warm};
use Host::{Keys, Wambda, Wasi03};

pub(crate) const CONTENDERS: &[Contender] = &[
    alone("bare", "hyper alone", Host::Bare(Timed)),
    alone("bare untimed", "hyper alone, heads may take for ever", Host::Bare(Untimed)),
    alone("bare cores", "the same, a runtime of one thread for each core", Host::Bare(Cores)),
    ours("core warm", "core module, reused", Warm, Wambda, Core, Native),
    ours("event warm", "event component, reused", Warm, Wambda, Event, Native),
    ours("http warm", "wasi:http 0.2, reused", Warm, Wambda, Http, Url),
    ours("http3 warm", "wasi:http 0.3, reused", Warm, Wasi03, Http3, Url),
    ours("core fresh", "core module, instance per event", Fresh, Wambda, Core, Native),
    ours("event fresh", "event component, instance per event", Fresh, Wambda, Event, Native),
    ours("http fresh", "wasi:http 0.2, instance per request", Fresh, Wambda, Http, Url),
    ours("http3 fresh", "wasi:http 0.3, instance per request", Fresh, Wasi03, Http3, Url),
    ours("core lambda", "core module, reused, by Lambda's Invoke", Warm, Wambda, Core, Lambda),
    ours("core keys", "the same, signed, with --auth keys", Warm, Keys, Core, Lambda),
    ours("native keys", "core module, reused, by /v1, signed", Warm, Keys, Core, Native),
    alone("wasmtime serve", "wasi:http 0.2, as it comes: instance per request", Host::Wasmtime),
    alone("wasmtime tuned", "wasi:http 0.2, reused, pooling allocator", Host::Tuned),
    alone("wasmtime 0.3", "wasi:http 0.3, as it comes: 128 requests each", Host::Wasmtime03),
    alone("workerd", "JavaScript, one isolate", Host::Workerd),
];

const fn alone(name: &'static str, about: &'static str, host: Host) -> Contender {
    let group = if matches!(host, Host::Bare(_)) { Group::Bare } else { Group::Peer };
    Contender { name, about, host, group, front: Front::Root, code: None }
}

const fn ours(
    name: &'static str,
    about: &'static str,
    group: Group,
    host: Host,
    code: Code,
    front: Front,
) -> Contender {
    Contender { name, about, host, group, front, code: Some(code) }
}

impl Contender {
    /// The name of its function.
    pub(crate) fn function(&self) -> String {
        self.name.replace(' ', "-")
    }

    pub(crate) fn path(&self) -> String {
        let name = self.function();
        match self.front {
            Front::Root => "/".to_owned(),
            Front::Native => format!("/v1/functions/{name}/invoke"),
            Front::Lambda => format!("/2015-03-31/functions/{name}/invocations"),
            Front::Url => format!("/fn/{name}/"),
        }
    }

    pub(crate) fn reuse(&self) -> &'static str {
        if self.group == Group::Fresh { "fresh" } else { "warm" }
    }
}

/// A contender in that of another, by CPU per request, round by round.
pub(crate) struct Comparison {
    pub(crate) name: &'static str,
    pub(crate) base: &'static str,
    pub(crate) target: Option<(Cmp, f64)>,
}

/// What is promised, and what else is worth a line. A peer is measured in ours, since "15 times
/// less" is what one says.
pub(crate) const COMPARISONS: &[Comparison] = &[
    at_most("core warm", "bare", 1.05),
    at_most("event warm", "bare", 1.15),
    at_most("http warm", "bare", 1.3),
    at_most("core fresh", "bare", 1.65),
    at_most("http fresh", "bare", 2.2),
    at_least("wasmtime serve", "http warm", 15.0),
    at_least("wasmtime tuned", "http warm", 2.5),
    at_least("wasmtime serve", "http fresh", 10.0),
    seen("wasmtime 0.3", "http3 warm"),
    seen("workerd", "http warm"),
    seen("workerd", "http fresh"),
    seen("bare cores", "bare untimed"),
    seen("core warm", "bare untimed"),
    seen("event warm", "bare untimed"),
    seen("core lambda", "core warm"),
    seen("core keys", "core lambda"),
    seen("native keys", "core warm"),
];

const fn at_most(name: &'static str, base: &'static str, bound: f64) -> Comparison {
    Comparison { name, base, target: Some((Cmp::AtMost, bound)) }
}

const fn at_least(name: &'static str, base: &'static str, bound: f64) -> Comparison {
    Comparison { name, base, target: Some((Cmp::AtLeast, bound)) }
}

const fn seen(name: &'static str, base: &'static str) -> Comparison {
    Comparison { name, base, target: None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{COMPARISONS, CONTENDERS, Host, Timed};

    #[test]
    fn the_bare_server_is_first_and_names_are_unique() {
        assert_eq!(CONTENDERS.first().map(|first| first.host), Some(Host::Bare(Timed)));
        let names: HashSet<&str> = CONTENDERS.iter().map(|contender| contender.name).collect();
        assert_eq!(names.len(), CONTENDERS.len());
        for comparison in COMPARISONS {
            assert!(names.contains(comparison.name) && names.contains(comparison.base));
        }
    }
}
