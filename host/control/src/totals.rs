//! What all functions take together, kept in step with every change of one: publishing costs the same however many
//! functions there are.

use std::collections::HashMap;
use std::sync::Arc;

use wambda_model::{Digest, Function, Version};

/// Sums over all functions.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Invocations at once that functions have reserved or provisioned.
    reserved: u64,
    /// Code and uploads: how many versions have each, and its bytes.
    code: HashMap<Digest, (u32, u64)>,
    bytes: u64,
}

/// The bytes that a version has in the store.
fn kept(version: &Arc<Version>) -> [(Digest, u64); 2] {
    [(version.digest, version.code_bytes), (version.upload, version.upload_bytes)]
}

/// Instances that each version of a function has provisioned, by the version's number in this process.
pub(crate) fn provisioned(function: &Function) -> HashMap<u64, u32> {
    let mut kept: HashMap<u64, u32> = HashMap::new();
    for (qualifier, provisioned) in &function.details.provisioned {
        if let Some(target) = function.resolve(qualifier, || 1.0) {
            let kept = kept.entry(target.version.uid).or_default();
            *kept = kept.saturating_add(provisioned.count);
        }
    }
    kept
}

/// What a function has for itself of the account's concurrency: reserved, or else provisioned.
pub(crate) fn reserved(function: &Function) -> u64 {
    let provisioned = || sum(&provisioned(function));
    u64::from(function.details.reserved.unwrap_or_else(provisioned))
}

/// The instances of all versions.
pub(crate) fn sum(provisioned: &HashMap<u64, u32>) -> u32 {
    provisioned.values().fold(0, |sum, count| sum.saturating_add(*count))
}

impl Totals {
    /// A function is there.
    pub(crate) fn add(&mut self, function: &Function) {
        self.reserved += reserved(function);
        for (digest, bytes) in function.all_versions().flat_map(kept) {
            let (count, _) = self.code.entry(digest).or_insert((0, bytes));
            if *count == 0 {
                self.bytes += bytes;
            }
            *count += 1;
        }
    }

    /// A function that was added is not there any more, or not as it was.
    pub(crate) fn remove(&mut self, function: &Function) {
        self.reserved -= reserved(function);
        for (digest, _) in function.all_versions().flat_map(kept) {
            let Some((count, bytes)) = self.code.get_mut(&digest) else { continue };
            *count -= 1;
            if *count == 0 {
                self.bytes -= *bytes;
                self.code.remove(&digest);
            }
        }
    }

    /// Invocations at once that functions have for themselves.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Bytes of all code and uploads, each counted once.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a version has this code or upload.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.code.contains_key(digest)
    }
}
