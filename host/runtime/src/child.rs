//! The child that handles strangers' bytes: `wambda inspect` and `wambda compile`. Limits itself before it reads a
//! byte, works on one thread at the lowest priority, writes its result to a file; artifacts are authenticated by the
//! server.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use wambda_confine::Wall;
use wambda_model::limits::{COMPILE_ADDRESS_BYTES, COMPILE_CPU_SECONDS, COMPILE_WALL_DEFAULT};
use wambda_model::{BuildError, Digest, Inspection, Kind};
use wasmparser::{Encoding, Parser, Payload};

use crate::engine::{EngineKind, compatibility, compiling_engine, features};

/// The exit code when the machine and not the code is at fault.
pub const EXIT_MACHINE: u8 = 3;

/// The exit code when the upload is too large.
pub const EXIT_LARGE: u8 = 4;

/// The exit code when the disk is full.
pub const EXIT_FULL: u8 = 5;

/// What the child may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// CPU time in seconds.
    pub cpu_seconds: u64,
    /// Address space in bytes.
    pub address_bytes: u64,
    /// Time by the clock, which the server watches.
    pub time: Duration,
    /// The least wall to work behind: what the server itself has.
    pub wall: Wall,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_seconds: COMPILE_CPU_SECONDS,
            address_bytes: COMPILE_ADDRESS_BYTES,
            time: COMPILE_WALL_DEFAULT,
            wall: Wall::NONE,
        }
    }
}

/// What an upload is, without its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whether the wasm is the upload as it came; otherwise it is in the output.
    pub is_upload: bool,
    kind: Kind,
    component: bool,
    wasi03: bool,
    imports: Vec<String>,
    memory_min_bytes: u64,
}

impl Summary {
    fn new(found: &Inspection, is_upload: bool) -> Self {
        let Inspection { kind, component, wasi03, memory_min_bytes, .. } = *found;
        let imports = found.imports.clone();
        Self { is_upload, kind, component, wasi03, imports, memory_min_bytes }
    }

    fn write(&self) -> String {
        let Self { is_upload, kind, component, wasi03, imports, memory_min_bytes } = self;
        json!([is_upload, kind, component, wasi03, imports, memory_min_bytes]).to_string()
    }

    /// As the child has written it.
    ///
    /// # Errors
    /// When it has not, or not all of it.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let (is_upload, kind, component, wasi03, imports, memory_min_bytes) =
            serde_json::from_str(text)?;
        Ok(Self { is_upload, kind, component, wasi03, imports, memory_min_bytes })
    }

    /// With the bytes.
    #[must_use]
    pub fn of(self, digest: Digest, wasm: Bytes) -> Inspection {
        let Self { kind, component, wasi03, imports, memory_min_bytes, .. } = self;
        Inspection { wasm, digest, kind, component, wasi03, imports, memory_min_bytes }
    }
}

/// Opens both files, and keeps the process from anything but its work.
fn begin(limits: &Limits, input: &Path, output: &Path) -> Result<(Vec<u8>, File), BuildError> {
    let machine = |what: String| BuildError::Internal(what);
    limit_self(limits).map_err(machine)?;
    let bytes =
        std::fs::read(input).map_err(|e| machine(format!("cannot read the upload: {e}")))?;
    let file = File::create(output);
    let file = file.map_err(|e| BuildError::machine("cannot make the result", &e))?;
    // All that it needs of the machine it has. What the kernel lacks, the server has told.
    let wall = wambda_confine::compiler();
    let wall = wall.map_err(|e| machine(format!("cannot confine the compiler: {e}")))?;
    if !wall.is_at_least(limits.wall) {
        let wanted = limits.wall;
        return Err(machine(format!(
            "the compiler is confined by {wall:?}, the server by {wanted:?}"
        )));
    }
    Ok((bytes, file))
}

/// Checks that the zip in `input` can be unpacked as a layer. Nothing is written to `output`.
///
/// # Errors
/// A text for the uploader.
pub fn check_layer(limits: &Limits, input: &Path, output: &Path) -> Result<String, BuildError> {
    let (zip, _) = begin(limits, input, output)?;
    crate::layer::check(&Bytes::from(zip))?;
    Ok(String::new())
}

/// Unpacks `input` into `output`, if it is not plain wasm, and says what it is.
///
/// # Errors
/// A text for the uploader.
pub fn inspect(
    limits: &Limits,
    wasi03: bool,
    input: &Path,
    output: &Path,
) -> Result<String, BuildError> {
    let (upload, mut file) = begin(limits, input, output)?;
    let machine = |what: String| BuildError::Internal(what);
    let features = features().map_err(|e| machine(format!("cannot make the engine: {e}")))?;
    let upload = Bytes::from(upload);
    let wasm = crate::upload::unpack(upload.clone())?;
    let found = crate::detect::inspect(wasm, features, wasi03).map_err(BuildError::Invalid)?;
    let is_upload = found.wasm == upload;
    if !is_upload {
        let written = file.write_all(&found.wasm);
        written.map_err(|e| BuildError::machine("cannot write what is in the upload", &e))?;
    }
    Ok(Summary::new(&found, is_upload).write())
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
) -> Result<String, BuildError> {
    let (wasm, mut file) = begin(limits, input, output)?;
    let machine = |what: String| BuildError::Internal(what);
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
    let artifact = compiled.map_err(|e| BuildError::Invalid(format!("{e:#}")))?;
    let written = file.write_all(&artifact);
    written.map_err(|e| BuildError::machine("cannot write the artifact", &e))?;
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
