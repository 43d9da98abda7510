//! A lane's permits for work that can wait: events of asynchronous invocations. They come after everybody
//! who waits in the lane or at the gate, and leave a tenth of the account's concurrency to others.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use wambda_model::{Backlog, Permit, Release};

use super::{Coming, Lane, State};
use crate::plan::need;

/// Of the account's pool, so much is not for work that can wait: one part in ten.
const HEADROOM: u32 = 10;

/// What is left to others of a gate's places.
fn headroom(state: &State, limit: u32) -> u32 {
    if state.own { 0 } else { limit / HEADROOM }
}

impl Lane {
    /// A permit for work that can wait.
    pub fn permit(self: &Arc<Self>) -> Option<Permit> {
        let now = self.clock.now();
        let mut state = self.lock();
        self.rouse(&mut state, now);
        self.move_gate(&mut state);
        if self.most() == 0 || !state.waiters.is_empty() || !self.leaves_room(&state) {
            return None;
        }
        if state.running >= self.worth(&state)
            || !self.has_room(&state)
            || !self.enter(&mut state, Coming::Tries)
        {
            return None;
        }
        state.arrivals += 1;
        self.note_arrival(&mut state, now);
        drop(state);
        Some(Permit::new(Arc::clone(self) as Arc<dyn Release>, now))
    }

    /// How many permits there are for work that can wait.
    #[must_use]
    pub fn room(&self) -> u32 {
        let state = self.lock();
        if self.most() == 0 || !state.waiters.is_empty() || !self.leaves_room(&state) {
            return 0;
        }
        let worth = self.worth(&state).min(self.most()).saturating_sub(state.running);
        let kept = self.version.provisioned.load(Relaxed).saturating_add(state.pooled);
        let gate = self.version.share.gate(state.own);
        let open = gate.limit().saturating_sub(headroom(&state, gate.limit()));
        let open = open.saturating_sub(gate.running());
        let room = worth.min(kept.saturating_sub(state.running).saturating_add(open));
        if self.has_room(&state) { room } else { 0 }
    }

    /// How many are worth running at once.
    fn worth(&self, state: &State) -> u32 {
        self.cores.max(need(&self.stats(state, 0, 0)))
    }

    /// Whether somebody else finds the gate open afterwards.
    fn leaves_room(&self, state: &State) -> bool {
        let share = &self.version.share;
        let free = self.version.provisioned.load(Relaxed).saturating_add(state.pooled);
        if state.running < free {
            return true;
        }
        let gate = share.gate(state.own);
        let open = gate.limit().saturating_sub(headroom(state, gate.limit()));
        !gate.is_awaited() && gate.running() < open
    }

    /// Takes note of what waits elsewhere.
    pub fn set_backlog(&self, backlog: Backlog) {
        let mut state = self.lock();
        if backlog.count > 0 {
            let now = self.clock.now();
            self.rouse(&mut state, now);
        }
        state.backlog = backlog;
    }
}
