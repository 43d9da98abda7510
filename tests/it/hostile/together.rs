//! Many hostile guests at once: what each may do alone, and its neighbour not notice, all of them may.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use wambda_tests::{Server, percentile, within};

use super::stage::Stage;
use super::{Case, Do, components, lifts, modules, wasi};

/// Guests at a time, of each table in turn.
const AT_ONCE: usize = 12;
/// How long each dozen is at it.
const LASTS: Duration = Duration::from_secs(2);
/// Bytes that the server may keep after any of them: its allocator's, of a dozen at a time that had up to 200 MB.
const KEPT_MAX: u64 = 64 << 20;
/// Longest that a neighbour waits, 98 times of a hundred: some of a dozen fill and copy all of their memory and tables, and
/// nothing interrupts one such operation, which takes up to a twentieth of a second.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(150);

/// Those who are invoked, from each table in turn, so that a dozen has some of each.
fn guests() -> Vec<Case> {
    let mut tables =
        [modules::cases(), components::cases(), lifts::cases(), wasi::cases()].map(Vec::into_iter);
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        for table in &mut tables {
            mixed.extend(table.by_ref().find(|case| matches!(case.action, Do::Invoke(_))));
        }
        if mixed.len() == before {
            return mixed;
        }
    }
}

#[test]
fn many_hostile_guests_at_once_harm_nobody() {
    let stage = Stage::new(&[]);
    let server = &stage.server;
    let guests = guests();
    assert!(guests.len() >= 10 * AT_ONCE, "{}", guests.len());
    for dozen in guests.chunks(AT_ONCE) {
        for (n, case) in dozen.iter().enumerate() {
            let uploaded = server.put(&format!("guest{n}"), &case.upload, &case.configuration());
            assert!(matches!(uploaded.status, 200 | 201), "{}: {}", case.name, uploaded.text());
        }
        let names: Vec<&str> = dozen.iter().map(|case| &*case.name).collect();
        within(NEIGHBOUR_MAX, || {
            let mut took = at_once(server, dozen);
            let (calls, slowest) = (took.len(), percentile(&mut took, 98));
            println!("{calls} calls, p98 {slowest:?}, beside {names:?}");
            slowest
        });
        for n in 0..dozen.len() {
            server.request("DELETE", &format!("/v1/functions/guest{n}"), &[], b"").expect(204);
        }
        if let Err(left) = stage.as_before(stage.resident + KEPT_MAX) {
            panic!("left behind {left}, by {names:?}");
        }
        server.assert_well();
    }
}

/// What a neighbour waits while each of these does what it does over and over.
fn at_once(server: &Server, dozen: &[Case]) -> Vec<Duration> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (n, case) in dozen.iter().enumerate() {
            let (Do::Invoke(event), done) = (&case.action, &done) else { unreachable!() };
            scope.spawn(move || {
                let mut statuses = Vec::new();
                while !done.load(Relaxed) {
                    statuses.push(server.invoke(&format!("guest{n}"), event).status);
                }
                // Refused where there is no room for one more, and nothing that is nobody's fault.
                let known = |status: &u16| matches!(status, 200 | 413 | 429 | 500 | 503 | 504);
                assert!(statuses.iter().all(known), "{}: {statuses:?}", case.name);
            });
        }
        let neighbour = scope.spawn(|| {
            let mut took = Vec::new();
            while !done.load(Relaxed) {
                took.push(server.invoke("neighbour", "hi").expect(200).took);
                std::thread::sleep(Duration::from_millis(1));
            }
            took
        });
        std::thread::sleep(LASTS);
        done.store(true, Relaxed);
        neighbour.join().unwrap()
    })
}
