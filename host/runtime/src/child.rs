//! The compiling child: `wambda compile`. Limits itself before it reads a byte, compiles on one
//! thread at the lowest priority, writes the artifact to a file that the server authenticates.

use std::path::Path;

use rustix::process::{Resource, Rlimit, setrlimit};
use wambda_model::limits::{COMPILE_ADDRESS_BYTES, COMPILE_CPU_SECONDS};
use wasmparser::{Encoding, Parser, Payload};

use crate::engine::{EngineKind, compatibility, compiling_engine};

/// Compiles `input` for the engine of that kind into `output`. Returns the engine's compatibility,
/// which the server compares with its own.
///
/// # Errors
/// A text for the uploader.
pub fn compile(kind: EngineKind, input: &Path, output: &Path) -> Result<String, String> {
    limit_self()?;
    let wasm = std::fs::read(input).map_err(|e| format!("cannot read the upload: {e}"))?;
    let engine = compiling_engine(kind).map_err(|e| format!("cannot make the engine: {e}"))?;
    let first = Parser::new(0).parse_all(&wasm).next();
    let is_component =
        matches!(first, Some(Ok(Payload::Version { encoding: Encoding::Component, .. })));
    let compiled = if is_component {
        engine.precompile_component(&wasm)
    } else {
        engine.precompile_module(&wasm)
    };
    let artifact = compiled.map_err(|e| format!("{e:#}"))?;
    std::fs::write(output, artifact).map_err(|e| format!("cannot write the artifact: {e}"))?;
    Ok(compatibility(&engine))
}

fn limit_self() -> Result<(), String> {
    let limit = |resource, value| {
        let both = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, both).map_err(|e| format!("cannot limit the compiler: {e}"))
    };
    limit(Resource::Cpu, COMPILE_CPU_SECONDS)?;
    limit(Resource::As, COMPILE_ADDRESS_BYTES)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 64)?;
    rustix::process::nice(19).map_err(|e| format!("cannot lower the priority: {e}"))?;
    Ok(())
}
