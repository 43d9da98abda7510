//! The command line of `wambda-bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::bare::Bare;
use crate::queue;

/// What is run.
pub(crate) enum Command {
    /// The yardstick, as a server of its own.
    Bare(Bare),
    /// What functions do, without WebAssembly, as a server of its own.
    Native,
    /// Contenders, workloads, or both.
    Compare {
        arguments: Arguments,
        hello: bool,
        work: Option<Vec<String>>,
    },
    Queue(queue::Arguments),
    Overload(Arguments),
}

/// How long it may take, from a full run down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Size {
    /// Every contender once, for what it answers and not for how fast: what tests run.
    Smoke,
    Quick,
    Full,
}

/// What is measured, and how long.
pub(crate) struct Arguments {
    /// The program `wambda`.
    pub(crate) server: PathBuf,
    pub(crate) size: Size,
    /// `Size::Quick` or less.
    pub(crate) quick: bool,
    /// `Size::Smoke`.
    pub(crate) smoke: bool,
    /// Count slices in which others took the cores.
    pub(crate) keep_disturbed: bool,
    /// The program `wasmtime`, when it is there.
    pub(crate) wasmtime: Option<PathBuf>,
    /// The program `workerd`, when it is there.
    pub(crate) workerd: Option<PathBuf>,
}

/// Options as they are found; each command takes those that it knows.
#[derive(Default)]
struct Given {
    paths: Vec<(String, PathBuf)>,
    flags: Vec<String>,
    words: Vec<String>,
}

impl Given {
    fn read(given: impl Iterator<Item = String>, paths: &[&str], flags: &[&str]) -> Result<Self> {
        let mut this = Self::default();
        let mut given = given.peekable();
        while let Some(argument) = given.next() {
            match argument.strip_prefix("--") {
                None => this.words.push(argument),
                Some(name) if paths.contains(&name) => {
                    let path = given.next().with_context(|| format!("{argument} needs a path"))?;
                    this.paths.push((name.to_owned(), PathBuf::from(path)));
                }
                Some(name) if flags.contains(&name) => this.flags.push(name.to_owned()),
                Some(_) => bail!(
                    "no argument {argument:?}: known are, with a path each, {paths:?}, and {flags:?}"
                ),
            }
        }
        Ok(this)
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        let at = self.paths.iter().rposition(|(given, _)| given == name)?;
        Some(self.paths.swap_remove(at).1)
    }

    fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|given| given == name)
    }

    fn server(&mut self) -> Result<PathBuf> {
        self.path("server").context("--server PATH is missing")
    }

    fn no_words(&self) -> Result<()> {
        ensure!(self.words.is_empty(), "no argument {:?}", self.words);
        Ok(())
    }

    fn arguments(&mut self) -> Result<Arguments> {
        let size = match () {
            () if self.flag("smoke") => Size::Smoke,
            () if self.flag("quick") => Size::Quick,
            () => Size::Full,
        };
        Ok(Arguments {
            server: self.server()?,
            size,
            quick: size <= Size::Quick,
            smoke: size == Size::Smoke,
            keep_disturbed: self.flag("keep-disturbed"),
            wasmtime: self.path("wasmtime"),
            workerd: self.path("workerd"),
        })
    }
}

/// `[bare | bare-untimed | bare-cores | native | queue | overload | hello | work NAME…] options`.
pub(crate) fn read(given: impl Iterator<Item = String>) -> Result<Command> {
    let mut given = given.peekable();
    if let Some(bare) =
        Bare::ALL.into_iter().find(|bare| given.peek().is_some_and(|first| first == bare.as_str()))
    {
        return Ok(Command::Bare(bare));
    }
    let known = ["native", "queue", "overload", "hello", "work"];
    let command = given.next_if(|first| known.contains(&first.as_str())).unwrap_or_default();
    match command.as_str() {
        "native" => Ok(Command::Native),
        "queue" => queue_arguments(given).map(Command::Queue),
        "overload" => {
            let mut given = Given::read(given, &["server"], &["quick"])?;
            given.no_words()?;
            Ok(Command::Overload(given.arguments()?))
        }
        _ => {
            let paths = ["server", "wasmtime", "workerd"];
            let flags = ["quick", "smoke", "keep-disturbed"];
            let mut given = Given::read(given, &paths, &flags)?;
            let arguments = given.arguments()?;
            let work = match command.as_str() {
                "work" => Some(given.words),
                _ => {
                    given.no_words()?;
                    (command != "hello").then(Vec::new)
                }
            };
            Ok(Command::Compare { arguments, hello: command != "work", work })
        }
    }
}

fn queue_arguments(given: impl Iterator<Item = String>) -> Result<queue::Arguments> {
    let mut given = Given::read(given, &["server", "data", "redis", "nats"], &["quick"])?;
    given.no_words()?;
    Ok(queue::Arguments {
        server: given.server()?,
        data: given.path("data").unwrap_or_else(|| PathBuf::from("target/bench")),
        quick: given.flag("quick"),
        redis: given.path("redis"),
        nats: given.path("nats"),
    })
}

#[cfg(test)]
mod tests {
    use super::{Command, Size, read};

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split(' ').map(str::to_owned)
    }

    #[test]
    fn commands_are_told_apart() {
        let compare = |line: &str| match read(words(line)) {
            Ok(Command::Compare { arguments, hello, work }) => Some((arguments.size, hello, work)),
            _ => None,
        };
        let all = Some((Size::Smoke, true, Some(Vec::new())));
        assert_eq!(compare("--server wambda --smoke"), all);
        assert_eq!(compare("hello --server wambda"), Some((Size::Full, true, None)));
        let some = Some((Size::Quick, false, Some(vec!["density".to_owned()])));
        assert_eq!(compare("work density --server wambda --quick"), some);
        assert!(read(words("hello density --server wambda")).is_err());
        assert!(read(words("--server")).is_err());
        assert!(read(words("--quick")).is_err());
        assert!(matches!(read(words("queue --server a --redis b")), Ok(Command::Queue(_))));
        assert!(matches!(read(words("overload --server a")), Ok(Command::Overload(_))));
    }
}
