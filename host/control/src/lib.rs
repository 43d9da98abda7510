//! Functions, their versions and code, aliases, layers, users and roles: everything that a commit
//! changes. Knows no HTTP and no wasm.

pub mod concurrency;
pub mod directory;
pub mod doctor;
pub mod events;
pub mod functions;
pub mod groups;
pub mod layers;
pub mod managed;
pub mod mappings;
pub mod publish;
pub mod record;
#[cfg(test)]
mod refused;
pub mod session;
mod staging;
pub mod storage;
mod sweep;
pub mod table;
mod totals;

pub use directory::{Directories, Directory};
pub use events::Events;
pub use functions::{Functions, Identity, Missing, PublishError};
pub use groups::Groups;
pub use layers::Layers;
pub use mappings::Mappings;
pub use publish::{Change, Published, Upload};
pub use storage::Storage;
