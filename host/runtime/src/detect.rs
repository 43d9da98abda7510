//! Says what an upload is by looking at the binary: its kind, its engine, and whether the platform
//! offers what it imports. Uses wasmparser alone; nothing is compiled.

use std::collections::HashSet;

use bytes::Bytes;
use wambda_model::{Digest, Inspection, Kind};
use wasmparser::{
    ComponentExternalKind, Encoding, ExternalKind, Parser, Payload, TypeRef, ValType, Validator,
    WasmFeatures, types::Types,
};

use crate::precheck::{self, Signatures};

/// The accepted kinds, for error messages.
const ACCEPTED: &str = "a component that exports wambda:function/event-handler@0.1, \
     wasi:http/incoming-handler@0.2, wasi:http/handler@0.3 (with --wasi03) or wasi:cli/run@0.2, \
     or a core module that exports _start, or memory with wambda_alloc(i32)->i32 and \
     wambda_handle(i32,i32)->i64";

#[derive(Debug, Default)]
struct Outline {
    component: bool,
    exports: Vec<String>,
    /// Function exports of a core module, with their index.
    functions: Vec<(String, u32)>,
    exports_memory: bool,
    imports: Vec<Import>,
    memory_min_bytes: u64,
}

#[derive(Debug, Clone)]
struct Import {
    name: String,
    offered: bool,
    why_not: &'static str,
}

/// Validates and inspects the wasm binary of an upload. `wasi03` says whether the operator allows WASI 0.3.
///
/// # Errors
/// A text for the uploader: what is wrong, what was found, and what was expected.
pub fn inspect(wasm: Bytes, features: WasmFeatures, wasi03: bool) -> Result<Inspection, String> {
    let outline = outline(&wasm)?;
    let types = Validator::new_with_features(features)
        .validate_all(&wasm)
        .map_err(|e| format!("the wasm is not valid: {} (at byte {})", e.message(), e.offset()))?;
    let kind =
        if outline.component { component_kind(&outline) } else { core_kind(&outline, &types) };
    let missing = outline.imports.iter().find(|import| !import.offered);
    let Some(kind) = kind else {
        return Err(no_kind(&outline, missing));
    };
    if let Some(import) = missing {
        let Import { name, why_not, .. } = import;
        return Err(format!(
            "this is of kind {}, but its import {name} is not offered: {why_not}",
            kind.as_str()
        ));
    }
    let is_03 = |import: &Import| version_of(&import.name).is_some_and(|v| v.starts_with("0.3."));
    let newest = kind == Kind::Http3 || outline.imports.iter().any(is_03);
    if newest && !wasi03 {
        return Err(
            "this needs WASI 0.3, which this server does not allow: start it with --wasi03"
                .to_owned(),
        );
    }
    Ok(Inspection {
        digest: Digest::of(&wasm),
        wasm,
        kind,
        wasi03: newest,
        component: outline.component,
        imports: names(outline.imports),
        memory_min_bytes: outline.memory_min_bytes,
    })
}

/// Each name once, in order; a core module may repeat an import as often as it likes.
fn names(imports: Vec<Import>) -> Vec<String> {
    let mut seen = HashSet::new();
    let names = imports.into_iter().map(|import| import.name);
    names.filter(|name| seen.insert(name.clone())).collect()
}

fn no_kind(outline: &Outline, missing: Option<&Import>) -> String {
    let what = if outline.component { "component" } else { "core module" };
    let exports = match outline.exports.as_slice() {
        [] => "nothing".to_owned(),
        names => names.join(", ").chars().take(600).collect(),
    };
    let import = missing.map_or("every import is offered".to_owned(), |i| {
        format!("the first import that nothing satisfies is {} ({})", i.name, i.why_not)
    });
    format!(
        "this {what} is of no kind that runs here: it exports {exports}; {import}; accepted is {ACCEPTED}"
    )
}

/// Walks the binary once: the outermost exports and imports, and every function body.
fn outline(wasm: &[u8]) -> Result<Outline, String> {
    let mut outline = Outline::default();
    // Of the modules and components around what is read.
    let mut around: Vec<Signatures> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| {
            format!("the wasm is damaged: {} (at byte {})", e.message(), e.offset())
        })?;
        if let Payload::Version { encoding, .. } = payload {
            if around.is_empty() {
                outline.component = encoding == Encoding::Component;
            }
            around.push(Signatures::default());
            continue;
        }
        let is_outermost = around.len() == 1;
        let Some(signatures) = around.last_mut() else { continue };
        signatures.note(&payload).map_err(|e| e.to_string())?;
        match payload {
            Payload::End(_) => drop(around.pop()),
            Payload::CodeSectionStart { count, .. } => precheck::functions(count)?,
            Payload::CodeSectionEntry(body) => precheck::body(&body, signatures.next())?,
            payload if is_outermost => note(&mut outline, payload).map_err(|e| e.to_string())?,
            _ => {}
        }
    }
    Ok(outline)
}

fn note(outline: &mut Outline, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
    match payload {
        Payload::ImportSection(section) => {
            for import in section.into_imports() {
                let import = import?;
                outline.imports.push(core_import(import.module, import.name, &import.ty));
            }
        }
        Payload::MemorySection(section) => {
            for memory in section {
                let pages = memory?.initial;
                outline.memory_min_bytes =
                    outline.memory_min_bytes.saturating_add(pages.saturating_mul(64 << 10));
            }
        }
        Payload::ExportSection(section) => {
            for export in section {
                let export = export?;
                outline.exports.push(export.name.to_owned());
                match export.kind {
                    ExternalKind::Func => {
                        outline.functions.push((export.name.to_owned(), export.index))
                    }
                    ExternalKind::Memory => outline.exports_memory |= export.name == "memory",
                    _ => {}
                }
            }
        }
        Payload::ComponentImportSection(section) => {
            for import in section {
                let import = import?;
                if !matches!(import.ty, wasmparser::ComponentTypeRef::Type(_)) {
                    outline.imports.push(component_import(import.name.name));
                }
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section {
                let export = export?;
                if matches!(
                    export.kind,
                    ComponentExternalKind::Instance | ComponentExternalKind::Func
                ) {
                    outline.exports.push(export.name.name.to_owned());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether a component export's name is that of an event handler.
fn is_event_handler(name: &str) -> bool {
    name.strip_prefix("wambda:function/event-handler@").is_some_and(|v| v.starts_with("0.1."))
}

fn component_kind(outline: &Outline) -> Option<Kind> {
    let exports = |interface: &str, track: &str| {
        let versions = outline.exports.iter().filter_map(|e| e.strip_prefix(interface));
        versions.into_iter().any(|v| v.starts_with(track) && !v.contains('-'))
    };
    if outline.exports.iter().any(|name| is_event_handler(name)) {
        Some(Kind::Event)
    } else if exports("wasi:http/handler@", "0.3.") {
        Some(Kind::Http3)
    } else if exports("wasi:http/incoming-handler@", "0.2.") {
        Some(Kind::Http)
    } else if exports("wasi:cli/run@", "0.2.") {
        Some(Kind::Command)
    } else {
        None
    }
}

fn core_kind(outline: &Outline, types: &Types) -> Option<Kind> {
    let has = |name: &str, params: &[ValType], results: &[ValType]| {
        let export = outline.functions.iter().find(|(found, _)| found == name);
        export.is_some_and(|(_, index)| {
            let types = types.as_ref();
            let sub = types.get(types.core_function_at(*index));
            let function = sub.map(|sub| sub.unwrap_func());
            function.is_some_and(|f| f.params() == params && f.results() == results)
        })
    };
    let (i32, i64) = (ValType::I32, ValType::I64);
    if outline.exports_memory
        && has("wambda_alloc", &[i32], &[i32])
        && has("wambda_handle", &[i32, i32], &[i64])
    {
        Some(Kind::Core)
    } else if has("_start", &[], &[]) {
        Some(Kind::Command)
    } else {
        None
    }
}

fn core_import(module: &str, name: &str, ty: &TypeRef) -> Import {
    let is_function = matches!(ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
    let offered = module == "wasi_snapshot_preview1" && is_function && PREVIEW1.contains(&name);
    Import {
        name: format!("{module}.{name}"),
        offered,
        why_not: "a core module may import functions of wasi_snapshot_preview1",
    }
}

fn version_of(name: &str) -> Option<&str> {
    name.rsplit_once('@').map(|(_, version)| version)
}

fn component_import(name: &str) -> Import {
    let (interface, version) = name.rsplit_once('@').unwrap_or((name, ""));
    let (offered, why_not) = if version.contains('-') {
        (false, "release candidates and drafts are refused")
    } else if version.starts_with("0.2.") {
        (WASI_02.contains(&interface), "no such interface of WASI 0.2 is offered")
    } else if version.starts_with("0.3.") {
        (WASI_03.contains(&interface), "no such interface of WASI 0.3 is offered")
    } else {
        (false, "only interfaces of WASI 0.2 and 0.3 are offered")
    };
    Import { name: name.to_owned(), offered, why_not }
}

/// Interfaces of WASI 0.2 that the linker provides.
const WASI_02: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Interfaces of WASI 0.3 that the linker of the concurrent engine provides.
const WASI_03: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/types",
];

/// Functions of WASI preview 1.
const PREVIEW1: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];
