//! The queues against a model of a few lines: a list of messages, searched from end to end.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::disk::Disk;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append { queue: usize, delay_s: u64, lifetime_s: u64, key: Option<u8>, cap: u64 },
    Lease { queue: usize, max: u32, expired: bool },
    Done { which: usize },
    Retry { which: usize, after_s: u64 },
    Release { which: usize },
    Pass { ms: u64 },
    Jump { ms: i64 },
    Purge { queue: usize, limit: usize },
    Redrive { from: usize, to: usize, limit: usize },
    Pause { queue: usize, paused: bool },
    Restart,
    Sweep,
}

const QUEUES: [&str; 3] = ["a", "b", "dead:a"];

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..QUEUES.len();
    prop_oneof![
        6 => (queue.clone(), 0..3u64, 1..200u64, prop::option::weighted(0.3, 0..3u8), 3..9u64)
            .prop_map(|(queue, delay_s, lifetime_s, key, cap)| Step::Append {
                queue, delay_s, lifetime_s, key, cap
            }),
        6 => (queue.clone(), 1..5u32, prop::bool::weighted(0.2))
            .prop_map(|(queue, max, expired)| Step::Lease { queue, max, expired }),
        4 => (0..8usize).prop_map(|which| Step::Done { which }),
        3 => (0..8usize, 0..90u64).prop_map(|(which, after_s)| Step::Retry { which, after_s }),
        1 => (0..8usize).prop_map(|which| Step::Release { which }),
        4 => (1..40_000u64).prop_map(|ms| Step::Pass { ms }),
        1 => (-9_000_000..9_000_000i64).prop_map(|ms| Step::Jump { ms }),
        1 => (queue.clone(), 1..4usize).prop_map(|(queue, limit)| Step::Purge { queue, limit }),
        1 => (queue.clone(), queue.clone(), 1..4usize)
            .prop_map(|(from, to, limit)| Step::Redrive { from, to, limit }),
        1 => (queue, any::<bool>()).prop_map(|(queue, paused)| Step::Pause { queue, paused }),
        1 => Just(Step::Restart),
        1 => Just(Step::Sweep),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    queue: &'static str,
    standing: Standing,
    attempt: u32,
    lost: u32,
    enqueued: u64,
    due: u64,
    expires: u64,
    /// It has lost a worker, and was not settled since.
    suspect: bool,
}

#[derive(Default)]
struct Model {
    messages: BTreeMap<u128, Entry>,
    ended: BTreeMap<u128, u64>,
    keys: BTreeMap<(usize, u8), (RequestId, u64)>,
    paused: [bool; 3],
    /// Every lease that was ever handed out.
    leases: Vec<(RequestId, u32)>,
}

use super::super::engine::lost_delay;
use super::super::pick::may_be_together;

impl Model {
    fn of(&self, queue: &str) -> impl Iterator<Item = (u128, &Entry)> {
        self.messages.iter().filter(move |(_, e)| e.queue == queue).map(|(id, e)| (*id, e))
    }

    fn reclaim(&mut self, queue: Option<&str>, now: u64, until: u64) {
        for (id, entry) in &mut self.messages {
            let here = queue.is_none_or(|queue| entry.queue == queue);
            if here && entry.standing == Standing::Leased && entry.due <= until {
                entry.lost += 1;
                entry.standing = Standing::Retrying;
                entry.due = now + lost_delay(entry.lost, RequestId::from_u128(*id));
                entry.suspect = true;
            }
        }
    }
}

/// A back end under test.
enum Subject {
    Memory(MemoryQueues),
    Embedded(Disk, Option<EmbeddedQueues>),
}

impl Subject {
    fn queues(&self) -> &dyn Queues {
        match self {
            Self::Memory(queues) => queues,
            Self::Embedded(_, queues) => queues.as_ref().unwrap(),
        }
    }

    fn restart(&mut self, clock: &Arc<ManualClock>) {
        match self {
            Self::Memory(queues) => queues.restart().unwrap(),
            Self::Embedded(disk, queues) => {
                *queues = None;
                *queues = Some(EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap());
            }
        }
    }
}

type Checked = Result<(), TestCaseError>;

async fn append(step: &Step, subject: &Subject, model: &mut Model) -> Checked {
    let Step::Append { queue, delay_s, lifetime_s, key, cap } = step else { return Ok(()) };
    let (name, now) = (QUEUES[*queue], subject.queues().now_ms());
    let mut new = new_message(name, "body");
    new.id = RequestId::ordered(now);
    new.delay = Duration::from_secs(*delay_s);
    new.lifetime = Duration::from_secs(*lifetime_s);
    new.caps.count = *cap;
    let window = Duration::from_secs(60);
    new.dedup = key.map(|key| Dedup { key: key.to_string(), window });
    let known = key.and_then(|key| model.keys.get(&(*queue, key)).copied());
    let known = known.filter(|(_, expires)| *expires > now);
    let full = model.of(name).count() as u64 >= *cap;
    match subject.queues().append(new.clone()).await {
        Ok(Appended::Duplicate(id)) => prop_assert_eq!(Some(id), known.map(|(id, _)| id)),
        Ok(Appended::Kept(id)) => {
            prop_assert!(known.is_none() && !full);
            let entry = Entry {
                queue: name,
                standing: Standing::Waiting,
                attempt: 0,
                lost: 0,
                enqueued: now,
                due: now + delay_s * 1_000,
                expires: now + lifetime_s * 1_000,
                suspect: false,
            };
            model.messages.insert(id.as_u128(), entry);
            if let Some(key) = key {
                model.keys.insert((*queue, *key), (id, now + 60_000));
            }
        }
        Err(QueueError::Full { what: "count", limit, .. }) => {
            prop_assert!(full && known.is_none() && limit == *cap);
        }
        Err(other) => return Err(TestCaseError::fail(other.to_string())),
    }
    Ok(())
}

async fn lease(step: &Step, subject: &Subject, model: &mut Model) -> Checked {
    let Step::Lease { queue, max, expired } = step else { return Ok(()) };
    let (name, now) = (QUEUES[*queue], subject.queues().now_ms());
    let pick = if *expired { Pick::Expired } else { Pick::Due };
    let leased = subject.queues().lease(vec![LeaseOrder { pick, ..order(name, *max) }]).await;
    let leased = leased.map_err(|error| TestCaseError::fail(error.to_string()))?;
    model.reclaim(Some(name), now, now);
    let paused = model.paused[*queue];
    let may = |e: &Entry| {
        let right = if *expired { e.expires <= now } else { e.due <= now && !paused };
        e.standing != Standing::Leased && right
    };
    let is_leased = |e: &&Entry| e.suspect && e.standing == Standing::Leased;
    let mut together: Vec<u32> =
        model.of(name).map(|(_, e)| e).filter(is_leased).map(|e| e.lost).collect();
    let mut suspects: Vec<(u64, u128, u32)> = model
        .of(name)
        .filter(|(_, e)| may(e) && e.suspect)
        .map(|(id, e)| (e.due, id, e.lost))
        .collect();
    suspects.sort_unstable();
    suspects.truncate(*max as usize);
    let fits = |(_, _, lost): &&(u64, u128, u32)| {
        together.push(*lost);
        may_be_together(&together)
    };
    let all = suspects.len();
    let suspects = suspects.iter().take_while(fits).count();
    let suspects = if *expired { all } else { suspects };
    let others = model.of(name).filter(|(_, e)| may(e) && !e.suspect).count();
    let wanted = (others + suspects).min(*max as usize);
    // An expiry is seen within a millisecond.
    prop_assert!(leased.len() == wanted || *expired && leased.len() + 3 >= wanted);
    for message in leased {
        let entry = model.messages.get_mut(&message.id.as_u128());
        let entry = entry.ok_or_else(|| TestCaseError::fail("leased from nowhere"))?;
        prop_assert!(entry.queue == name && entry.standing != Standing::Leased);
        prop_assert!(*expired || entry.due <= now);
        entry.standing = Standing::Leased;
        entry.suspect &= !*expired;
        entry.attempt += 1;
        entry.due = now + 30_000;
        prop_assert_eq!((message.attempt, message.lost), (entry.attempt, entry.lost));
        prop_assert_eq!(&message.body[..], b"body");
        model.leases.push((message.id, message.attempt));
    }
    Ok(())
}

async fn settle(which: usize, verdict: Verdict, subject: &Subject, model: &mut Model) -> Checked {
    // The newest leases are the most interesting ones.
    let Some((id, attempt)) = model.leases.iter().rev().nth(which).copied() else { return Ok(()) };
    let now = subject.queues().now_ms();
    let settlement = Settlement { id, attempt, verdict: verdict.clone() };
    let settled = subject.queues().settle(settlement).await;
    let settled = settled.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let entry = model.messages.get(&id.as_u128()).cloned();
    let current =
        entry.as_ref().is_some_and(|e| e.standing == Standing::Leased && e.attempt == attempt);
    let expected = match (&entry, &verdict) {
        (None, _) => false,
        (Some(entry), Verdict::Done { .. }) => attempt <= entry.attempt,
        _ => current,
    };
    prop_assert_eq!(settled != Settled::Stale, expected);
    let (true, Some(mut entry)) = (expected, entry) else { return Ok(()) };
    match verdict {
        Verdict::Done { .. } => {
            model.messages.remove(&id.as_u128());
            prop_assert!(model.ended.insert(id.as_u128(), now).is_none(), "two outcomes");
            return Ok(());
        }
        Verdict::Retry { after, .. } => {
            entry.standing = Standing::Retrying;
            entry.suspect = false;
            entry.due = now + after.as_millis() as u64;
        }
        Verdict::Release => {
            entry.attempt -= 1;
            let tried = entry.attempt > 0;
            entry.standing = if tried { Standing::Retrying } else { Standing::Waiting };
            entry.due = if tried { now } else { entry.enqueued };
            entry.suspect = false;
            model.leases.retain(|lease| *lease != (id, attempt));
        }
    }
    model.messages.insert(id.as_u128(), entry);
    Ok(())
}

#[allow(clippy::too_many_lines)] // a table of steps
async fn others(
    step: &Step,
    subject: &mut Subject,
    model: &mut Model,
    clock: &Arc<ManualClock>,
) -> Checked {
    let failed = |error: QueueError| TestCaseError::fail(error.to_string());
    match step {
        Step::Pass { ms } => clock.pass(Duration::from_millis(*ms)),
        Step::Jump { ms } => clock.jump(*ms),
        Step::Purge { queue, limit } => {
            let name = QUEUES[*queue];
            let outcome = Some(Bytes::from_static(b"purged"));
            let now = subject.queues().now_ms();
            let purged = subject.queues().purge(name, outcome, *limit).await.map_err(failed)?;
            let free = |e: &Entry| e.standing != Standing::Leased;
            let mut there: Vec<(u64, u128)> =
                model.of(name).filter(|(_, e)| free(e)).map(|(id, e)| (e.expires, id)).collect();
            there.sort_unstable();
            there.truncate(*limit);
            prop_assert_eq!(purged, there.len());
            for (_, id) in there {
                model.messages.remove(&id);
                model.ended.insert(id, now);
            }
        }
        Step::Redrive { from, to, limit } => {
            let (from, to, now) = (QUEUES[*from], QUEUES[*to], subject.queues().now_ms());
            let redrive = Redrive {
                from: from.to_owned(),
                to: to.to_owned(),
                ids: None,
                limit: *limit,
                delay: Duration::ZERO,
                spacing: Duration::from_secs(1),
                lifetime: Duration::from_secs(60),
                caps: CAPS,
            };
            let moved = subject.queues().redrive(redrive).await.map_err(failed)?;
            for (at, (old, new)) in moved.into_iter().enumerate() {
                let gone = model.messages.remove(&old.as_u128());
                prop_assert!(
                    gone.is_some_and(|e| e.queue == from && e.standing != Standing::Leased)
                );
                let entry = Entry {
                    queue: to,
                    standing: Standing::Waiting,
                    attempt: 0,
                    lost: 0,
                    enqueued: now,
                    due: now + 1_000 * at as u64,
                    expires: now + 60_000 + 1_000 * at as u64,
                    suspect: false,
                };
                model.messages.insert(new.as_u128(), entry);
            }
        }
        Step::Pause { queue, paused } => {
            subject.queues().pause(QUEUES[*queue], *paused).await.map_err(failed)?;
            model.paused[*queue] = *paused;
        }
        Step::Restart => {
            subject.restart(clock);
            model.reclaim(None, subject.queues().now_ms(), u64::MAX);
        }
        Step::Sweep => {
            let keep = Keep {
                outcome_age: Duration::from_secs(1 << 40),
                outcomes: u64::MAX,
                outcome_bytes: u64::MAX,
                trim: vec!["dead:a".to_owned()],
                limit: 1_000,
            };
            let now = subject.queues().now_ms();
            subject.queues().sweep(keep).await.map_err(failed)?;
            model.messages.retain(|_, e| {
                e.queue != "dead:a" || e.standing == Standing::Leased || e.expires > now
            });
        }
        _ => {}
    }
    Ok(())
}

/// What is there is what should be there.
async fn compare(subject: &Subject, model: &Model) -> Checked {
    let failed = |error: QueueError| TestCaseError::fail(error.to_string());
    for name in QUEUES {
        let there = subject.queues().peek(name, None, 1_000).await.map_err(failed)?;
        let there: BTreeMap<u128, Entry> = there
            .into_iter()
            .map(|m| {
                (
                    m.id.as_u128(),
                    Entry {
                        queue: name,
                        standing: m.standing,
                        attempt: m.attempt,
                        lost: m.lost,
                        enqueued: m.enqueued_ms,
                        due: m.due_ms,
                        expires: m.expires_ms,
                        suspect: model.messages.get(&m.id.as_u128()).is_some_and(|e| e.suspect),
                    },
                )
            })
            .collect();
        let wanted: BTreeMap<u128, Entry> = model.of(name).map(|(id, e)| (id, e.clone())).collect();
        prop_assert_eq!(&there, &wanted);
        let info = subject.queues().info(name);
        let (count, leased) = info.as_ref().map_or((0, 0), |i| (i.count(), i.leased()));
        let busy = wanted.values().filter(|e| e.standing == Standing::Leased).count();
        prop_assert_eq!((count, leased), (wanted.len() as u64, busy as u64));
        let later = |e: &&Entry| e.standing == Standing::Waiting && e.due > e.enqueued;
        let again = |e: &&Entry| e.standing == Standing::Retrying || later(e);
        let again = wanted.values().filter(again).count();
        prop_assert_eq!(info.as_ref().map_or(0, |i| i.retrying()), again as u64);
        let held = wanted.values().any(|e| e.suspect && e.standing == Standing::Leased);
        let counts = |e: &&Entry| !(held && e.suspect && e.standing != Standing::Leased);
        let next = wanted.values().filter(counts).map(|e| e.due).min().unwrap_or(u64::MAX);
        if let Some(info) = info.filter(|_| count > 0) {
            prop_assert_eq!(info.next_ms(), next);
            prop_assert_eq!(info.bytes(), 5 * count);
        }
    }
    for id in model.ended.keys() {
        let found = subject.queues().find(RequestId::from_u128(*id)).await.map_err(failed)?;
        let has_ended = matches!(found, Some(Found::Ended { .. }));
        prop_assert!(has_ended);
    }
    Ok(())
}

fn run(steps: &[Step], make: impl Fn(&Arc<ManualClock>) -> Subject) -> Checked {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let clock = ManualClock::new();
        let (mut subject, mut model) = (make(&clock), Model::default());
        for step in steps {
            match step {
                Step::Append { .. } => append(step, &subject, &mut model).await?,
                Step::Lease { .. } => lease(step, &subject, &mut model).await?,
                Step::Done { which } => {
                    let (outcome, sends) = (Bytes::from_static(b"ok"), Vec::new());
                    settle(
                        *which,
                        Verdict::Done { outcome, sends, fallback: None },
                        &subject,
                        &mut model,
                    )
                    .await?;
                }
                Step::Retry { which, after_s } => {
                    let after = Duration::from_secs(*after_s);
                    let verdict = Verdict::Retry { after, note: Bytes::from_static(b"n") };
                    settle(*which, verdict, &subject, &mut model).await?;
                }
                Step::Release { which } => {
                    settle(*which, Verdict::Release, &subject, &mut model).await?;
                }
                _ => others(step, &mut subject, &mut model, &clock).await?,
            }
            compare(&subject, &model).await?;
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_is_as_the_model_says(steps in prop::collection::vec(step(), 1..80)) {
        run(&steps, |clock| Subject::Memory(MemoryQueues::new(clock.clone())))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_file_is_as_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps, |clock| {
            let disk = Disk::default();
            let queues = EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap();
            Subject::Embedded(disk, Some(queues))
        })?;
    }
}
