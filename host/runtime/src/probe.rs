//! Ways in for fuzzing, to what reads the answers of guests. Nobody else needs them.

use std::path::Path;
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

/// Unpacks a layer that passes the check into a directory in `dir`, and has somebody look at it. False when it does not pass.
///
/// # Errors
/// What kept it from being unpacked although it passes.
pub fn layer(dir: &Path, zip: &Bytes, look: impl FnOnce(&Path)) -> Result<bool, String> {
    if crate::layer::check(zip).is_err() {
        return Ok(false);
    }
    let tree = crate::layer::unpack_all(dir, std::slice::from_ref(zip));
    tree.map(|tree| look(tree.path())).map_err(|error| error.to_string())?;
    Ok(true)
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
    crate::http::tidy(response, false).ok().map(|response| response.into_parts().0)
}
