//! Components that break the rules of calls between instances: who may leave, who may enter, and what may be
//! handed over.

use super::{Case, no_memory, timeout, trap};

/// A component of `wasi:cli/run` whose `$run` is a function without a parameter that returns a result.
fn command(definitions: &str) -> String {
    format!(
        "(component {definitions}
          (instance $r (export \"run\" (func $run)))
          (export \"wasi:cli/run@0.2.0\" (instance $r)))"
    )
}

/// One that gets a list of eight bytes from the host in `run`; these are the bodies of its `realloc` and of what is
/// called after its `run`, both of which may call `$out`, an import.
fn leaves(realloc: &str, post: &str) -> String {
    command(&format!(
        "(import \"wasi:random/random@0.2.0\" (instance $random
            (export \"get-random-bytes\" (func (param \"len\" u64) (result (list u8))))
            (export \"get-random-u64\" (func (result u64)))))
         (core func $u64 (canon lower (func $random \"get-random-u64\")))
         (core module $m
            (import \"h\" \"out\" (func $out (result i64)))
            (memory (export \"memory\") 1)
            (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) {realloc} (i32.const 1024))
            (func (export \"post\") (param i32) {post}))
         (core instance $mi (instantiate $m (with \"h\" (instance (export \"out\" (func $u64))))))
         (alias core export $mi \"memory\" (core memory $memory))
         (core func $bytes (canon lower (func $random \"get-random-bytes\")
            (memory $memory) (realloc (func $mi \"realloc\"))))
         (core module $main
            (import \"h\" \"bytes\" (func $bytes (param i64 i32)))
            (func (export \"run\") (result i32) (call $bytes (i64.const 8) (i32.const 0)) (i32.const 0)))
         (core instance $i (instantiate $main (with \"h\" (instance (export \"bytes\" (func $bytes))))))
         (func $run (result (result))
            (canon lift (core func $i \"run\") (post-return (func $mi \"post\"))))"
    ))
}

/// One within which a component calls into the one that it is a part of.
fn enters() -> String {
    command(
        "(core module $m (func (export \"f\")))
         (core instance $i (instantiate $m))
         (func $f (canon lift (core func $i \"f\")))
         (component $c
            (import \"f\" (func $f))
            (core func $out (canon lower (func $f)))
            (core module $m (import \"h\" \"f\" (func $f))
              (func (export \"run\") (result i32) (call $f) (i32.const 0)))
            (core instance $i (instantiate $m (with \"h\" (instance (export \"f\" (func $out))))))
            (func (export \"run\") (result (result)) (canon lift (core func $i \"run\"))))
         (instance $ci (instantiate $c (with \"f\" (func $f))))
         (alias export $ci \"run\" (func $run))",
    )
}

/// One component that hands another one a value of this type, of this core value.
fn hands(kind: &str, value: &str) -> String {
    command(&format!(
        "(component $a
            (core module $m (memory (export \"memory\") 1)
              (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
              (func (export \"one\") (param i32)) (func (export \"two\") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export \"f\") (param \"v\" {kind}) (canon lift (core func $i \"{}\")
              (memory (core memory $i \"memory\")) (realloc (func $i \"realloc\")))))
         (component $b
            (import \"f\" (func $f (param \"v\" {kind})))
            (core module $k (memory (export \"memory\") 1) (data (i32.const 0) \"\\ff\\ff\\ff\\ff\"))
            (core instance $ki (instantiate $k))
            (core func $out (canon lower (func $f) (memory (core memory $ki \"memory\"))))
            (core module $m (import \"h\" \"f\" (func $f (param {})))
              (func (export \"run\") (result i32) (call $f {value}) (i32.const 0)))
            (core instance $i (instantiate $m (with \"h\" (instance (export \"f\" (func $out))))))
            (func (export \"run\") (result (result)) (canon lift (core func $i \"run\"))))
         (instance $ai (instantiate $a))
         (instance $bi (instantiate $b (with \"f\" (func $ai \"f\"))))
         (alias export $bi \"run\" (func $run))",
        if value.matches("const").count() == 2 { "two" } else { "one" },
        "i32 ".repeat(value.matches("const").count()),
    ))
}

pub(super) fn cases() -> Vec<Case> {
    let character = |name: &str, value: &str| {
        trap(name, hands("char", &format!("(i32.const {value})")), "char")
    };
    vec![
        super::well("a component that stays within", leaves("", ""), ""),
        trap("leaving while it allocates", leaves("(drop (call $out))", ""), "cannot leave"),
        trap("leaving after its return", leaves("", "(drop (call $out))"), "cannot leave"),
        trap("a trap after its return", leaves("", "unreachable"), "unreachable"),
        timeout("a loop after its return", leaves("", "(loop $l (br $l))")),
        no_memory(
            "growing after its return",
            leaves(
                "",
                "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
            ),
            "memory=16&timeout=5",
        ),
        trap("entering who is being called", enters(), "cannot enter"),
        super::well("a letter", hands("char", "(i32.const 0x41)"), ""),
        character("half a letter", "0xd800"),
        character("the other half of a letter", "0xdfff"),
        character("a letter beyond all letters", "0x110000"),
        character("no letter at all", "-1"),
        trap(
            "an option of neither kind",
            hands("(option u8)", "(i32.const 2) (i32.const 0)"),
            "discriminant",
        ),
        trap("text that is none", hands("string", "(i32.const 0) (i32.const 4)"), "utf8"),
        trap("text out of bounds", hands("string", "(i32.const 65530) (i32.const 100)"), "bounds"),
        trap("text of four gigabytes", hands("string", "(i32.const 0) (i32.const -1)"), ""),
        trap(
            "a list of more than there is",
            hands("(list u64)", "(i32.const 0) (i32.const 0x20000000)"),
            "",
        ),
    ]
}
