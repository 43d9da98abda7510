//! Ways in for fuzzing, to what reads the answers of guests. Nobody else needs them.

use std::sync::LazyLock;

use bytes::Bytes;
use http::response::Parts;
use http_body_util::{BodyExt, Empty};
use wasmparser::WasmFeatures;

/// Whether an upload is one of the kinds, as the server's engines would see it.
#[must_use]
pub fn is_function(wasm: Bytes) -> bool {
    static FEATURES: LazyLock<Option<WasmFeatures>> =
        LazyLock::new(|| crate::engine::features().ok());
    FEATURES.is_some_and(|features| crate::detect::inspect(wasm, features, true).is_ok())
}

/// The result that a core handler's `ptr << 32 | len` names, within a payload limit.
#[must_use]
pub fn core_answer(memory: &[u8], packed: u64, limit: u64) -> Option<Bytes> {
    crate::call::core_answer(memory, packed, limit).ok()?.ok()
}

/// The head of a response as it would go onto the wire.
#[must_use]
pub fn tidy(head: &Parts) -> Option<Parts> {
    let body = Empty::new().map_err(|never: std::convert::Infallible| match never {});
    let response = http::Response::from_parts(head.clone(), body.boxed_unsync());
    crate::http::tidy(response).ok().map(|response| response.into_parts().0)
}
