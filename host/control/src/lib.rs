//! Functions, their versions and code, aliases, layers, users and roles: everything that a commit
//! changes. Knows no HTTP and no wasm.

use wambda_store::StoreError;

pub mod directory;
pub mod functions;
pub mod groups;
pub mod layers;
pub mod managed;
pub mod mappings;
pub mod publish;
pub mod record;
pub mod session;
mod sweep;

pub use directory::{Directories, Directory};
pub use functions::{Functions, Identity, Missing, PublishError};
pub use groups::Groups;
pub use layers::Layers;
pub use mappings::Mappings;
pub use publish::{Change, Published, Upload};

/// Runs a commit to its end, whether or not somebody still waits for it: what is on disk and what readers
/// see must not part.
async fn to_the_end(
    commit: tokio::sync::OwnedMutexGuard<()>,
    write: impl Future<Output = Result<(), StoreError>> + Send + 'static,
) -> Result<(), StoreError> {
    let task = tokio::spawn(async move {
        let done = write.await;
        drop(commit);
        done
    });
    task.await.map_err(|lost| StoreError::Failed(lost.to_string()))?
}
