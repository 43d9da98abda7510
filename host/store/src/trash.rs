//! The trash of a data directory: what the server took for unused at a start, kept for a week under the
//! day it was taken. Moving a file back from `trash/DAY/…` to its place undoes it.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use wambda_model::limits::TRASH_DAYS;

/// The directory's name in the data directory.
pub const TRASH: &str = "trash";

/// A trash.
#[derive(Debug, Clone)]
pub struct Trash(PathBuf);

fn day(unix_ms: u64) -> Date {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date()
}

impl Trash {
    /// Of a data directory. It is made when something comes into it.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join(TRASH))
    }

    /// Takes a file in, as `name` of that day.
    ///
    /// # Errors
    /// When it cannot be moved; it is where it was then.
    pub fn take(&self, file: &Path, name: &str, now_ms: u64) -> io::Result<()> {
        let to = self.0.join(day(now_ms).to_string()).join(name);
        if let Some(parent) = to.parent() {
            crate::home::private_dir(parent)?;
        }
        std::fs::rename(file, to)
    }

    /// Removes the days that are over. What is not named as a day is not touched.
    ///
    /// # Errors
    /// When the trash cannot be read.
    pub fn empty(&self, now_ms: u64) -> io::Result<()> {
        let today = day(now_ms);
        for (date, path) in self.days()? {
            let age = today.since(date).map_or(0, |age| age.get_days());
            if age <= TRASH_DAYS || !path.is_dir() {
                continue;
            }
            // One that cannot be removed does not keep the others.
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "emptied"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be emptied"),
            }
        }
        Ok(())
    }

    fn days(&self) -> io::Result<Vec<(Date, PathBuf)>> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut days = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(Ok(date)) = entry.file_name().to_str().map(Date::from_str) {
                days.push((date, entry.path()));
            }
        }
        Ok(days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn what_is_thrown_away_is_there_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let (trash, file) = (Trash::of(dir.path()), dir.path().join("f"));
        std::fs::write(&file, "x").unwrap();
        trash.empty(0).unwrap();
        trash.take(&file, "blobs/code/f", 20_000 * DAY_MS).unwrap();
        let there = dir.path().join("trash/2024-10-04/blobs/code/f");
        assert!(there.exists() && !file.exists());
        // A name that is no day stays, whatever it is.
        std::fs::write(dir.path().join("trash/notes"), "x").unwrap();
        std::fs::write(dir.path().join("trash/2020-01-01"), "x").unwrap();
        trash.empty((20_000 + TRASH_DAYS as u64) * DAY_MS).unwrap();
        assert!(there.exists());
        trash.empty((20_001 + TRASH_DAYS as u64) * DAY_MS).unwrap();
        assert!(!there.exists() && dir.path().join("trash/notes").exists());
    }
}
