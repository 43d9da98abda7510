//! What becomes of an event after an attempt, as Lambda has it: function errors are retried a few times
//! after fixed delays, faults of the platform with growing ones, until the event is too old. Pure.

use std::time::Duration;

use wambda_model::event::{EventSettings, History, Status};
use wambda_model::limits::LOST_MAX;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The function handled it.
    Success,
    /// The function failed, or was stopped.
    FunctionError,
    /// The platform failed, or had no room.
    Fault,
    /// The function's kind takes no such event, ever.
    Invalid,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It has ended: how, and Lambda's word for why.
    Over(Status, &'static str),
    /// It is tried again after that time.
    Retry(Duration),
}

/// What counts besides how the attempt ended.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Attempts after the first one that the function may fail at.
    pub retries: u32,
    /// Time until the event is too old.
    pub left: Duration,
    /// Uniform in `[0, 1)`: faults are retried at random times, so that not all come back at once.
    pub draw: f64,
}

/// The wait after that many faults in a row: twice as long each time, of which the second half is random.
#[must_use]
pub fn backoff(faults: u32, settings: &EventSettings, draw: f64) -> Duration {
    let [shortest, longest] = settings.backoff;
    let doubled = shortest.saturating_mul(1 << faults.saturating_sub(1).min(30));
    let whole = doubled.min(longest);
    whole.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0).max(shortest.min(longest))
}

/// Before an attempt: whether there is to be one. `history` counts those before it.
#[must_use]
pub fn admit(history: &History, facts: &Facts) -> Option<Next> {
    if facts.left.is_zero() {
        return Some(Next::Over(Status::Expired, "EventAgeExceeded"));
    }
    if history.lost >= LOST_MAX || history.failures > facts.retries {
        return Some(Next::Over(Status::Dead, "RetriesExhausted"));
    }
    None
}

/// After an attempt. `history` has counted it.
#[must_use]
pub fn judge(end: &End, history: &History, facts: &Facts, settings: &EventSettings) -> Next {
    let delay = match end {
        End::Success => return Next::Over(Status::Succeeded, "Success"),
        End::Invalid => return Next::Over(Status::Dead, "InvalidEvent"),
        End::FunctionError if history.failures > facts.retries => {
            return Next::Over(Status::Dead, "RetriesExhausted");
        }
        End::FunctionError => {
            let [first, later] = settings.retry_delays;
            if history.failures <= 1 { first } else { later }
        }
        End::Fault => backoff(history.faults, settings, facts.draw),
    };
    if delay >= facts.left {
        return Next::Over(Status::Expired, "EventAgeExceeded");
    }
    Next::Retry(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// name | end, failures, faults, retries, seconds left | wanted
    const CASES: &str = "
        success            | success  0 0 2 9999 | succeeded Success
        first-error        | error    1 0 2 9999 | retry 60
        second-error       | error    2 0 2 9999 | retry 120
        third-error        | error    3 0 2 9999 | dead RetriesExhausted
        no-retries         | error    1 0 0 9999 | dead RetriesExhausted
        one-retry          | error    1 0 1 9999 | retry 60
        one-retry-used     | error    2 0 1 9999 | dead RetriesExhausted
        too-old-to-retry   | error    1 0 2 60   | expired EventAgeExceeded
        just-young-enough  | error    1 0 2 61   | retry 60
        exhausted-and-old  | error    3 0 2 0    | dead RetriesExhausted
        success-too-late   | success  0 0 2 0    | succeeded Success
        first-fault        | fault    0 1 2 9999 | retry 1
        fourth-fault       | fault    0 4 2 9999 | retry 6
        endless-faults     | fault    2 99 2 9999 | retry 225
        fault-no-retries   | fault    0 1 0 9999 | retry 1
        fault-too-old      | fault    0 9 0 100  | expired EventAgeExceeded
        never-valid        | invalid  0 0 2 9999 | dead InvalidEvent
    ";

    #[test]
    fn after_an_attempt() {
        for case in CASES.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let parts: Vec<&str> = case.split('|').map(str::trim).collect();
            let input: Vec<&str> = parts[1].split_whitespace().collect();
            let number = |at: usize| input[at].parse::<u32>().unwrap();
            let end = match input[0] {
                "success" => End::Success,
                "error" => End::FunctionError,
                "fault" => End::Fault,
                _ => End::Invalid,
            };
            let history = History { failures: number(1), faults: number(2), ..History::default() };
            let left = Duration::from_secs(u64::from(number(4)));
            let facts = Facts { retries: number(3), left, draw: 0.5 };
            let got = match judge(&end, &history, &facts, &EventSettings::default()) {
                Next::Over(status, condition) => format!("{} {condition}", status.as_str()),
                Next::Retry(delay) => format!("retry {}", delay.as_secs()),
            };
            let wanted: Vec<&str> = parts[2].split_whitespace().collect();
            assert_eq!(got, wanted.join(" "), "{}", parts[0]);
        }
    }

    #[test]
    fn before_an_attempt() {
        let facts = Facts { retries: 2, left: Duration::from_secs(1), draw: 0.0 };
        let history = |failures, lost| History { failures, lost, ..History::default() };
        assert_eq!(admit(&history(2, LOST_MAX - 1), &facts), None);
        let dead = Some(Next::Over(Status::Dead, "RetriesExhausted"));
        assert_eq!(admit(&history(0, LOST_MAX), &facts), dead);
        // The owner has lowered the number meanwhile.
        assert_eq!(admit(&history(3, 0), &facts), dead);
        let old = Facts { left: Duration::ZERO, ..facts };
        let expired = Some(Next::Over(Status::Expired, "EventAgeExceeded"));
        assert_eq!(admit(&history(0, 0), &old), expired);
    }

    #[test]
    fn backoff_stays_within_its_bounds() {
        let settings = EventSettings::default();
        for faults in [0, 1, 5, 9, 40, u32::MAX] {
            for draw in [0.0, 0.3, 0.999, 7.0] {
                let wait = backoff(faults, &settings, draw);
                assert!(wait >= settings.backoff[0] && wait <= settings.backoff[1], "{wait:?}");
            }
        }
        assert_eq!(backoff(9, &settings, 1.0), Duration::from_secs(256));
    }
}
