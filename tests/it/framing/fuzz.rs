//! Scripts at random, by one hostile function and one victim on the same connection. `cargo xtask fuzz desync [SECONDS]`
//! plays them for longer; what it finds belongs into `FOUND`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{DOORS, GUESTS, Stage};

/// Scripts that once reached a client that they were not for.
const FOUND: [&str; 2] =
    ["header:content-length=100,set", "header:content-length=100,status:200,set,trap"];

/// How long, and from which seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    time: Duration,
    seed: u64,
}

/// As the environment says: `WAMBDA_DESYNC_SECONDS`, `WAMBDA_DESYNC_SEED`.
pub(super) fn wish(time: Duration) -> Wish {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let time = number("WAMBDA_DESYNC_SECONDS").map_or(time, Duration::from_secs);
    let seed = number("WAMBDA_DESYNC_SEED");
    Wish { time, seed: seed.unwrap_or_else(|| u64::from(std::process::id()) << 20) }
}

/// splitmix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Sizes at which something changes: nothing, a part, a chunk of the host, a buffer of hyper, more than all of them.
const SIZES: [usize; 14] =
    [0, 1, 4, 5, 99, 100, 101, 4095, 4096, 16_384, 65_535, 65_536, 65_537, 200_000];

fn script(random: &mut Random) -> String {
    let mut steps: Vec<String> = Vec::new();
    if random.below(3) == 0 {
        let status = random.of(&[200, 200, 201, 204, 205, 206, 304, 400, 404, 500, 599, 100, 101]);
        steps.push(format!("status:{status}"));
    }
    for _ in 0..random.below(3) {
        let (name, value) = match random.below(8) {
            0..=4 => ("content-length", random.of(&SIZES).to_string()),
            5 => ("x-note", "HTTP/1.1 200 OK".to_owned()),
            6 => ("trailer", "x-trailer".to_owned()),
            _ => (random.of(&["content-length", "connection", "te"]), "close".to_owned()),
        };
        steps.push(format!("header:{name}={value}"));
    }
    let mut rest = vec![];
    if random.below(5) > 0 {
        rest.push("body".to_owned());
    }
    rest.push("set".to_owned());
    for _ in 0..random.below(4) {
        rest.push(match random.below(6) {
            0..=3 => format!("write:{}", random.of(&SIZES)),
            _ => format!("sleep:{}", random.below(20)),
        });
    }
    rest.push(
        random
            .of(&[
                "finish", "finish", "finish", "trailers", "drop", "forget", "trap", "fail", "none",
            ])
            .to_owned(),
    );
    // Now and then in no order at all.
    if random.below(4) == 0 {
        let (a, b) = (random.below(rest.len()), random.below(rest.len()));
        rest.swap(a, b);
    }
    steps.extend(rest);
    steps.join(",")
}

/// Plays what was found once, and then at random until the time is over.
pub(super) fn run(stage: &Stage, wish: Wish) {
    eprintln!("WAMBDA_DESYNC_SEED={} for {:?}", wish.seed, wish.time);
    for script in FOUND {
        for name in GUESTS {
            for door in DOORS {
                stage.play(door, name, "GET", script, true);
            }
        }
    }
    let (played, until) = (AtomicU64::new(0), Instant::now() + wish.time);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (played, mut random) = (&played, Random(wish.seed.wrapping_add(thread)));
            scope.spawn(move || {
                while Instant::now() < until {
                    let (door, name) = (random.of(&DOORS), random.of(&GUESTS));
                    let method = random.of(&["GET", "GET", "POST", "HEAD"]);
                    let script = script(&mut random);
                    stage.play(door, name, method, &script, random.below(2) == 0);
                    played.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let played = played.into_inner();
    eprintln!("{played} scripts were played");
    assert!(played > 20, "only {played} scripts were played");
    stage.server.assert_well();
}
