//! Raising the second wall, and leaving root behind it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wambda_confine::user::Unprivileged;
use wambda_confine::{Files, Wall};

use crate::config::{Confine, Settings};

/// Makes the data directory, becomes the user that was asked for, and confines the process. The port is
/// bound and the machine's configuration read by now; no thread has been started.
///
/// # Errors
/// When the user cannot be had, or when confinement is required and cannot be had in full.
pub fn raise(settings: &Settings) -> Result<Wall> {
    raise_file_limit();
    let user =
        settings.user.as_deref().map(Unprivileged::find).transpose().map_err(|e| anyhow!(e))?;
    let data_dir = &settings.data_dir;
    let missing: Vec<&Path> = data_dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let is_empty = std::fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_none());
    if let Some(user) = &user {
        // What was made for it, and what nobody has used yet.
        for dir in missing.iter().copied().chain(is_empty.then_some(&**data_dir)) {
            user.give(dir).map_err(|e| anyhow!(e))?;
        }
        user.become_it().map_err(|e| anyhow!(e))?;
        let writable = tempfile_in(data_dir);
        writable.with_context(|| {
            format!("{} is not this user's: give it to them (chown -R)", data_dir.display())
        })?;
    } else if rustix::process::geteuid().is_root() {
        tracing::warn!(
            "running as root: say --user NAME, and it becomes that user once its port is bound"
        );
    }
    confine(settings.confine, data_dir)
}

/// Whether a file can be made in `dir`.
fn tempfile_in(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(".probe");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

/// As many open files as root allows this process: each loaded function holds one, each connection too,
/// and the limit that shells and services start with is 1,024.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn confine(wanted: Confine, data_dir: &Path) -> Result<Wall> {
    if wanted == Confine::Off {
        tracing::warn!(
            "neither Landlock nor seccomp (--confine off): WebAssembly is the only wall"
        );
        return Ok(Wall::NONE);
    }
    let program = std::env::current_exe().context("cannot find this program")?;
    let files = Files { write: &[data_dir], run: &[&program] };
    let wall = match wambda_confine::server(&files) {
        Ok(wall) => wall,
        Err(error) if wanted == Confine::Required => {
            return Err(error).context("cannot confine this process");
        }
        Err(error) => {
            tracing::warn!(%error, "cannot confine this process");
            Wall::NONE
        }
    };
    if wanted == Confine::Required && !wall.is_whole() {
        bail!(
            "--confine required: this kernel gives Landlock: {}, seccomp: {}",
            wall.landlock,
            if wall.seccomp { "yes" } else { "no" }
        );
    }
    tracing::info!(landlock = wall.landlock, seccomp = wall.seccomp, "confined");
    Ok(wall)
}
