//! Lanes on a clock that stands still.

use wambda_model::{FunctionName, Gate, Metrics, Share};

use super::*;
use crate::dispatcher::TICK;
use crate::plan::{DOWN_WINDOW, ScaleLimits, plan};

/// Time that passes when it is told to.
#[derive(Debug)]
struct ManualClock(Mutex<Instant>);

impl ManualClock {
    fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
    fn unix_ms(&self) -> u64 {
        0
    }
}

fn version(share: Share) -> Arc<Version> {
    let name = FunctionName::new("f").unwrap();
    let metrics = Metrics::new("test").unwrap().function(&name);
    Arc::new(Version::blank(name, metrics, Arc::new(share)))
}

fn lane(version: Arc<Version>) -> (Arc<Lane>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock(Mutex::new(wambda_model::clock::now())));
    let dynamic = Arc::clone(&clock) as Arc<dyn Clock>;
    (Lane::new(version, dynamic, 100, Budget::new(1 << 30)), clock)
}

fn granted(lane: &Arc<Lane>) -> Option<Permit> {
    match lane.admit(0).unwrap() {
        Admission::Granted(permit) => Some(permit),
        Admission::Waiting(_) => None,
    }
}

#[test]
fn provisioned_places_come_first_and_the_rest_from_the_share() {
    let account = Arc::new(Gate::new(2));
    let version = version(Share::of(&account));
    let (lane, _) = lane(Arc::clone(&version));
    version.provisioned.store(1, Relaxed);
    let mut permits: Vec<_> = (0..3).map(|_| granted(&lane).unwrap()).collect();
    assert_eq!(account.running(), 2);
    assert!(granted(&lane).is_none(), "neither provisioned nor in the pool");
    // One place moves to the function itself, and the pool is free again.
    version.share.reserve(Some(1));
    let _ = lane.tick(1);
    assert_eq!((account.running(), version.share.current().running()), (0, 2));
    permits.pop();
    permits.pop();
    assert_eq!(version.share.current().running(), 0, "the last one runs on the provisioned place");
    permits.clear();
    assert_eq!((lane.running(), version.share.current().running()), (0, 0));
    // Nothing reserved and nothing provisioned is nothing at all.
    version.share.reserve(Some(0));
    assert!(granted(&lane).is_some());
    version.provisioned.store(0, Relaxed);
    let refused = lane.admit(0).unwrap_err();
    assert!(matches!(
        refused,
        InvokeError::Throttled { reason: ThrottleReason::Concurrency, reserved: true, .. }
    ));
}

#[test]
fn a_reservation_counts_at_once_however_long_a_lane_was_idle() {
    let account = Arc::new(Gate::new(10));
    let version = version(Share::of(&account));
    let (lane, _) = lane(Arc::clone(&version));
    drop(granted(&lane).unwrap());
    version.share.reserve(Some(1));
    let _first = granted(&lane).unwrap();
    assert!(granted(&lane).is_none(), "more than is reserved");
    assert_eq!(account.running(), 0);
    version.share.reserve(None);
    let _second = granted(&lane).unwrap();
    assert_eq!(account.running(), 2, "the first one has moved as well");
}

#[test]
fn lanes_at_one_gate_take_turns() {
    let account = Arc::new(Gate::new(1));
    let share = Arc::new(Share::of(&account));
    let lanes: Vec<_> = (0..2)
        .map(|_| {
            let mut version = Arc::into_inner(version(Share::of(&account))).unwrap();
            version.share = Arc::clone(&share);
            lane(Arc::new(version)).0
        })
        .collect();
    let mut running = granted(&lanes[0]);
    let mut waiting = Vec::new();
    for lane in lanes.iter().cycle().take(8) {
        match lane.admit(0).unwrap() {
            Admission::Waiting(place) => waiting.push(place),
            Admission::Granted(_) => panic!("the gate is closed"),
        }
    }
    let mut order = Vec::new();
    for _ in 0..8 {
        drop(running.take());
        let at = waiting.iter_mut().position(|place| {
            place.granted.try_recv().is_ok_and(|mut handed| {
                std::mem::replace(&mut running, handed.permit.take()).is_none()
            })
        });
        let place = waiting.remove(at.unwrap());
        order.push(usize::from(Arc::ptr_eq(&place.lane, &lanes[1])));
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1, 0, 1]);
}

#[test]
fn who_has_the_fewest_places_is_called_first() {
    let account = Arc::new(Gate::new(4));
    let lanes: Vec<_> = (0..2).map(|_| lane(version(Share::of(&account))).0).collect();
    let mut running: Vec<_> = (0..4).map(|_| (0, granted(&lanes[0]).unwrap())).collect();
    let mut waiting: Vec<_> = [0, 0, 0, 1, 1, 1]
        .iter()
        .map(|n| match lanes[*n].admit(0).unwrap() {
            Admission::Waiting(place) => (*n, place),
            Admission::Granted(_) => panic!("the gate is closed"),
        })
        .collect();
    // The first lane's calls end, one after the other, and the other one's never do.
    let mut order = Vec::new();
    for _ in 0..5 {
        let at = running.iter().position(|(n, _)| *n == 0).unwrap();
        drop(running.remove(at));
        waiting.retain_mut(|(n, place)| {
            let Ok(mut handed) = place.granted.try_recv() else { return true };
            running.push((*n, handed.permit.take().unwrap()));
            order.push(*n);
            false
        });
    }
    assert_eq!(order, [1, 1, 0, 0, 0]);
    // Somebody new stands behind those who wait.
    account.set_limit(5);
    assert!(granted(&lanes[0]).is_none());
    assert!(waiting[0].1.granted.try_recv().is_ok());
}

#[test]
fn one_call_now_and_then_keeps_an_instance_for_a_window_and_no_longer() {
    let (lane, clock) = lane(version(Share::of(&Arc::new(Gate::new(1_000)))));
    let limits = ScaleLimits { memory_bytes: 1 << 30 };
    for round in 0..3 {
        let mut permit = granted(&lane).unwrap();
        clock.pass(Duration::from_millis(1));
        permit.note(Ran { ended: clock.now(), cpu: Duration::from_millis(1) });
        drop(permit);
        let mut wanted = Vec::new();
        while lane.is_active() {
            clock.pass(TICK);
            let Some(stats) = lane.tick(1) else { break };
            let target = plan(&[stats], &limits)[0];
            lane.decide(target);
            wanted.push(target.desired);
        }
        assert_eq!((wanted.first(), wanted.last()), (Some(&1), Some(&0)), "round {round}");
        let kept = TICK * u32::try_from(wanted.len()).unwrap();
        assert!((DOWN_WINDOW..DOWN_WINDOW * 2).contains(&kept), "round {round}: {kept:?}");
        clock.pass(Duration::from_secs(600));
    }
}

#[test]
fn computing_calls_are_let_in_as_cores_come_free() {
    let mut version = version(Share::of(&Arc::new(Gate::new(1_000))));
    Arc::get_mut(&mut version).unwrap().config.timeout_ms = 1_000;
    let clock = Arc::new(ManualClock(Mutex::new(wambda_model::clock::now())));
    let dynamic = Arc::clone(&clock) as Arc<dyn Clock>;
    let lane = Lane::new(Arc::clone(&version), dynamic, 2, Budget::new(1 << 30));
    // One has shown that a call takes a quarter of a second of a core: with one more on each, half.
    let mut first = granted(&lane).unwrap();
    clock.pass(Duration::from_millis(250));
    first.note(Ran { ended: clock.now(), cpu: Duration::from_millis(250) });
    drop(first);
    let mut running: Vec<_> = (0..2).map(|_| granted(&lane).unwrap()).collect();
    let mut waiting = Vec::new();
    let mut ask = || match lane.admit(0).unwrap() {
        Admission::Granted(permit) => {
            version.share.starved.fetch_add(1, Relaxed);
            running.push(permit);
        }
        Admission::Waiting(place) => waiting.push(place),
    };
    (0..10).for_each(|_| ask());
    assert_eq!((running.len(), waiting.len()), (4, 8));
    // Those who have waited long enough do not come in either.
    clock.pass(Duration::from_millis(100));
    lane.nudge();
    assert!(waiting.iter().all(|place| place.granted.is_empty()));
    assert!(lane.tick(1).unwrap().useful <= 4);
    // One ends, and another comes to its core: one may come in, and no more while it is on its way.
    version.share.starved.fetch_sub(1, Relaxed);
    drop(running.pop());
    lane.nudge();
    let come: Vec<_> =
        waiting.iter_mut().filter_map(|place| place.granted.try_recv().ok()).collect();
    assert_eq!(come.len(), 1);
}
