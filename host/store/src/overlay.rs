//! A medium that shows a file and keeps what is written to it in memory: a database is opened, recovered
//! and verified on it, and the file stays as it is.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::StoreError;

/// A file under what would have been written to it: it is read, and locked, and never changed.
#[derive(Debug)]
pub(crate) struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    length: u64,
    /// Bytes of the file that are still to be seen: what was cut off and grown again is zero.
    visible: u64,
    /// Blocks of [`BLOCK`] bytes, by their number.
    blocks: BTreeMap<u64, Vec<u8>>,
}

const BLOCK: u64 = 4_096;

impl Overlay {
    pub(crate) fn over(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::io(path.display(), &error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let file = FileBackend::new(file).map_err(redb::Error::from)?;
        Ok(Self {
            file,
            written: Mutex::new(Written { length, visible: length, ..Written::default() }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block as it is now.
    fn block(&self, written: &Written, number: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = written.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK as usize];
        let there = written.visible.saturating_sub(number * BLOCK).min(BLOCK) as usize;
        if let Some(part) = block.get_mut(..there).filter(|part| !part.is_empty()) {
            self.file.read(number * BLOCK, part)?;
        }
        Ok(block)
    }

    /// Blocks and the parts of them that a range of bytes covers.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>, usize)> {
        let end = offset + length as u64;
        (offset / BLOCK..end.div_ceil(BLOCK)).map(move |number| {
            let from = offset.max(number * BLOCK);
            let to = end.min((number + 1) * BLOCK);
            let within = (from - number * BLOCK) as usize..(to - number * BLOCK) as usize;
            (number, within, (from - offset) as usize)
        })
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.lock();
        if offset + out.len() as u64 > written.length {
            return Err(io::Error::other("beyond the end"));
        }
        for (number, within, at) in Self::parts(offset, out.len()) {
            let block = self.block(&written, number)?;
            let part = block.get(within).unwrap_or_default();
            if let Some(out) = out.get_mut(at..at + part.len()) {
                out.copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.lock();
        written.visible = written.visible.min(length);
        written.length = length;
        written.blocks.retain(|number, _| number * BLOCK < length);
        let (last, kept) = (length / BLOCK, (length % BLOCK) as usize);
        if let Some(cut) = written.blocks.get_mut(&last).and_then(|block| block.get_mut(kept..)) {
            cut.fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.lock();
        for (number, within, at) in Self::parts(offset, data.len()) {
            let mut block = self.block(&written, number)?;
            let length = within.len();
            if let (Some(to), Some(from)) = (block.get_mut(within), data.get(at..at + length)) {
                to.copy_from_slice(from);
            }
            written.blocks.insert(number, block);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_seen_and_the_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bytes) = (dir.path().join("f"), vec![7u8; 10_000]);
        std::fs::write(&path, &bytes).unwrap();
        let overlay = Overlay::over(&path).unwrap();
        overlay.write(4_000, &[1; 5_000]).unwrap();
        let mut out = vec![0; 10_000];
        overlay.read(0, &mut out).unwrap();
        assert!(out[..4_000] == [7; 4_000] && out[4_000..9_000] == [1; 5_000]);
        assert!(out[9_000..] == [7; 1_000]);
        // What was cut off does not come back.
        overlay.set_len(5_000).unwrap();
        assert!(overlay.read(0, &mut out).is_err());
        overlay.set_len(10_000).unwrap();
        overlay.read(0, &mut out).unwrap();
        assert!(out[4_000..5_000] == [1; 1_000] && out[5_000..] == [0; 5_000]);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
