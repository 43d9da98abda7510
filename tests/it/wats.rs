//! Guests as text: core modules with the entry points of the kind `core`.

/// A core module whose `wambda_handle` has this body; its parameters are `$at` and `$len`.
pub fn core(body: &str) -> String {
    core_with("(memory (export \"memory\") 1)", body)
}

/// The same with memories and other definitions of its own.
pub fn core_with(definitions: &str, body: &str) -> String {
    format!(
        "(module {definitions}
          (func (export \"wambda_alloc\") (param $len i32) (result i32) (i32.const 1024))
          (func (export \"wambda_handle\") (param $at i32) (param $len i32) (result i64) {body}))"
    )
}

/// Answers with its event.
pub fn echo() -> String {
    core(
        "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
                 (i64.extend_i32_u (local.get $len)))",
    )
}

/// Answers with how often this instance was asked, as one digit.
pub fn counter() -> String {
    core_with(
        "(memory (export \"memory\") 1) (global $n (mut i32) (i32.const 48))",
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))
         (i32.store8 (i32.const 0) (global.get $n))
         (i64.const 1)",
    )
}

/// Never ends.
pub fn spin() -> String {
    core("(loop $l (br $l)) (i64.const 0)")
}

/// Grows its memory a page at a time for as long as it may, and answers with nothing.
pub fn grow() -> String {
    core("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)")
}
