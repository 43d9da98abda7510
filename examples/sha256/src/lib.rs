//! A core module: bytes in, digest out, nothing between.

use sha2::{Digest, Sha256};

wambda::core_handler!(|event: Vec<u8>| -> Result<Vec<u8>, String> {
    let digest = Sha256::digest(&event);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes())
});
