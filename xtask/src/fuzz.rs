//! `cargo xtask fuzz`: libFuzzer on what reads strangers' bytes. Needs a nightly toolchain and cargo-fuzz, and
//! says so where they are missing. What it finds belongs into `tests/fuzz/seeds`, where the ordinary tests
//! run it for ever.

use anyhow::{Result, bail};

use crate::sh::{cargo, output, root, run as go, step};

/// Seconds for each target of `--smoke`.
const SMOKE_SECONDS: u32 = 60;

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (targets, seconds) = match arguments {
        [DESYNC] => return desync(SMOKE_SECONDS),
        [DESYNC, seconds] => return desync(seconds.parse()?),
        ["--smoke"] => {
            desync(SMOKE_SECONDS)?;
            (targets()?, SMOKE_SECONDS)
        }
        [target] => (vec![(*target).to_owned()], 0),
        [target, seconds] => (vec![(*target).to_owned()], seconds.parse()?),
        _ => bail!(
            "cargo xtask fuzz --smoke, or TARGET [SECONDS]; targets: {DESYNC}, {}",
            targets()?.join(", ")
        ),
    };
    if output("rustup", &["run", "nightly", "rustc", "--version"]).is_none() {
        eprintln!("skipped: fuzzing needs a nightly toolchain (rustup toolchain install nightly)");
        return Ok(());
    }
    if output("cargo", &["fuzz", "--version"]).is_none() {
        step("install cargo-fuzz");
        go(&mut cargo(".", &["install", "--locked", "cargo-fuzz@0.13.2"]))?;
    }
    // The versions that are shipped.
    std::fs::copy(root().join("Cargo.lock"), root().join("tests/fuzz/Cargo.lock"))?;
    for target in targets {
        step(&format!("fuzz {target}"));
        let corpus = root().join("target/fuzz-corpus").join(&target);
        std::fs::create_dir_all(&corpus)?;
        let seeds = root().join("tests/fuzz/seeds").join(&target);
        let mut command = std::process::Command::new("rustup");
        command.current_dir(root()).args([
            "run",
            "nightly",
            "cargo",
            "fuzz",
            "run",
            "--fuzz-dir",
            "tests/fuzz",
        ]);
        command.args(["--target-dir", "target/fuzz", &target]).args([&corpus, &seeds]);
        command.args(["--", "-rss_limit_mb=4096", "-timeout=20", "-max_len=65536"]);
        if seconds > 0 {
            command.arg(format!("-max_total_time={seconds}"));
        }
        go(&mut command)?;
    }
    Ok(())
}

/// Not a target of libFuzzer: it talks HTTP to a running server, and needs no nightly toolchain.
const DESYNC: &str = "desync";

/// One hostile function and one victim on the same connection (tests/it/framing/fuzz.rs).
fn desync(seconds: u32) -> Result<()> {
    step("fuzz desync");
    crate::demo::guests()?;
    go(&mut cargo(".", &["build", "--workspace", "--all-targets", "--locked"]))?;
    let test = ["test", "--workspace", "--locked", "--test", "it", "--", "--nocapture"];
    let mut command = cargo(".", &[&test[..], &["framing::scripts_at_random"]].concat());
    go(command.env("WAMBDA_DESYNC_SECONDS", seconds.to_string()))
}

/// The targets, by their seeds.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(root().join("tests/fuzz/fuzz_targets"))?
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}
