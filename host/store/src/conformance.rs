//! The contract of the storage traits as code. Every back end runs all of it; a back end that needs
//! an exception has a bug, or the contract has.

#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)] // this is a test suite

use bytes::Bytes;

use crate::{Blobs, Expect, Records, StoreError};

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Runs every case against a store of records that holds nothing yet.
///
/// # Panics
/// When the back end breaks the contract.
pub async fn records(store: &dyn Records) {
    writes_are_read_back(store).await;
    expectations_hold(store).await;
    lists_are_ordered_and_paged(store).await;
}

async fn writes_are_read_back(store: &dyn Records) {
    assert_eq!(store.get("a/1").await.unwrap(), None);
    let first = store.put("a/1", value("x"), Expect::Any).await.unwrap();
    let second = store.put("a/1", value("y"), Expect::Any).await.unwrap();
    assert!(second > first, "revisions grow");
    let record = store.get("a/1").await.unwrap().unwrap();
    assert_eq!((record.value, record.revision), (value("y"), second));
    let other = store.put("a/2", Bytes::new(), Expect::Any).await.unwrap();
    assert!(other > second, "revisions grow over all keys");
    store.delete("a/1", Expect::Any).await.unwrap();
    store.delete("a/1", Expect::Any).await.unwrap();
    assert_eq!(store.get("a/1").await.unwrap(), None);
    store.delete("a/2", Expect::Any).await.unwrap();
}

async fn expectations_hold(store: &dyn Records) {
    let revision = store.put("b", value("1"), Expect::Absent).await.unwrap();
    let refused = store.put("b", value("2"), Expect::Absent).await;
    assert!(matches!(refused, Err(StoreError::Conflict { found: Some(r), .. }) if r == revision));
    let refused = store.put("b", value("2"), Expect::Revision(revision + 99)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    let refused = store.delete("b", Expect::Revision(revision + 99)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    assert_eq!(store.get("b").await.unwrap().unwrap().value, value("1"), "refusals change nothing");
    let next = store.put("b", value("2"), Expect::Revision(revision)).await.unwrap();
    store.delete("b", Expect::Revision(next)).await.unwrap();
    let refused = store.put("b", value("3"), Expect::Revision(next)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { found: None, .. })));
}

async fn lists_are_ordered_and_paged(store: &dyn Records) {
    for key in ["p/b", "p/a", "q/a", "p/c", "o/z", "p"] {
        store.put(key, value(key), Expect::Any).await.unwrap();
    }
    let keys = async |after: Option<&str>, limit| -> Vec<String> {
        let page = store.list("p/", after, limit).await.unwrap();
        page.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(None, 10).await, ["p/a", "p/b", "p/c"]);
    assert_eq!(keys(None, 2).await, ["p/a", "p/b"]);
    assert_eq!(keys(Some("p/b"), 2).await, ["p/c"]);
    assert_eq!(keys(Some("p/bb"), 2).await, ["p/c"]);
    assert_eq!(keys(Some("a"), 1).await, ["p/a"]);
    assert!(keys(Some("p/c"), 2).await.is_empty() && keys(None, 0).await.is_empty());
}

/// Runs every case against a store of blobs that holds nothing yet.
///
/// # Panics
/// When the back end breaks the contract.
pub async fn blobs(store: &dyn Blobs) {
    assert_eq!(store.get("code/x").await.unwrap(), None);
    let large = Bytes::from(vec![7; 3 << 20]);
    store.put("code/x", large.clone()).await.unwrap();
    assert_eq!(store.get("code/x").await.unwrap().unwrap(), large);
    store.put("code/x", value("small")).await.unwrap();
    assert_eq!(store.get("code/x").await.unwrap().unwrap(), value("small"));
    store.put("code/w", Bytes::new()).await.unwrap();
    store.put("other/y", value("y")).await.unwrap();
    assert_eq!(store.list("code").await.unwrap(), ["code/w", "code/x"]);
    assert!(store.list("none").await.unwrap().is_empty());
    store.delete("code/x").await.unwrap();
    store.delete("code/x").await.unwrap();
    assert_eq!(store.list("code").await.unwrap(), ["code/w"]);
    store.discard("code/w").await.unwrap();
    store.discard("code/w").await.unwrap();
    assert!(store.list("code").await.unwrap().is_empty());
    assert_eq!(store.get("code/w").await.unwrap(), None);
    assert!(store.put("../escape", value("x")).await.is_err(), "keys stay below the root");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trash::Trash;
    use crate::{Claim, EmbeddedRecords, MemoryRecords, ObjectBlobs};

    #[tokio::test]
    async fn memory_records() {
        records(&MemoryRecords::default()).await;
    }

    #[tokio::test]
    async fn embedded_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.redb");
        let store = EmbeddedRecords::open(&path, &Claim::alone()).unwrap();
        records(&store).await;
        let revision = store.put("kept", value("v"), Expect::Any).await.unwrap();
        drop(store);
        let store = EmbeddedRecords::open(&path, &Claim::alone()).unwrap();
        assert_eq!(store.get("kept").await.unwrap().unwrap().revision, revision);
        assert!(store.put("kept", value("w"), Expect::Any).await.unwrap() > revision);
    }

    #[tokio::test]
    async fn a_second_process_is_refused_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records.redb");
        let _first = EmbeddedRecords::open(&path, &Claim::alone()).unwrap();
        let refused = EmbeddedRecords::open(&path, &Claim::alone()).unwrap_err().to_string();
        assert!(refused.contains("another server is running"), "{refused}");
    }

    #[tokio::test]
    async fn memory_blobs() {
        blobs(&ObjectBlobs::memory()).await;
    }

    #[tokio::test]
    async fn file_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        std::fs::create_dir_all(root.join("code")).unwrap();
        let digest = "a".repeat(64);
        let staged = root.join(format!("code/{digest}#1"));
        // Not a name of ours: it is not touched.
        let other = root.join("code/notes#1");
        for path in [&staged, &other] {
            std::fs::write(path, "written by a process that was killed").unwrap();
        }
        let store = ObjectBlobs::files(&root, Trash::of(dir.path())).unwrap();
        blobs(&store).await;
        assert!(!staged.exists() && other.exists());
        let days: Vec<_> = std::fs::read_dir(dir.path().join("trash")).unwrap().flatten().collect();
        assert!(days[0].path().join("blobs/code/w").exists(), "what is discarded is in the trash");
    }
}
