//! What a server writes to its standard error: kept for the test, and passed on to the test's own. Both within
//! bounds, because what a guest does may come to be written there.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ChildStderr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes that are kept and passed on; lines beyond that are counted.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// Longer lines are taken for several.
const LINE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Default)]
struct Kept {
    text: String,
    lines: usize,
}

/// What was said up to now.
#[derive(Debug, Clone, Default)]
pub struct Said(Arc<Mutex<Kept>>);

impl Said {
    /// Reads until the process has ended, in a thread of its own.
    pub(crate) fn listen(&self, from: ChildStderr) {
        let this = self.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            let mut next = |line: &mut Vec<u8>| {
                line.clear();
                from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)
            };
            while matches!(next(&mut line), Ok(1..)) {
                this.keep(&line);
            }
        });
    }

    fn keep(&self, line: &[u8]) {
        let mut kept = self.0.lock().unwrap();
        kept.lines += 1;
        if kept.text.len() + line.len() <= KEPT_BYTES_MAX {
            kept.text += &String::from_utf8_lossy(line);
            let _ = std::io::stderr().write_all(line);
        }
    }

    /// The first lines with this in them, once there is one.
    #[track_caller]
    pub fn find(&self, what: &str, patience: Duration) -> String {
        crate::eventually(patience, || {
            let kept = self.0.lock().unwrap();
            let found: Vec<&str> = kept.text.lines().filter(|line| line.contains(what)).collect();
            (!found.is_empty()).then(|| found.join("\n"))
        })
    }

    /// How many lines there were, those beyond what is kept too.
    pub fn lines(&self) -> usize {
        self.0.lock().unwrap().lines
    }

    /// All that is kept.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().text.clone()
    }
}
