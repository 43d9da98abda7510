//! Event components by hand: the core module under the contract is written in WAT, so that it can lie
//! to the canonical ABI.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{Case, TOO_LARGE, no_memory, timeout, trap, well};

/// The core module's functions.
struct Body {
    /// Gets a pointer to the parameters, returns one to the result.
    handle: &'static str,
    /// `cabi_realloc(old, old_size, align, new_size)`.
    realloc: &'static str,
    /// What the host calls after it has read the result.
    post: Option<&'static str>,
    definitions: &'static str,
}

/// A bump allocator.
const BUMP: &str = "(local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get 3) (i32.const 16))))))
      unreachable)
    (local.get $at)";

const GOOD: Body = Body {
    handle: "(i32.store8 (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 0))
             (i32.store (i32.const 72) (i32.const 4)) (i32.const 64)",
    realloc: BUMP,
    post: None,
    definitions: "(data (i32.const 0) \"good\")",
};

fn component(body: &Body) -> Vec<u8> {
    const NAME: &str = "wambda:function/event-handler@0.1.0#handle";
    let Body { handle, realloc, post, definitions } = body;
    let post = post
        .map(|post| format!("(func (export \"cabi_post_{NAME}\") (param i32) {post})"))
        .unwrap_or_default();
    let text = format!(
        "(module (memory (export \"memory\") 2) (global $next (mut i32) (i32.const 65536)) {definitions}
          (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {realloc})
          (func (export \"{NAME}\") (param i32) (result i32) {handle}) {post})"
    );
    let mut module = wambda_tests::wat(&text);
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wambda_tests::root().join("guest-sdk/wit")).unwrap();
    let world = resolve.select_world(&[package], Some("handler")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

fn handles(handle: &'static str) -> Vec<u8> {
    component(&Body { handle, ..GOOD })
}

fn allocates(realloc: &'static str) -> Vec<u8> {
    component(&Body { realloc, ..GOOD })
}

fn afterwards(post: &'static str) -> Vec<u8> {
    component(&Body { post: Some(post), ..GOOD })
}

/// A component of `wasi:cli/run` with this many instances of a core module.
fn crowd(instances: usize, memory: &str) -> String {
    let one = "(core instance (instantiate $m))";
    format!(
        "(component (core module $m {memory} (func (export \"run\") (result i32) (i32.const 0)))
          {} (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i \"run\")))
          (instance $r (export \"run\" (func $run)))
          (export \"wasi:cli/run@0.2.0\" (instance $r)))",
        one.repeat(instances - 1)
    )
}

pub(super) fn cases() -> Vec<Case> {
    const INVALID: &str = "";
    vec![
        well("a component by hand", component(&GOOD), "good"),
        trap("a discriminant that is none", handles("(i32.store8 (i32.const 64) (i32.const 7)) (i32.const 64)"), "discriminant"),
        trap("a result pointer out of bounds", handles("(i32.const -8)"), INVALID),
        trap("a result pointer that is not aligned", handles("(i32.const 65)"), "align"),
        trap("a list out of bounds", handles("(i32.store (i32.const 68) (i32.const -16)) (i32.store (i32.const 72) (i32.const 32))
           (i32.const 64)"), INVALID),
        trap("a list of four gigabytes", handles("(i32.store (i32.const 68) (i32.const 0)) (i32.store (i32.const 72) (i32.const -1))
           (i32.const 64)"), INVALID),
        trap("an error type out of bounds", handles("(i32.store8 (i32.const 64) (i32.const 1)) (i32.store (i32.const 68) (i32.const -9))
           (i32.store (i32.const 72) (i32.const 20)) (i32.const 64)"), INVALID),
        trap("an error type that is not UTF-8", component(&Body {
            handle: "(i32.store8 (i32.const 64) (i32.const 1)) (i32.store (i32.const 68) (i32.const 0)) (i32.store (i32.const 72)
               (i32.const 3)) (i32.const 64)",
            definitions: "(data (i32.const 0) \"\\ff\\ff\\ff\")", ..GOOD }), "utf-8"),
        trap("a stack trace out of bounds", handles("(i32.store8 (i32.const 64) (i32.const 1))
            (i32.store (i32.const 84) (i32.const 128)) (i32.store (i32.const 88) (i32.const 0x10000000)) (i32.const 64)"), INVALID),
        // 8,000 frames that are all the same 64 KB: 500 MB for the host, were it to copy them.
        Case { error: TOO_LARGE, ..trap("a stack trace that repeats itself", component(&Body {
            handle: "(local $at i32) (local.set $at (i32.const 66000))
                (loop $l (i32.store (local.get $at) (i32.const 0)) (i32.store offset=4 (local.get $at) (i32.const 65000))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $l (i32.lt_u (local.get $at) (i32.const 130000))))
                (i32.store8 (i32.const 65100) (i32.const 1))
                (i32.store (i32.const 65120) (i32.const 66000)) (i32.store (i32.const 65124) (i32.const 8000)) (i32.const 65100)",
            definitions: "", ..GOOD }), "6291556") }.large(),
        trap("realloc that traps", allocates("unreachable"), "unreachable"),
        timeout("realloc that loops", allocates("(loop $l (br $l)) (i32.const 0)")),
        trap("realloc that answers out of bounds", allocates("(i32.const -8)"), INVALID),
        trap("realloc that is not aligned", allocates("(i32.const 65537)"), "align"),
        well("realloc that answers with the same place", allocates("(i32.const 66000)"), "good"),
        trap("realloc that recurses", component(&Body { definitions: "(func $r (call $r))", realloc: "(call $r)
           (i32.const 0)", ..GOOD }), "call stack exhausted"),
        no_memory("realloc that grows", allocates("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16))
           (i32.const -1)))) unreachable"), "memory=16&timeout=5"),
        trap("afterwards a trap", afterwards("unreachable"), "unreachable"),
        timeout("afterwards a loop", afterwards("(loop $l (br $l))")),
        timeout("a start function that loops", component(&Body { definitions: "(func $s (loop $l (br $l))) (start $s)", ..GOOD })),
        trap("a start function that traps in a component", component(&Body { definitions: "(func $s unreachable)
           (start $s)", ..GOOD }), "unreachable"),
        super::refused("nine hundred instances", crowd(900, ""), "instance"),
        super::refused("sixty memories", crowd(60, "(memory 1)"), "memor"),
        super::refused("sixty instances with tables", crowd(60, "(table 1 funcref)"), "table"),
        well("sixty instances", crowd(60, ""), ""),
        no_memory("memories that are too large together", crowd(8, "(memory 100)"), ""),
    ]
}
