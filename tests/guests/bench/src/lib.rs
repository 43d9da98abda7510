//! What the benchmark's workloads ask of a function. What can be asked of a native program as well
//! is in `work.rs`, which the benchmark compiles too, to compare with.

mod work;

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wambda::{Context, Error};

#[wambda::handler]
fn handle(event: Value, _context: Context) -> Result<Value, Error> {
    let number = |name: &str| event.get(name).and_then(Value::as_u64).unwrap_or_default();
    match event.get("do").and_then(Value::as_str) {
        Some("clock") => {
            let mut first = None;
            for _ in 0..number("times") {
                first.get_or_insert(black_box(Instant::now()));
            }
            Ok(json!("told"))
        }
        Some("random") => {
            for _ in 0..number("times") {
                black_box(wasip2::random::random::get_random_bytes(32));
            }
            Ok(json!("told"))
        }
        Some("sleep") => {
            std::thread::sleep(Duration::from_millis(number("ms")));
            Ok(json!("awake"))
        }
        Some("fail") => Err(Error::new("Wanted", "as you wished")),
        _ => work::answer(event).map_err(|message| Error::new("Work", message)),
    }
}
