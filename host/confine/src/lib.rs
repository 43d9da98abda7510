//! The second wall: what is left to whoever breaks out of WebAssembly, or into the compiler.
//!
//! Landlock bounds which files and ports the process reaches, seccomp which system calls it makes. Both
//! hold for the calling thread and for all threads and processes that it starts later on, so that they
//! come before the first thread is started. What a kernel does not have is left out, and said.
//!
//! Sources: landlock(7), seccomp(2).

pub mod calls;
pub mod user;

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// The newest interface of Landlock whose rights are asked for; older kernels enforce what they have.
const NEWEST: ABI = ABI::V6;

/// How much of Landlock may be in force, least first.
const LANDLOCK: [&str; 3] = ["none", "partial", "full"];

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wall {
    /// `full`, `partial` (an older kernel) or `none`.
    pub landlock: &'static str,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

impl Wall {
    /// No wall.
    pub const NONE: Self = Self { landlock: "none", seccomp: false };

    /// The wall of which [`Self::landlock`] and [`Self::seccomp`] are these; none when there is no such wall.
    #[must_use]
    pub fn of(landlock: &str, seccomp: bool) -> Option<Self> {
        let landlock = LANDLOCK.into_iter().find(|known| *known == landlock)?;
        Some(Self { landlock, seccomp })
    }

    /// Whether it keeps out whatever `other` does.
    #[must_use]
    pub fn is_at_least(self, other: Self) -> bool {
        let height = |wall: Self| LANDLOCK.iter().position(|known| *known == wall.landlock);
        height(self) >= height(other) && self.seccomp >= other.seccomp
    }

    /// Whether all of it stands.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.landlock == "full" && self.seccomp
    }
}

/// What could not be put in force although the kernel has it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files and ports.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// System calls.
    #[error("seccomp: {0}")]
    Seccomp(String),
}

/// What the server's process may do with files.
#[derive(Debug)]
pub struct Files<'a> {
    /// Directories that are written.
    pub write: &'a [&'a Path],
    /// Programs that are run.
    pub run: &'a [&'a Path],
}

/// Files and directories that the C library, the runtime and the resolver read.
const READ: &[&str] = &[
    "/dev/urandom",
    "/dev/random",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel",
    "/proc/sys/net/core",
    "/proc/sys/vm",
    "/proc/uptime",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
];

/// Where the libraries of the compiler's process are.
const LIBRARIES: &[&str] = &[
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
];

/// The dynamic loader, which the kernel runs for the program: of the C library, and of musl.
const LOADERS: &[&str] = &[
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// Confines the server: it reads what [`READ`] lists, writes its own directories, runs itself, listens on
/// no other port and signals nobody but its children; and makes the calls of [`calls::SERVER`].
///
/// # Errors
/// When the kernel has the means and refuses all the same.
pub fn server(files: &Files<'_>) -> Result<Wall, Error> {
    let read = AccessFs::from_read(NEWEST) & !AccessFs::Execute;
    let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute & !AccessFs::IoctlDev;
    let run = AccessFs::from_read(NEWEST);
    let rules = rules()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(LIBRARIES, read))?
        .add_rules(path_beneath_rules(LOADERS, run))?
        .add_rules(path_beneath_rules(files.run, run))?
        .add_rules(path_beneath_rules(["/dev/null", "/dev/zero"], write))?
        .add_rules(path_beneath_rules(files.write, write))?;
    let landlock = told(rules.restrict_self()?.ruleset);
    Ok(Wall { landlock, seccomp: filter(calls::SERVER, true)? })
}

/// Confines the compiler: it keeps the files that it has open, opens none, reaches no network and nobody,
/// and makes the calls of [`calls::COMPILER`].
///
/// # Errors
/// When the kernel has the means and refuses all the same.
pub fn compiler() -> Result<Wall, Error> {
    let landlock = told(rules()?.restrict_self()?.ruleset);
    Ok(Wall { landlock, seccomp: filter(calls::COMPILER, false)? })
}

/// Everything is handled, and so refused unless a rule allows it. A server connects anywhere: which
/// addresses functions reach is decided for each request.
fn rules() -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let scopes: BitFlags<Scope> = Scope::AbstractUnixSocket | Scope::Signal;
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(scopes)?
        .create()
}

fn told(status: RulesetStatus) -> &'static str {
    match status {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    }
}

/// Refuses every call that is not listed with ENOSYS, on which the C library takes an older one.
/// Returns whether the kernel and this architecture can.
fn filter(allowed: &[i64], server: bool) -> Result<bool, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Seccomp(e.to_string());
    let Ok(arch) = std::env::consts::ARCH.try_into() else { return Ok(false) };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed.iter().map(|call| (*call, Vec::new())).collect();
    if server {
        for (call, conditions) in calls::CONDITIONS {
            let built = conditions.iter().map(|of| one(of)).collect::<Result<_, _>>();
            rules.insert(*call, built.map_err(|e| failed(&e))?);
        }
    }
    let refuse = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or(38));
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(|e: seccompiler::BackendError| failed(&e))?;
    match apply_filter(&program) {
        Ok(()) => Ok(true),
        // A kernel without it, or a container that forbids it.
        Err(seccompiler::Error::Seccomp(_) | seccompiler::Error::Prctl(_)) => Ok(false),
        Err(error) => Err(failed(&error)),
    }
}

/// A call is allowed when all conditions of one of its rules hold.
fn one(conditions: &[calls::Condition]) -> Result<SeccompRule, seccompiler::BackendError> {
    let built = conditions.iter().map(|condition| match *condition {
        calls::Condition::Is(argument, value) => {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        }
        calls::Condition::IsNot(argument, value) => {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
        }
        calls::Condition::Bits(argument, bits, value) => SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(bits),
            value,
        ),
    });
    SeccompRule::new(built.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walls_are_compared() {
        let walls =
            [false, true].map(|seccomp| LANDLOCK.map(|name| Wall::of(name, seccomp).unwrap()));
        for (at, lower) in walls.concat().into_iter().enumerate() {
            for (other, higher) in walls.concat().into_iter().enumerate() {
                let wanted = higher.seccomp >= lower.seccomp && other % 3 >= at % 3;
                assert_eq!(higher.is_at_least(lower), wanted, "{higher:?} for {lower:?}");
            }
        }
        assert_eq!(Wall::of("much", true), None);
        assert!(Wall::NONE.is_at_least(Wall::NONE));
    }
}
