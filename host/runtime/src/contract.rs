//! Host side of `guest-sdk/wit`: generated, so that host and SDK cannot disagree.

#![allow(unsafe_code, unreachable_pub, missing_debug_implementations, clippy::all)] // generated

wasmtime::component::bindgen!({
    path: "../../guest-sdk/wit",
    world: "handler",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(crate) use exports::wambda::function::event_handler::Context;
