//! Who waits for the compiler: one is at it at a time, uploaders take turns, and the queue is bounded in all and
//! for each of them. Whoever uploads one thing waits for one upload of everybody else, and not for all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wambda_model::limits::{
    COMPILE_QUEUE_AGE_MAX, COMPILE_QUEUE_BYTES_MAX, COMPILE_QUEUE_EACH_BYTES_MAX,
    COMPILE_QUEUE_EACH_MAX, COMPILE_QUEUE_MAX,
};

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    busy: bool,
    /// Those who wait, by uploader; whose turn is next comes first.
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    uploader: String,
    waiting: VecDeque<Waiter>,
}

impl Line {
    fn bytes(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.bytes).sum()
    }
}

#[derive(Debug)]
struct Waiter {
    turn: oneshot::Sender<Turn>,
    /// Of its upload.
    bytes: u64,
}

/// The right to compile; the next one's when dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Turns>);

/// Why there is no place to wait, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) String);

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of `uploader`, with an upload of `bytes`.
    ///
    /// # Errors
    /// When too many wait, or for too long.
    pub(crate) async fn take(self: &Arc<Self>, uploader: &str, bytes: u64) -> Result<Turn, Full> {
        let mine = match self.line_up(uploader, bytes)? {
            Ok(turn) => return Ok(turn),
            Err(mine) => mine,
        };
        let seconds = COMPILE_QUEUE_AGE_MAX.as_secs();
        let Ok(turn) = tokio::time::timeout(COMPILE_QUEUE_AGE_MAX, mine).await else {
            return Err(Full(format!("the upload has waited {seconds} seconds for the compiler")));
        };
        turn.map_err(|_| Full("the compiler's queue is gone".to_owned()))
    }

    fn line_up(
        self: &Arc<Self>,
        uploader: &str,
        bytes: u64,
    ) -> Result<Result<Turn, oneshot::Receiver<Turn>>, Full> {
        let mut queue = self.lock();
        if !queue.busy {
            queue.busy = true;
            return Ok(Ok(Turn(Arc::clone(self))));
        }
        // Those who have gone hold no places.
        for line in &mut queue.lines {
            line.waiting.retain(|waiting| !waiting.turn.is_closed());
        }
        queue.lines.retain(|line| !line.waiting.is_empty());
        let waiting: usize = queue.lines.iter().map(|line| line.waiting.len()).sum();
        let waiting_bytes: u64 = queue.lines.iter().map(Line::bytes).sum();
        // Who has none in the queue gets in for longer: few cannot shut out the others.
        let is_new = !queue.lines.iter().any(|line| line.uploader == uploader);
        let most = if is_new { 2 * COMPILE_QUEUE_MAX } else { COMPILE_QUEUE_MAX };
        if waiting >= most {
            return Err(Full(format!("{most} uploads wait for the compiler already")));
        }
        let most = if is_new { 2 * COMPILE_QUEUE_BYTES_MAX } else { COMPILE_QUEUE_BYTES_MAX };
        if waiting > 0 && waiting_bytes + bytes > most {
            let what = format!(
                "uploads of {waiting_bytes} bytes wait for the compiler already, and may be {most} together"
            );
            return Err(Full(what));
        }
        let (turn, mine) = oneshot::channel();
        let waiter = Waiter { turn, bytes };
        match queue.lines.iter_mut().find(|line| line.uploader == uploader) {
            Some(line) if line.waiting.len() >= COMPILE_QUEUE_EACH_MAX => {
                let most = COMPILE_QUEUE_EACH_MAX;
                return Err(Full(format!("{most} of your uploads wait for the compiler already")));
            }
            Some(line) if line.bytes() + bytes > COMPILE_QUEUE_EACH_BYTES_MAX => {
                let (sum, most) = (line.bytes(), COMPILE_QUEUE_EACH_BYTES_MAX);
                let what = format!(
                    "{sum} bytes of yours wait for the compiler already, and may be {most}"
                );
                return Err(Full(what));
            }
            Some(line) => line.waiting.push_back(waiter),
            None => {
                let line = Line { uploader: uploader.to_owned(), waiting: [waiter].into() };
                queue.lines.push_back(line);
            }
        }
        Ok(Err(mine))
    }

    /// Whose turn is next.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut queue = self.lock();
        while let Some(mut line) = queue.lines.pop_front() {
            let next = line.waiting.pop_front();
            if !line.waiting.is_empty() {
                queue.lines.push_back(line);
            }
            if let Some(next) = next.map(|next| next.turn).filter(|turn| !turn.is_closed()) {
                return Some(next);
            }
        }
        queue.busy = false;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(next) = self.0.next() {
            // One that has gone since then drops it, and so passes it on.
            drop(next.send(Turn(Arc::clone(&self.0))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Waiting = (&'static str, oneshot::Receiver<Turn>);

    fn waits(turns: &Arc<Turns>, uploader: &'static str) -> Waiting {
        (uploader, turns.line_up(uploader, 1).unwrap().unwrap_err())
    }

    /// Who came to their turns, one after the other.
    fn order(mut turn: Option<Turn>, mut waiting: Vec<Waiting>) -> String {
        let mut order = String::new();
        while turn.take().is_some() || !waiting.is_empty() {
            let came = waiting.iter_mut().position(|(_, mine)| {
                turn = mine.try_recv().ok();
                turn.is_some()
            });
            let Some(came) = came else { break };
            order.push_str(waiting.remove(came).0);
        }
        order
    }

    #[test]
    fn uploaders_take_turns() {
        let turns = Arc::new(Turns::default());
        let first = turns.line_up("a", 1).unwrap().unwrap();
        let waiting = ["a", "a", "a", "b", "c", "b"].map(|who| waits(&turns, who));
        assert_eq!(order(Some(first), waiting.into()), "abcaba");
        assert!(turns.line_up("a", 1).unwrap().is_ok(), "nobody is at it");
    }

    #[test]
    fn the_queue_is_bounded_for_each_and_in_all() {
        let turns = Arc::new(Turns::default());
        let first = turns.line_up("a", 1).unwrap().unwrap();
        let mut waiting: Vec<_> = (0..COMPILE_QUEUE_EACH_MAX).map(|_| waits(&turns, "a")).collect();
        let full = turns.line_up("a", 1).unwrap_err();
        assert_eq!(full.0, "16 of your uploads wait for the compiler already");
        waiting.extend((COMPILE_QUEUE_EACH_MAX..COMPILE_QUEUE_MAX).map(|_| waits(&turns, "b")));
        let full = turns.line_up("b", 1).unwrap_err();
        assert_eq!(full.0, "32 uploads wait for the compiler already");
        // Others still come in, one each.
        let others = ["c", "d"].map(|who| waits(&turns, who));
        assert_eq!(turns.line_up("c", 1).unwrap_err().0, full.0);
        drop(others);
        // Who goes makes room, and is passed over.
        waiting.truncate(1);
        waiting.push(waits(&turns, "c"));
        assert_eq!(order(Some(first), waiting), "ac");
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let turns = Arc::new(Turns::default());
        let first = turns.line_up("a", 64 << 20).unwrap().unwrap();
        let mut waiting: Vec<_> = (0..2).map(|_| turns.line_up("a", 64 << 20).unwrap()).collect();
        let full = turns.line_up("a", 1).unwrap_err();
        assert!(full.0.starts_with("134217728 bytes of yours wait"), "{}", full.0);
        waiting.extend((0..2).map(|_| turns.line_up("b", 64 << 20).unwrap()));
        // Who has none there gets in for longer.
        waiting.extend(["c", "d", "e", "f"].map(|who| turns.line_up(who, 64 << 20).unwrap()));
        for who in ["c", "g"] {
            let full = turns.line_up(who, 1).unwrap_err();
            assert!(full.0.starts_with("uploads of 536870912 bytes wait"), "{}", full.0);
        }
        drop(waiting);
        assert!(turns.line_up("a", 1).is_ok());
        drop(first);
    }
}
