//! A disk in memory that fails when it is told to, and forgets what was not synced when the power goes.

use std::io::{Error, Result};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::super::Backend;

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    length: u64,
    written: Vec<(u64, Vec<u8>)>,
    current: Vec<u8>,
    /// Writes and syncs until one fails; that one and `failures - 1` after it.
    countdown: Option<u64>,
    failures: u64,
    /// Writes and syncs so far.
    operations: u64,
}

/// A disk; clones are the same one.
#[derive(Debug, Default, Clone)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    pub(super) fn backend(&self) -> Backend {
        let disk = self.clone();
        Arc::new(move || Ok(Box::new(disk.clone()) as Box<dyn StorageBackend>))
    }

    /// The `nth` write or sync from now on fails, and those after it, `count` in all.
    pub(super) fn fail(&self, nth: u64, count: u64) {
        let mut platter = self.0.lock().unwrap();
        (platter.countdown, platter.failures) = (Some(nth), count);
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// A disk as it is after the power went: what was synced, and of the rest what `survives` says,
    /// the last of it torn.
    pub(super) fn after_power_loss(&self, mut survives: impl FnMut() -> bool) -> Self {
        let platter = self.0.lock().unwrap();
        let mut image = platter.synced.clone();
        let count = platter.written.len();
        for (at, (offset, data)) in platter.written.iter().enumerate() {
            if survives() {
                let torn = at + 1 == count && survives();
                let data = if torn { &data[..data.len() / 2] } else { &data[..] };
                write(&mut image, *offset, data);
            }
        }
        let length = image.len() as u64;
        let platter =
            Platter { synced: image.clone(), current: image, length, ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)))
    }
}

fn write(image: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if image.len() < to {
        image.resize(to, 0);
    }
    image[from..to].copy_from_slice(data);
}

impl Platter {
    fn step(&mut self) -> Result<()> {
        self.operations += 1;
        match self.countdown {
            Some(0) if self.failures > 0 => {
                self.failures -= 1;
                Err(Error::other("the disk fails, as it was told"))
            }
            Some(0) => {
                self.countdown = None;
                Ok(())
            }
            Some(n) => {
                self.countdown = Some(n - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().unwrap().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let platter = self.0.lock().unwrap();
        let from = offset as usize;
        let found = platter.current.get(from..from + out.len());
        out.copy_from_slice(found.ok_or_else(|| Error::other("beyond the end"))?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.step()?;
        platter.length = length;
        platter.current.resize(length as usize, 0);
        // Lengths are taken to be kept: what a file system journals.
        platter.synced.resize(length as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.step()?;
        for (offset, data) in std::mem::take(&mut platter.written) {
            write(&mut platter.synced, offset, &data);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.step()?;
        write(&mut platter.current, offset, data);
        platter.written.push((offset, data.to_vec()));
        Ok(())
    }
}
