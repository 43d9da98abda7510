//! `wambda doctor`: what of a stopped data directory is damaged, and what can be saved.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use wambda_control::doctor::{self, Report};
use wambda_runtime::artifact;
use wambda_store::damage;

use crate::show::out;

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The data directory, which no server has. Nothing in it is changed
    #[arg(long, env = "WAMBDA_DATA_DIR")]
    data_dir: PathBuf,
}

/// Exits with 0 when all is sound, and with 1 when something is damaged.
pub(crate) fn run(args: &DoctorArgs, json: bool) -> Result<ExitCode> {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // How redb meets damage, which is in the report.
        if !damage::is_redb(panic) {
            print(panic);
        }
    }));
    let dir = &args.data_dir;
    let report = doctor::examine(dir, artifact::examine(dir));
    let report = report.with_context(|| format!("cannot look at {}", dir.display()))?;
    if json {
        out(&serde_json::to_string_pretty(&report)?)?;
    } else {
        tell(&report)?;
    }
    Ok(if report.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(report: &Report) -> Result<()> {
    let Report { records, queued, blobs, damaged, artifacts, unknown, trash, .. } = report;
    for damage in damaged {
        out(&format!("damaged   {}", damage.place))?;
        out(&format!("          {}", damage.why))?;
        out(&format!("          {}", damage.rest))?;
    }
    for name in artifacts {
        out(&format!("stale     artifacts/{name}: it is compiled again at its next use"))?;
    }
    for name in unknown {
        out(&format!("unknown   {name}: it is left alone"))?;
    }
    for name in trash {
        out(&format!("trash     trash/{name}: it is removed a week after its day"))?;
    }
    let what = if damaged.is_empty() { "sound" } else { "damaged" };
    out(&format!(
        "{what}: {records} records, {queued} messages and outcomes, {blobs} blobs are whole; {} damaged",
        damaged.len()
    ))?;
    Ok(())
}
