//! `cargo xtask readme`: types the README's console blocks, in their order, in an empty directory, against the program
//! that was built, with default flags; what they show must be what the README shows.
//!
//! A line that begins with `$ ` is typed, together with the lines that continue it (an open quote, or a `\` at its end).
//! What follows is what it prints: `…` stands for any text, on a line of its own for any lines. A command that shows
//! nothing may print anything. `wambda serve` goes on until the end; what it shows is its first line. `ID` stands for the
//! id in the last answer. A block behind `<!-- not typed: why -->` is left out.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::sh::{root, step};

/// What is typed, and what it shows.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    line: usize,
    command: String,
    shown: Vec<String>,
}

/// Types the README with this Python's folder of programs, in which the aws CLI is.
pub(crate) fn run(python: &str) -> Result<()> {
    step("the README, typed");
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let typed = commands(&readme);
    ensure!(typed.len() >= 10, "only {} commands were found in README.md", typed.len());
    let place = Place::new(Path::new(python))?;
    let mut session = Session { place, servers: Vec::new(), settings: Vec::new(), id: None };
    for typed in &typed {
        let seen = session.act(typed).with_context(|| format!("README.md:{}", typed.line))?;
        let fits = typed.shown.is_empty() || fits(&typed.shown, &seen);
        ensure!(
            fits,
            "README.md:{}: {}\nshows\n{}\nand not\n{}",
            typed.line,
            typed.command,
            seen.join("\n"),
            typed.shown.join("\n"),
        );
    }
    eprintln!("{} commands show what they should", typed.len());
    Ok(())
}

/// The commands of the blocks that are typed.
fn commands(readme: &str) -> Vec<Typed> {
    let mut found: Vec<Typed> = Vec::new();
    let (mut inside, mut left_out, mut open) = (false, false, false);
    for (number, line) in readme.lines().enumerate() {
        if !inside {
            inside = line == "```console";
            if !line.is_empty() && !inside {
                left_out = line.starts_with("<!-- not typed:");
            }
            continue;
        }
        if line == "```" {
            (inside, left_out, open) = (false, false, false);
        } else if left_out {
        } else if let (true, Some(last)) = (open, found.last_mut()) {
            last.command.push('\n');
            last.command.push_str(line);
            open = is_open(&last.command);
        } else if let Some(command) = line.strip_prefix("$ ") {
            open = is_open(command);
            let command = command.to_owned();
            found.push(Typed { line: number + 1, command, shown: Vec::new() });
        } else if let Some(last) = found.last_mut() {
            last.shown.push(line.to_owned());
        }
    }
    found
}

/// Whether a shell waits for more.
fn is_open(command: &str) -> bool {
    command.ends_with('\\') || command.matches('\'').count() % 2 == 1
}

/// Whether these lines are what is shown.
fn fits(shown: &[String], seen: &[String]) -> bool {
    match shown.split_first() {
        None => seen.is_empty(),
        Some((first, rest)) if first == "…" => (0..=seen.len()).any(|at| fits(rest, &seen[at..])),
        Some((first, rest)) => seen
            .split_first()
            .is_some_and(|(line, after)| line_fits(first, line) && fits(rest, after)),
    }
}

fn line_fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// An empty directory, and one with the programs that a user has.
struct Place {
    empty: PathBuf,
    programs: PathBuf,
}

impl Place {
    fn new(python: &Path) -> Result<Self> {
        let all = root().join("target/readme");
        let _ = std::fs::remove_dir_all(&all);
        let place = Self { empty: all.join("empty"), programs: all.join("programs") };
        std::fs::create_dir_all(&place.empty)?;
        std::fs::create_dir_all(&place.programs)?;
        symlink(root().join("target/debug/wambda"), place.programs.join("wambda"))?;
        let aws = python.parent().context("no folder")?.join("aws");
        symlink(aws, place.programs.join("aws"))?;
        Ok(place)
    }

    fn bash(&self, settings: &[String], script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{}\n{script}", settings.join("\n"))]);
        command.current_dir(&self.empty).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            // What the machine says about its own AWS or servers is not the README's.
            let name = name.to_string_lossy();
            if name.starts_with("AWS_") || name.starts_with("WAMBDA_") || name.ends_with("_proxy") {
                command.env_remove(&*name);
            }
        }
        command.env("PATH", format!("{}:{path}", self.programs.display()));
        command.env("GUESTS", root().join("examples/target/wasm32-wasip2/release"));
        command
    }
}

struct Session {
    place: Place,
    servers: Vec<Child>,
    /// `export …`, for what comes later.
    settings: Vec<String>,
    id: Option<String>,
}

impl Session {
    /// Does what a line says; what it prints.
    fn act(&mut self, typed: &Typed) -> Result<Vec<String>> {
        let mut command = typed.command.clone();
        if command.starts_with("export ") {
            self.settings.push(command);
            return Ok(Vec::new());
        }
        if command.starts_with("wambda serve") {
            let mut child = self.place.bash(&self.settings, &format!("exec {command}"));
            let mut child = child.stdout(Stdio::piped()).spawn()?;
            let out = child.stdout.take().context("no output")?;
            self.servers.push(child);
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line)?;
            return Ok(vec![line.trim_end().to_owned()]);
        }
        if let Some(id) = &self.id {
            command = command
                .split(' ')
                .map(|word| if word == "ID" { id } else { word })
                .collect::<Vec<_>>()
                .join(" ");
        }
        let output = self.place.bash(&self.settings, &command).stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{command}\nends with {}: {said}{complaints}", output.status);
        }
        if let Some((_, rest)) = said.split_once("{\"id\":\"") {
            self.id = rest.split('"').next().map(str::to_owned);
        }
        Ok(said.lines().map(str::to_owned).collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_are_typed() {
        let text = "x\n```console\n$ one 'a\n b'\nshown\n$ two \\\n  more\n```\n\n\
            <!-- not typed: x -->\n```console\n$ three\n```\n\ntext\n```console\n$ four\n```\n";
        let found = commands(text);
        let typed: Vec<_> = found.iter().map(|typed| typed.command.as_str()).collect();
        assert_eq!(typed, ["one 'a\n b'", "two \\\n  more", "four"]);
        assert_eq!(found[0].shown, ["shown"]);
    }

    #[test]
    fn what_is_shown_is_compared() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (shown, seen, same) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a…c", "abc", true),
            ("a…c", "ab", false),
            ("…\nb", "x\ny\nb", true),
            ("…\nb\n…", "b", true),
            ("…\nb", "x\ny", false),
            ("a", "a\nb", false),
            ("{\"id\":\"…\"}", "{\"id\":\"7\"}", true),
        ] {
            assert_eq!(fits(&lines(shown), &lines(seen)), same, "{shown:?} {seen:?}");
        }
    }
}
