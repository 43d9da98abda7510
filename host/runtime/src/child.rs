//! The compiling child: `wambda compile`. Limits itself before it reads a byte, compiles on one
//! thread at the lowest priority, writes the artifact to a file that the server authenticates.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wambda_model::limits::{COMPILE_ADDRESS_BYTES, COMPILE_CPU_SECONDS};
use wasmparser::{Encoding, Parser, Payload};

use crate::engine::{EngineKind, compatibility, compiling_engine};

/// The exit code when the machine and not the code is at fault.
pub const EXIT_MACHINE: u8 = 3;

/// Why there is no artifact.
#[derive(Debug)]
pub enum Failed {
    /// The code does not compile.
    Code(String),
    /// The machine did not let it.
    Machine(String),
}

/// What the child may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// CPU time in seconds.
    pub cpu_seconds: u64,
    /// Address space in bytes.
    pub address_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_seconds: COMPILE_CPU_SECONDS, address_bytes: COMPILE_ADDRESS_BYTES }
    }
}

/// Compiles `input` for the engine of that kind into `output`. Returns the engine's compatibility,
/// which the server compares with its own.
///
/// # Errors
/// A text for the uploader.
pub fn compile(
    kind: EngineKind,
    limits: &Limits,
    input: &Path,
    output: &Path,
) -> Result<String, Failed> {
    let machine = |what: String| Failed::Machine(what);
    limit_self(limits).map_err(machine)?;
    let wasm = std::fs::read(input).map_err(|e| machine(format!("cannot read the upload: {e}")))?;
    let mut file =
        File::create(output).map_err(|e| machine(format!("cannot make the artifact: {e}")))?;
    // All that it needs of the machine it has. What the kernel lacks, the server has told.
    wambda_confine::compiler().map_err(|e| machine(format!("cannot confine the compiler: {e}")))?;
    let engine =
        compiling_engine(kind).map_err(|e| machine(format!("cannot make the engine: {e}")))?;
    let first = Parser::new(0).parse_all(&wasm).next();
    let is_component =
        matches!(first, Some(Ok(Payload::Version { encoding: Encoding::Component, .. })));
    let compiled = if is_component {
        engine.precompile_component(&wasm)
    } else {
        engine.precompile_module(&wasm)
    };
    let artifact = compiled.map_err(|e| Failed::Code(format!("{e:#}")))?;
    file.write_all(&artifact).map_err(|e| machine(format!("cannot write the artifact: {e}")))?;
    Ok(compatibility(&engine))
}

fn limit_self(limits: &Limits) -> Result<(), String> {
    // A little above, so that the signal tells which limit it was; never above what there is already.
    let limit = |resource, value: u64, slack: u64| {
        let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let both =
            Rlimit { current: Some(value.min(hard)), maximum: Some((value + slack).min(hard)) };
        setrlimit(resource, both).map_err(|e| format!("cannot limit the compiler: {e}"))
    };
    limit(Resource::Cpu, limits.cpu_seconds, 5)?;
    limit(Resource::As, limits.address_bytes, 5)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Nofile, 64, 0)?;
    rustix::process::nice(19).map_err(|e| format!("cannot lower the priority: {e}"))?;
    Ok(())
}
