//! How many instances a function wants, by Little's law plus a term that drains the queue:
//!
//! `desired = clamp(min, ceil(λ·S + Q·S/T + Qd·S/Td), max)`
//!
//! with arrival rate λ, service time S, queue length Q and target wait T; Qd and Td are those of work that
//! can wait. Up at once, down only
//! when a whole window had no need; all functions together within the memory budget. Pure: time and
//! statistics come in, numbers go out.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use wambda_model::scaling::ScaleReason;

/// Longest wait that more instances should bring about.
pub const TARGET_WAIT: Duration = Duration::from_millis(10);
/// The same for work that can wait.
pub const TARGET_WAIT_DEFERRED: Duration = Duration::from_secs(1);
/// Time without need before instances are retired.
pub const DOWN_WINDOW: Duration = Duration::from_secs(60);
/// Arrivals per second below which a function counts as idle.
pub const IDLE_RATE: f64 = 0.01;

/// Invocations of one function, for each core, that may want a core and have none: with more of them at once
/// each takes longer and none ends sooner. Fewer when they would not end within half their timeout so.
const STARVED_MAX: f64 = 8.0;
/// The same while nothing is known of them.
const STARVED_UNKNOWN: f64 = 2.0;

/// What is known of one function when the plan is made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneStats {
    /// Arrivals per second.
    pub arrival_rate: f64,
    /// Seconds that one invocation takes; none before the first has ended.
    pub service_s: Option<f64>,
    /// Invocations waiting.
    pub queued: u32,
    /// Invocations running.
    pub running: u32,
    /// How many of them come to a core, as far as that is known: with more, each takes longer.
    pub useful: u32,
    /// Work that can wait, waiting elsewhere.
    pub deferred: u32,
    /// How much of it may run at once: less than it asks for when the function mostly fails.
    pub deferred_most: u32,
    /// Whether the function's pattern says that it will be called soon.
    pub expected: bool,
    /// Instances kept in any case.
    pub min: u32,
    /// Instances allowed.
    pub max: u32,
    /// Largest need within the window.
    pub window_max: u32,
    /// Bytes that one instance is likely to hold.
    pub instance_bytes: u64,
    /// Whose lane it is: versions of a function have the same.
    pub owner: usize,
    /// Bytes that the instances of all versions of the function do hold.
    pub held_bytes: u64,
    /// Instances wanted so far.
    pub desired: u32,
}

impl LaneStats {
    /// Instances that it has whatever the others want.
    fn fixed(&self) -> u32 {
        self.min.max(self.running)
    }

    fn bytes(&self, count: u32) -> u128 {
        u128::from(self.instance_bytes) * u128::from(count)
    }
}

/// What bounds all functions together.
#[derive(Debug, Clone, Copy)]
pub struct ScaleLimits {
    /// Bytes that all instances may hold.
    pub memory_bytes: u64,
}

/// How many instances a function shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmTarget {
    /// Instances, busy ones included.
    pub desired: u32,
    /// What decided.
    pub reason: ScaleReason,
}

/// What arrivals and queue ask for now, before any limit.
#[must_use]
pub fn need(stats: &LaneStats) -> u32 {
    let Some(service) = stats.service_s else {
        // Nothing has ended yet: as many as there is work.
        // Of work that can wait, twice as much at a time.
        let deferred = stats.deferred.min(stats.deferred_most).min(stats.running.max(1));
        let all = stats.running.saturating_add(stats.queued).saturating_add(deferred);
        return all.min(stats.useful).max(stats.running);
    };
    let rate = if stats.arrival_rate < IDLE_RATE { 0.0 } else { stats.arrival_rate };
    // Zero times an endless service time is zero here.
    let times = |count: f64| if count == 0.0 { 0.0 } else { count * service };
    let drain = times(f64::from(stats.queued)) / TARGET_WAIT.as_secs_f64();
    let later = later(stats, service).min(f64::from(stats.deferred_most));
    let need = (times(rate) + drain + later).ceil();
    // The cast saturates, and a service time that is no number counts as none.
    (need as u32).min(stats.useful).max(stats.running)
}

/// How many of a function's invocations may want a core and have none before the others wait in its queue,
/// when one takes `cpu_s` of CPU time and may take `timeout`.
#[must_use]
pub fn starved_most(cores: u32, cpu_s: Option<f64>, timeout: Duration) -> u32 {
    // With n that starve beside one that runs, each takes n + 1 times its CPU time.
    let fit = |cpu: f64| timeout.as_secs_f64() / 2.0 / cpu - 1.0;
    let each = cpu_s.map_or(STARVED_UNKNOWN, fit).clamp(0.0, STARVED_MAX);
    cores.saturating_mul(each as u32)
}

/// What work that can wait asks for.
fn later(stats: &LaneStats, service: f64) -> f64 {
    if stats.deferred == 0 {
        return 0.0;
    }
    f64::from(stats.deferred) * service / TARGET_WAIT_DEFERRED.as_secs_f64()
}

/// The plan: a target for each lane, in order.
#[must_use]
pub fn plan(lanes: &[LaneStats], limits: &ScaleLimits) -> Vec<WarmTarget> {
    let mut targets: Vec<_> = lanes.iter().map(alone).collect();
    let over = |(lane, target): (&LaneStats, &WarmTarget)| {
        lane.bytes(target.desired.saturating_sub(lane.fixed()))
    };
    let extra: u128 = lanes.iter().zip(&targets).map(over).sum();
    let room = u128::from(limits.memory_bytes).saturating_sub(fixed_bytes(lanes));
    if extra > room {
        level(lanes, &mut targets, room);
    }
    targets
}

/// Bytes of those that all have whatever the others want. Those that run may be smaller than was to be expected, but
/// hold no more than they do.
fn fixed_bytes(lanes: &[LaneStats]) -> u128 {
    let mut running: HashMap<usize, (u128, u128)> = HashMap::new();
    let mut kept = 0;
    for lane in lanes {
        let (bytes, held) = running.entry(lane.owner).or_default();
        *bytes += lane.bytes(lane.running);
        *held = lane.held_bytes.into();
        kept += lane.bytes(lane.min.saturating_sub(lane.running));
    }
    running.values().map(|(bytes, held)| bytes.min(held)).sum::<u128>() + kept
}

/// Shares `room` bytes among the lanes for what they want beyond what they have in any case: max-min fair, so those that
/// want least get all of it, and no other gets more than the one that wants most. What is left is too little for an
/// instance of some, and is for the others.
fn level(lanes: &[LaneStats], targets: &mut [WarmTarget], mut room: u128) {
    let over = |lane: &LaneStats, target: &WarmTarget| target.desired.saturating_sub(lane.fixed());
    let mut order: Vec<_> = lanes.iter().zip(targets).filter(|(l, t)| over(l, t) > 0).collect();
    order.sort_by_key(|(lane, target)| lane.bytes(over(lane, target)));
    let fits = |lane: &LaneStats, bytes: u128, wanted: u32| {
        let fits = bytes.checked_div(lane.bytes(1)).unwrap_or(u128::MAX);
        u32::try_from(fits).unwrap_or(u32::MAX).min(wanted)
    };
    let mut kept = Vec::with_capacity(order.len());
    for (at, (lane, target)) in order.iter().enumerate() {
        let share = room / (order.len() - at) as u128;
        let part = fits(lane, share, over(lane, target));
        room -= lane.bytes(part);
        kept.push(part);
    }
    for ((lane, target), kept) in order.into_iter().zip(kept) {
        let wanted = over(lane, target);
        let more = fits(lane, room, wanted - kept);
        room -= lane.bytes(more);
        if kept + more < wanted {
            let desired = lane.fixed().saturating_add(kept + more);
            *target = WarmTarget { desired, reason: ScaleReason::Memory };
        }
    }
}

/// What one lane would have if it were alone.
fn alone(lane: &LaneStats) -> WarmTarget {
    let now = need(lane);
    let expected = u32::from(lane.expected);
    let wanted = now.max(lane.window_max).max(expected);
    let later = lane.service_s.map_or(0.0, |service| later(lane, service));
    let is_held_back = later > f64::from(lane.deferred_most);
    let desired = wanted.max(lane.min).min(lane.max);
    let reason = if wanted > lane.max {
        ScaleReason::Concurrency
    } else if lane.min > wanted {
        ScaleReason::Provisioned
    } else if desired < lane.desired {
        ScaleReason::Idle
    } else if is_held_back {
        ScaleReason::Failing
    } else if expected > now.max(lane.window_max) {
        ScaleReason::Pattern
    } else if now >= lane.useful && lane.queued > 0 {
        ScaleReason::Cores
    } else if lane.queued > 0 || lane.deferred > 0 {
        ScaleReason::Backlog
    } else {
        ScaleReason::Arrivals
    };
    WarmTarget { desired, reason }
}

/// Largest value of a sliding window.
#[derive(Debug, Default)]
pub struct WindowMax(VecDeque<(Instant, u32)>);

impl WindowMax {
    /// Adds a value seen at `now`.
    pub fn push(&mut self, now: Instant, value: u32) {
        while self.0.back().is_some_and(|(_, last)| *last <= value) {
            self.0.pop_back();
        }
        self.0.push_back((now, value));
    }

    /// The largest value of the window that ends at `now`; 0 when there is none.
    pub fn max(&mut self, now: Instant, window: Duration) -> u32 {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > window) {
            self.0.pop_front();
        }
        self.0.front().map_or(0, |(_, value)| *value)
    }
}

/// An exponentially weighted rate of arrivals over two horizons; the larger one counts, so that a
/// burst is seen at once and not forgotten at once.
#[derive(Debug, Default, Clone, Copy)]
pub struct ArrivalRate {
    fast: f64,
    slow: f64,
}

impl ArrivalRate {
    /// Adds `arrivals` of the last `passed`.
    pub fn tick(&mut self, arrivals: u64, passed: Duration) {
        let seconds = passed.as_secs_f64().max(1e-6);
        let rate = arrivals as f64 / seconds;
        let weight = |horizon: f64| 1.0 - (-seconds / horizon).exp();
        self.fast += weight(1.0) * (rate - self.fast);
        self.slow += weight(10.0) * (rate - self.slow);
    }

    /// Arrivals per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.fast.max(self.slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// name | rate service queued running min max window desired, deferred and most of it, useful | wanted reason
    const CASES: &str = "
        nothing            | 0     -      0   0  0 10   0  0 | 0  arrivals
        first-ever         | 0     -      3   2  0 10   0  0 | 5  backlog
        little             | 20    0.1    0   0  0 10   0  0 | 2  arrivals
        ceiling            | 21    0.1    0   0  0 10   0  0 | 3  arrivals
        rare-keeps-one     | 0.5   0.001  0   0  0 10   0  0 | 1  arrivals
        idle-keeps-none    | 0.009 0.001  0   0  0 10   0  1 | 0  idle
        queue-drains       | 0     0.005  10  0  0 10   0  0 | 5  backlog
        slow-queue         | 0     1      1   0  0 500  0  0 | 100 backlog
        capped             | 100   1      0   0  0 10   0  0 | 10 concurrency
        floor              | 0     0.1    0   0  3 10   0  0 | 3  provisioned
        floor-over-window  | 0     0.1    0   0  3 10   2  2 | 3  provisioned
        window-holds       | 0     0.1    0   0  0 10   7  7 | 7  arrivals
        window-passed      | 1     0.1    0   0  0 10   1  7 | 1  idle
        running-counts     | 0     0.1    0   4  0 10   0  0 | 4  arrivals
        concurrency-0      | 5     0.1    5   0  0 0    0  0 | 0  concurrency
        not-a-number       | 5     nan    0   0  0 9    0  0 | 0  arrivals
        endless            | 5     inf    0   0  0 9    0  0 | 9  concurrency
        backlog-of-events  | 0     0.1    0   0  0 99   0  0 200 999 | 20 backlog
        events-are-patient | 0     0.001  0   0  0 99   0  0 100 999 | 1  backlog
        both-add-up        | 0     0.1    2   0  0 99   0  0 100 999 | 30 backlog
        mostly-fails       | 0     0.1    0   0  0 99   0  0 200 1   | 1  failing
        no-core-is-free    | 0     1      9   4  0 500  0  0   0 999 4 | 4 cores
        two-cores-are-free | 0     1      9   4  0 500  0  0   0 999 6 | 6 cores
        nothing-known-yet  | 0     -      9   4  0 500  0  0   0 999 6 | 6 cores
        first-events       | 0     -      0   4  0 99   0  0 200 999 | 8  backlog
    ";

    #[test]
    fn one_lane() {
        for case in CASES.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let parts: Vec<&str> = case.split('|').map(str::trim).collect();
            let input: Vec<&str> = parts[1].split_whitespace().collect();
            let int = |at: usize| input[at].parse().unwrap();
            let stats = LaneStats {
                arrival_rate: input[0].parse().unwrap(),
                service_s: (input[1] != "-").then(|| input[1].parse().unwrap()),
                queued: int(2),
                running: int(3),
                min: int(4),
                max: int(5),
                window_max: int(6),
                instance_bytes: 1,
                owner: 0,
                held_bytes: 1_000,
                desired: int(7),
                deferred: input.get(8).map_or(0, |n| n.parse().unwrap()),
                deferred_most: input.get(9).map_or(u32::MAX, |n| n.parse().unwrap()),
                useful: input.get(10).map_or(u32::MAX, |n| n.parse().unwrap()),
                expected: false,
            };
            let target = plan(&[stats], &ScaleLimits { memory_bytes: 1_000 })[0];
            let got = format!("{} {}", target.desired, target.reason.as_str());
            let wanted: Vec<&str> = parts[2].split_whitespace().collect();
            assert_eq!(got, wanted.join(" "), "{}", parts[0]);
        }
    }

    #[test]
    fn fewer_starve_when_they_would_time_out() {
        for (cpu_s, timeout_s, wanted) in [
            (None, 3.0, 4),
            (Some(0.0), 3.0, 16),
            (Some(0.002), 3.0, 16),
            (Some(0.25), 3.0, 10),
            (Some(0.5), 3.0, 4),
            (Some(0.75), 3.0, 2),
            (Some(1.4), 3.0, 0),
            (Some(3.0), 3.0, 0),
            (Some(20.0), 3.0, 0),
            (Some(f64::INFINITY), 3.0, 0),
            (Some(0.5), 900.0, 16),
        ] {
            let most = starved_most(2, cpu_s, Duration::from_secs_f64(timeout_s));
            assert_eq!(most, wanted, "{cpu_s:?} of {timeout_s}");
        }
    }

    #[test]
    fn the_memory_budget_is_shared_and_minimums_are_kept() {
        let lane = |rate, min, bytes| LaneStats {
            arrival_rate: rate,
            service_s: Some(1.0),
            min,
            max: 1_000,
            deferred_most: u32::MAX,
            useful: u32::MAX,
            instance_bytes: bytes,
            held_bytes: u64::MAX,
            ..LaneStats::default()
        };
        // name | lanes (rate, minimum, bytes; running) | memory | wanted
        let giant = LaneStats { running: 1, ..lane(3.0, 0, 900) };
        let young = LaneStats { running: 2, held_bytes: 950, owner: 1, ..giant };
        for (name, lanes, memory_bytes, wanted) in [
            ("equals", vec![lane(200.0, 0, 10), lane(300.0, 0, 10)], 2_000, vec![100, 100]),
            (
                "less than its share",
                vec![lane(300.0, 0, 10), lane(50.0, 0, 10)],
                2_000,
                vec![150, 50],
            ),
            ("minimums come first", vec![lane(100.0, 0, 10), lane(0.0, 20, 10)], 600, vec![40, 20]),
            ("a minimum is a promise", vec![lane(100.0, 0, 10), lane(0.0, 20, 10)], 0, vec![0, 20]),
            (
                "a giant alone",
                vec![giant, lane(1.0, 0, 10), lane(2.0, 0, 50)],
                1_010,
                vec![1, 1, 2],
            ),
            ("less than expected", vec![young, lane(1.0, 0, 10)], 1_000, vec![2, 1]),
            ("less, of two versions", vec![young, young, lane(1.0, 0, 10)], 1_000, vec![2, 2, 1]),
            ("all fits", vec![giant, lane(1.0, 0, 10)], 2_710, vec![3, 1]),
        ] {
            let targets = plan(&lanes, &ScaleLimits { memory_bytes });
            let desired: Vec<u32> = targets.iter().map(|t| t.desired).collect();
            assert_eq!(desired, wanted, "{name}");
            for (target, alone) in targets.iter().zip(lanes.iter().map(alone)) {
                let cut = target.desired < alone.desired;
                assert_eq!(cut, target.reason == ScaleReason::Memory, "{name}");
            }
        }
        // Of many that want one each, not all go without because of a few.
        let many = [lane(1.0, 0, 10); 40];
        let targets = plan(&many, &ScaleLimits { memory_bytes: 390 });
        assert_eq!(targets.iter().map(|t| t.desired).sum::<u32>(), 39);
    }

    #[test]
    fn the_window_forgets_after_its_length_and_not_before() {
        let start = wambda_model::clock::now();
        let at = |s| start + Duration::from_secs(s);
        let mut window = WindowMax::default();
        window.push(at(0), 5);
        window.push(at(10), 3);
        window.push(at(20), 4);
        assert_eq!(window.max(at(60), DOWN_WINDOW), 5);
        assert_eq!(window.max(at(61), DOWN_WINDOW), 4);
        assert_eq!(window.max(at(81), DOWN_WINDOW), 0);
    }

    #[test]
    fn a_burst_is_seen_within_a_tick_and_fades() {
        let mut rate = ArrivalRate::default();
        rate.tick(100, Duration::from_millis(100));
        assert!(rate.per_second() > 90.0, "{}", rate.per_second());
        for _ in 0..600 {
            rate.tick(0, Duration::from_millis(100));
        }
        assert!(rate.per_second() < 0.1, "{}", rate.per_second());
    }
}
