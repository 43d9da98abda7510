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

/// One that takes this many seconds or so to compile, in a build without optimisation; another one for each `n`.
/// Its numbers have no pattern, which a zip would make small.
pub fn laborious(functions: usize, n: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut store = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!(
            "(i32.store (i32.const {state}) (i32.add (i32.load (i32.const 4)) (local.get $at)))"
        )
    };
    let many: String = (0..functions)
        .map(|_| {
            format!("(func (param $at i32) {})", (0..9_000).map(|_| store()).collect::<String>())
        })
        .collect();
    let definitions = format!("(memory (export \"memory\") 1) {many}");
    wambda_tests::wat(&core_with(&definitions, &format!("(i64.const {n})")))
}
