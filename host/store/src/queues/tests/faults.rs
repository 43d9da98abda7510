//! The embedded queues on a disk that fails: every write and sync in turn, and the power at any moment.

use super::disk::Disk;
use super::*;

/// What a client knows: ids that were acknowledged, ids that were ended.
async fn work(queues: &EmbeddedQueues) -> (Vec<RequestId>, Vec<RequestId>) {
    let (mut kept, mut ended) = (Vec::new(), Vec::new());
    for round in 0..4 {
        if let Ok(appended) = queues.append(new_message("q", &format!("body {round}"))).await {
            kept.push(appended.id());
        }
        let Ok(leased) = queues.lease(vec![order("q", 1)]).await else { continue };
        for message in leased {
            if round % 2 == 0 && queues.settle(done(&message)).await.is_ok() {
                ended.push(message.id);
            }
        }
    }
    (kept, ended)
}

/// Every acknowledged id is in a queue or has an outcome; one that was ended has an outcome.
async fn nothing_is_lost(queues: &EmbeddedQueues, kept: &[RequestId], ended: &[RequestId]) {
    for id in kept {
        let found = queues.find(*id).await.unwrap();
        assert!(found.is_some(), "{id} was acknowledged, and is gone");
        if ended.contains(id) {
            assert!(matches!(found, Some(Found::Ended { .. })), "{id} was ended, and is back");
        }
    }
    let in_queue = queues.peek("q", None, 1_000).await.unwrap();
    assert_eq!(queues.info("q").map_or(0, |info| info.count()), in_queue.len() as u64);
}

#[tokio::test]
async fn every_write_and_sync_may_fail_once_and_the_queues_go_on() {
    let disk = Disk::default();
    let queues = EmbeddedQueues::on(disk.backend(), ManualClock::new()).unwrap();
    let before = disk.operations();
    drop(work(&queues).await);
    let operations = disk.operations() - before;
    drop(queues);
    assert!(operations > 20, "{operations}");
    for nth in 0..operations {
        let (disk, clock) = (Disk::default(), ManualClock::new());
        let queues = EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap();
        disk.fail(nth, 1);
        let (mut kept, ended) = work(&queues).await;
        // It goes on without anybody's help.
        kept.push(queues.append(new_message("q", "after")).await.unwrap().id());
        nothing_is_lost(&queues, &kept, &ended).await;
        drop(queues);
        let queues = EmbeddedQueues::on(disk.backend(), clock).unwrap();
        nothing_is_lost(&queues, &kept, &ended).await;
    }
}

/// A commit whose last sync fails is refused, and may be there nevertheless: then its numbers are shown as well.
#[tokio::test]
async fn what_is_there_although_it_was_refused_is_shown() {
    let mut there = 0;
    for nth in 0..20 {
        let disk = Disk::default();
        let queues = EmbeddedQueues::on(disk.backend(), ManualClock::new()).unwrap();
        let id = queues.append(new_message("q", "x")).await.unwrap().id();
        let leased = queues.lease(vec![order("q", 1)]).await.unwrap().remove(0);
        disk.fail(nth, 1);
        let refused = queues.settle(buried(&leased, "dead:q")).await.is_err();
        let has_ended = matches!(queues.find(id).await.unwrap(), Some(Found::Ended { .. }));
        let letters = queues.info("dead:q").map_or(0, |info| info.count());
        let waiting = queues.info("q").map_or(0, |info| info.count());
        let wanted = if has_ended { (1, 0) } else { (0, 1) };
        assert_eq!((letters, waiting), wanted, "{nth}: ended {has_ended}, refused {refused}");
        there += u32::from(refused && has_ended);
    }
    assert!(there > 0, "no commit was there although it was refused");
}

#[tokio::test]
async fn a_disk_that_keeps_failing_acknowledges_nothing_and_recovers() {
    let disk = Disk::default();
    let queues = EmbeddedQueues::on(disk.backend(), ManualClock::new()).unwrap();
    let kept = queues.append(new_message("q", "before")).await.unwrap().id();
    disk.fail(0, u64::MAX);
    for _ in 0..3 {
        let refused = queues.append(new_message("q", "meanwhile")).await;
        assert!(matches!(refused, Err(QueueError::Failed(_))), "{refused:?}");
    }
    disk.fail(0, 0);
    let after = async {
        loop {
            if let Ok(appended) = queues.append(new_message("q", "after")).await {
                break appended.id();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let after = tokio::time::timeout(Duration::from_secs(10), after).await.unwrap();
    nothing_is_lost(&queues, &[kept, after], &[]).await;
    let bodies = queues.peek("q", None, 9).await.unwrap();
    assert!(bodies.iter().all(|m| m.body != "meanwhile") && bodies.len() == 2, "{bodies:?}");
}

#[tokio::test]
async fn the_power_may_go_at_any_moment() {
    let seed = fastrand::u64(..);
    let _told = Seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let (disk, clock) = (Disk::default(), ManualClock::new());
        let queues = EmbeddedQueues::on(disk.backend(), clock.clone()).unwrap();
        // Everything fails from some moment on: that is when the power goes.
        disk.fail(random.u64(0..150), u64::MAX);
        let (kept, ended) = work(&queues).await;
        let remains = disk.after_power_loss(|| random.bool());
        drop(queues);
        let queues = EmbeddedQueues::on(remains.backend(), clock).unwrap();
        nothing_is_lost(&queues, &kept, &ended).await;
        queues.append(new_message("q", "after")).await.unwrap();
    }
}

/// Tells the seed of a test that fails.
struct Seed(u64);

impl Drop for Seed {
    #[allow(clippy::print_stdout)] // for whoever reads the failure
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}", self.0);
        }
    }
}
