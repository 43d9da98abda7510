//! One suite for every back end: random operations against a simple model, and faults of the medium.

mod damage;
mod disk;
mod faults;
mod model;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wambda_model::Clock;

use super::*;

/// Time that passes when it is told to; the wall clock jumps when it is told to.
#[derive(Debug)]
pub(super) struct ManualClock(Mutex<(Instant, u64)>);

impl ManualClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((wambda_model::clock::now(), 1_800_000_000_000))))
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut at = self.0.lock().unwrap();
        at.0 += time;
        at.1 += time.as_millis() as u64;
    }

    pub(super) fn jump(&self, ms: i64) {
        let mut at = self.0.lock().unwrap();
        at.1 = at.1.saturating_add_signed(ms);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().0
    }
    fn unix_ms(&self) -> u64 {
        self.0.lock().unwrap().1
    }
}

pub(super) const CAPS: Caps = Caps { count: 1_000, bytes: 1 << 20 };

pub(super) fn new_message(queue: &str, body: &str) -> NewMessage {
    NewMessage {
        id: RequestId::ordered(1_800_000_000_000),
        queue: queue.to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        attributes: Bytes::from_static(b"a"),
        note: Bytes::new(),
        delay: Duration::ZERO,
        lifetime: Duration::from_secs(3_600),
        is_damaged: false,
        dedup: None,
        caps: CAPS,
    }
}

pub(super) fn order(queue: &str, max: u32) -> LeaseOrder {
    let visibility = Duration::from_secs(30);
    LeaseOrder { queue: queue.to_owned(), max, bytes: 1 << 20, visibility, pick: Pick::Due }
}

pub(super) fn done(message: &Message) -> Settlement {
    let verdict =
        Verdict::Done { outcome: Bytes::from_static(b"ok"), sends: Vec::new(), fallback: None };
    Settlement { id: message.id, attempt: message.attempt, verdict }
}

/// It ends with a letter in another queue.
pub(super) fn buried(message: &Message, queue: &str) -> Settlement {
    let (outcome, sends) = (Bytes::from_static(b"dead"), vec![new_message(queue, "x")]);
    Settlement { verdict: Verdict::Done { outcome, sends, fallback: None }, ..done(message) }
}

#[tokio::test]
async fn fresh_messages_go_before_aged_ones_and_do_not_starve_them() {
    let clock = ManualClock::new();
    let queues = MemoryQueues::new(clock.clone());
    for _ in 0..8 {
        queues.append(new_message("q", "old")).await.unwrap();
    }
    clock.pass(FRESH_AGE + Duration::from_secs(1));
    for _ in 0..8 {
        queues.append(new_message("q", "new")).await.unwrap();
    }
    let leased = queues.lease(vec![order("q", 8)]).await.unwrap();
    let bodies: Vec<&[u8]> = leased.iter().map(|m| &m.body[..]).collect();
    assert_eq!(bodies.iter().filter(|body| **body == b"old").count(), 2, "{bodies:?}");
    assert_eq!(queues.lease(vec![order("q", 99)]).await.unwrap().len(), 8);
}

#[tokio::test]
async fn a_jump_of_the_machines_clock_changes_nothing() {
    let clock = ManualClock::new();
    let disk = disk::Disk::default();
    let queues = EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap();
    let mut message = new_message("q", "later");
    message.delay = Duration::from_secs(60);
    queues.append(message).await.unwrap();
    for jump in [3_600_000, -7_200_000] {
        clock.jump(jump);
        assert!(queues.lease(vec![order("q", 1)]).await.unwrap().is_empty());
    }
    drop(queues);
    // An hour behind: time goes on where it was.
    let queues = EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap();
    assert!(queues.lease(vec![order("q", 1)]).await.unwrap().is_empty());
    clock.pass(Duration::from_secs(61));
    assert_eq!(queues.lease(vec![order("q", 1)]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn outcomes_are_written_once_and_forgotten_in_time() {
    let clock = ManualClock::new();
    let queues = MemoryQueues::new(clock.clone());
    let id = queues.append(new_message("q", "x")).await.unwrap().id();
    let first = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
    // The first worker is slow: its lease is over, and another one has the message.
    clock.pass(Duration::from_secs(31));
    let second = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
    assert_eq!((second.attempt, second.lost), (2, 1));
    let retry = Verdict::Retry { after: Duration::ZERO, note: Bytes::new() };
    let stale = Settlement { verdict: retry, ..done(&first) };
    assert_eq!(queues.settle(stale).await.unwrap(), Settled::Stale);
    // What it has done is done, nevertheless; and only once.
    assert_eq!(queues.settle(done(&first)).await.unwrap(), Settled::Done(vec![]));
    assert_eq!(queues.settle(done(&second)).await.unwrap(), Settled::Stale);
    assert!(matches!(queues.find(id).await.unwrap(), Some(Found::Ended { .. })));
    let keep = |outcomes| Keep {
        outcome_age: Duration::from_secs(60),
        outcomes,
        outcome_bytes: 1 << 20,
        trim: Vec::new(),
        limit: 100,
    };
    assert_eq!(queues.sweep(keep(10)).await.unwrap(), 0);
    assert!(queues.info("q").is_none(), "an empty queue is forgotten");
    assert_eq!(queues.sweep(keep(0)).await.unwrap(), 1, "more than may be kept");
    assert!(queues.find(id).await.unwrap().is_none());
}

#[tokio::test]
async fn what_comes_of_a_message_is_there_when_it_ends() {
    let queues = MemoryQueues::new(ManualClock::new());
    let id = queues.append(new_message("q", "x")).await.unwrap().id();
    let leased = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
    let mut letter = new_message("dead:q", "x");
    letter.id = id;
    let mut too_much = new_message("full", "x");
    too_much.caps.count = 0;
    let verdict = Verdict::Done {
        outcome: Bytes::from_static(b"dead"),
        sends: vec![letter, too_much],
        fallback: None,
    };
    let settled = queues.settle(Settlement { verdict, ..done(&leased) }).await.unwrap();
    let Settled::Done(refused) = settled else { panic!("{settled:?}") };
    assert_eq!(refused.len(), 1);
    assert!(refused[0].0 == 1 && refused[0].1.contains("limit 0"), "{refused:?}");
    // The letter has the id of the message, which has an outcome all the same.
    assert_eq!(queues.peek("dead:q", None, 9).await.unwrap()[0].id, id);
    let Some(Found::Ended { outcome, .. }) = queues.find(id).await.unwrap() else { panic!() };
    assert_eq!(outcome, "dead");
    // Whoever still has the message cannot end the letter.
    assert_eq!(queues.settle(done(&leased)).await.unwrap(), Settled::Stale);
    let redrive = Redrive {
        from: "dead:q".to_owned(),
        to: "q".to_owned(),
        ids: Some(vec![id]),
        limit: 10,
        delay: Duration::ZERO,
        spacing: Duration::ZERO,
        lifetime: Duration::from_secs(60),
        caps: CAPS,
    };
    let moved = queues.redrive(redrive).await.unwrap();
    assert_eq!(moved[0].0, id);
    assert_eq!(queues.info("q").unwrap().count(), 1);
    assert_eq!(queues.info("dead:q").unwrap().count(), 0);
}

#[tokio::test]
async fn aged_messages_get_their_turn_also_when_one_is_leased_at_a_time() {
    let clock = ManualClock::new();
    let queues = MemoryQueues::new(clock.clone());
    queues.append(new_message("q", "old")).await.unwrap();
    clock.pass(FRESH_AGE + Duration::from_secs(1));
    for _ in 0..8 {
        queues.append(new_message("q", "new")).await.unwrap();
    }
    for turn in 0.. {
        let leased = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
        if leased.body == "old" {
            break;
        }
        assert!(turn < FRESH_OF, "the aged one starves");
    }
}

/// One of forty kills its worker whenever it is leased: it is found, and the others survive.
#[tokio::test]
async fn whatever_kills_its_workers_is_found_and_its_neighbours_live() {
    let clock = ManualClock::new();
    let queues = MemoryQueues::new(clock.clone());
    let mut poison = None;
    for n in 0..40 {
        let id = queues.append(new_message("q", "x")).await.unwrap().id();
        poison = if n == 17 { Some(id) } else { poison };
    }
    let (mut most, mut kills) = (0, 0);
    while queues.info("q").unwrap().count() > 1 || kills < 5 {
        clock.pass(Duration::from_secs(1));
        let leased = queues.lease(vec![order("q", 99)]).await.unwrap();
        let lost = |message: &Message| message.lost;
        if leased.iter().any(|message| Some(message.id) == poison) {
            kills += 1;
            assert!(kills < 4 || leased.len() == 1, "it is not alone at its {kills}th attempt");
            queues.restart().unwrap();
            continue;
        }
        for message in leased {
            most = most.max(lost(&message));
            queues.settle(done(&message)).await.unwrap();
        }
    }
    assert!(most <= 3, "a neighbour has lost {most}");
}

#[tokio::test]
async fn a_lease_is_bounded_in_bytes_and_gives_one_in_any_case() {
    let queues = MemoryQueues::new(ManualClock::new());
    for _ in 0..3 {
        queues.append(new_message("q", &"x".repeat(1_000))).await.unwrap();
    }
    let small = |bytes| vec![LeaseOrder { bytes, ..order("q", 9) }];
    assert_eq!(queues.lease(small(2_500)).await.unwrap().len(), 2);
    assert_eq!(queues.lease(small(1)).await.unwrap().len(), 1);
}

/// Whoever has seen that a message has ended sees in the queues' numbers what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_of_a_message_is_not_ahead_of_the_queues_numbers() {
    let disk = disk::Disk::default();
    let queues = Arc::new(EmbeddedQueues::on(disk.backend(), ManualClock::new()).unwrap());
    for n in 0..300 {
        let (name, dead) = (format!("q{n}"), format!("dead:q{n}"));
        let id = queues.append(new_message(&name, "x")).await.unwrap().id();
        let leased = queues.lease(vec![order(&name, 1)]).await.unwrap().remove(0);
        let settlement = buried(&leased, &dead);
        let settling = Arc::clone(&queues);
        let settled = tokio::spawn(async move { settling.settle(settlement).await });
        let mut looks = 0;
        while !matches!(queues.find(id).await.unwrap(), Some(Found::Ended { .. })) {
            looks += 1;
            assert!(looks < 1_000_000, "{n} does not end");
        }
        let counts = [&dead, &name].map(|queue| queues.info(queue).map(|info| info.count()));
        assert_eq!(counts, [Some(1), Some(0)], "{n}");
        settled.await.unwrap().unwrap();
    }
}
