//! Stored values that are not what was written: each is told, none runs, and none holds up its queue.

use super::super::tables::Table;
use super::*;

fn flip(bit: usize) -> impl FnMut(&mut Vec<u8>) {
    move |value| {
        if let Some(byte) = value.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// Every bit of a waiting message, in turn.
#[tokio::test]
async fn a_flipped_bit_of_a_waiting_message_is_seen_and_ends_it() {
    for (table, bytes) in [(Table::States, 67), (Table::Bodies, 4)] {
        for bit in 0..bytes * 8 {
            let queues = MemoryQueues::new(ManualClock::new());
            let id = queues.append(new_message("q", "body")).await.unwrap().id();
            queues.damage(table, flip(bit));
            let whole = queues.append(new_message("q", "whole")).await.unwrap().id();
            let mut leased = queues.lease(vec![order("q", 9)]).await.unwrap();
            leased.sort_by_key(|message| message.is_damaged);
            let [good, bad] = leased.try_into().unwrap();
            assert!(good.id == whole && !good.is_damaged, "{table:?}, bit {bit}");
            assert!(bad.id == id && bad.is_damaged, "{table:?}, bit {bit}");
            // It is there to be looked at, as it is.
            assert_eq!(bad.body.len(), 4);
            let peeked = queues.peek("q", None, 9).await.unwrap();
            assert_eq!(peeked.iter().filter(|message| message.is_damaged).count(), 1);
            // What is known of it outlasts a restart.
            queues.restart().unwrap();
            let again = queues.lease(vec![order("q", 9)]).await.unwrap();
            let bad = again.iter().find(|message| message.is_damaged).unwrap();
            assert_eq!(queues.settle(done(bad)).await.unwrap(), Settled::Done(vec![]));
            assert_eq!(queues.info("q").unwrap().count(), 1, "{table:?}, bit {bit}");
        }
    }
}

/// Keys have no digest. One that was damaged gives no message to another queue, and holds up none.
#[tokio::test]
async fn a_flipped_bit_of_a_key_misleads_nobody() {
    for (table, bytes) in [(Table::Schedule, 29), (Table::Members, 28), (Table::States, 16)] {
        for bit in 0..bytes * 8 {
            let clock = ManualClock::new();
            let queues = MemoryQueues::new(clock.clone());
            let other = queues.append(new_message("other", "other")).await.unwrap().id();
            let leased = queues.lease(vec![order("other", 9)]).await.unwrap().remove(0);
            queues.settle(done(&leased)).await.unwrap();
            let id = queues.append(new_message("q", "body")).await.unwrap().id();
            queues.misplace(table, flip(bit));
            let whole = queues.append(new_message("q", "whole")).await.unwrap().id();
            let mut seen = Vec::new();
            for _ in 0..4 {
                queues.restart().unwrap();
                let orders = vec![order("other", 9), order("q", 1)];
                for message in queues.lease(orders).await.unwrap() {
                    assert_eq!(message.queue, "q", "{table:?}, bit {bit}");
                    assert!(message.id == id || message.id == whole, "{table:?}, bit {bit}");
                    seen.push(message.id);
                    queues.settle(done(&message)).await.unwrap();
                }
                clock.pass(Duration::from_secs(60));
            }
            assert!(seen.contains(&whole) && !seen.contains(&other), "{table:?}, bit {bit}");
        }
    }
}

/// What was leased when its state's key was damaged does not keep the next start from its end.
#[tokio::test]
async fn a_start_ends_whatever_key_was_damaged() {
    for table in [Table::Schedule, Table::States, Table::Members] {
        for bit in 0..16 * 8 {
            let queues = MemoryQueues::new(ManualClock::new());
            queues.append(new_message("q", "body")).await.unwrap();
            assert_eq!(queues.lease(vec![order("q", 1)]).await.unwrap().len(), 1);
            queues.misplace(table, flip(bit));
            queues.restart().unwrap();
            queues.lease(vec![order("q", 1)]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_value_that_was_cut_or_emptied_is_seen_as_well() {
    for table in [Table::States, Table::Bodies] {
        for length in 0..4 {
            let queues = MemoryQueues::new(ManualClock::new());
            queues.append(new_message("q", "body")).await.unwrap();
            queues.damage(table, |value| value.truncate(length));
            let leased = queues.lease(vec![order("q", 9)]).await.unwrap();
            assert!(leased[0].is_damaged, "{table:?}, {length} bytes");
            queues.settle(done(&leased[0])).await.unwrap();
            assert_eq!(queues.info("q").unwrap().count(), 0);
        }
    }
}

#[tokio::test]
async fn a_lease_that_was_damaged_meanwhile_ends() {
    let queues = MemoryQueues::new(ManualClock::new());
    queues.append(new_message("q", "body")).await.unwrap();
    let leased = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
    queues.damage(Table::States, flip(8 * 58));
    assert_eq!(queues.settle(done(&leased)).await.unwrap(), Settled::Done(vec![]));
    assert_eq!(queues.info("q").unwrap().count(), 0);
}

#[tokio::test]
async fn a_damaged_outcome_is_no_outcome() {
    let queues = MemoryQueues::new(ManualClock::new());
    let id = queues.append(new_message("q", "body")).await.unwrap().id();
    let leased = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
    queues.settle(done(&leased)).await.unwrap();
    for bit in 0..(8 + 2 + 8) * 8 {
        queues.damage(Table::Outcomes, flip(bit));
        let refused = queues.find(id).await.unwrap_err().to_string();
        assert!(refused.contains("another digest"), "bit {bit}: {refused}");
        queues.damage(Table::Outcomes, flip(bit));
    }
    assert!(matches!(queues.find(id).await.unwrap(), Some(Found::Ended { .. })));
}

#[tokio::test]
async fn a_damaged_letter_is_not_sent_again() {
    let queues = MemoryQueues::new(ManualClock::new());
    let mut marked = new_message("dead:q", "marked");
    marked.is_damaged = true;
    queues.append(marked).await.unwrap();
    queues.append(new_message("dead:q", "hurt")).await.unwrap();
    queues.damage(Table::Bodies, |body| {
        if body == b"hurt" {
            body[0] = b'H';
        }
    });
    let whole = queues.append(new_message("dead:q", "whole")).await.unwrap().id();
    let redrive = Redrive {
        from: "dead:q".to_owned(),
        to: "q".to_owned(),
        ids: None,
        limit: 10,
        delay: Duration::ZERO,
        spacing: Duration::ZERO,
        lifetime: Duration::from_secs(60),
        caps: CAPS,
    };
    let moved = queues.redrive(redrive).await.unwrap();
    assert_eq!(moved.iter().map(|(old, _)| *old).collect::<Vec<_>>(), [whole]);
    assert_eq!(queues.info("dead:q").unwrap().count(), 2);
}

/// What the numbers of a queue are is known, or nothing is done with them.
#[tokio::test]
async fn queues_whose_numbers_are_damaged_are_not_opened() {
    for table in [Table::Queues, Table::Meta] {
        let queues = MemoryQueues::new(ManualClock::new());
        queues.append(new_message("q", "body")).await.unwrap();
        queues.damage(table, flip(3));
        assert!(queues.restart().is_err(), "{table:?}");
    }
}
