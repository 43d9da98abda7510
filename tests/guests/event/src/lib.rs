//! An event function that does what the event says, most of it bad.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use wambda::{Context, Error};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Order {
    /// How often this instance was asked.
    Count,
    /// What the context says.
    Context,
    /// An environment variable.
    Env {
        name: String,
    },
    /// All of its environment.
    EnvAll,
    Error,
    /// Fails at the attempts before this one.
    FailUntil {
        attempt: u32,
    },
    Panic,
    Exit {
        status: i32,
    },
    Loop,
    Sleep {
        ms: u64,
    },
    SleepForever,
    /// Busy for a while, then well.
    Work {
        ms: u64,
    },
    /// Takes memory until there is none.
    Grow,
    /// Takes this much and answers.
    Take {
        mb: usize,
    },
    Recurse,
    /// Writes this many lines.
    Print {
        lines: usize,
    },
    /// Writes one line without an end.
    PrintLong {
        bytes: usize,
    },
    PrintForever,
    PrintBytes {
        hex: String,
    },
    /// Answers with this many bytes.
    Answer {
        bytes: usize,
    },
    /// Opens a file, a socket, a name.
    Reach {
        address: String,
    },
    Files,
    /// Reads a file.
    Read {
        path: String,
    },
    /// Writes a file.
    Write {
        path: String,
    },
    /// Asks for a lot of randomness at once.
    Random {
        bytes: usize,
    },
}

static COUNT: AtomicU64 = AtomicU64::new(0);

#[wambda::handler]
fn handle(order: Order, context: Context) -> Result<Value, Error> {
    Ok(match order {
        Order::Count => json!(COUNT.fetch_add(1, Ordering::Relaxed) + 1),
        Order::FailUntil { attempt } if context.attempt < attempt => {
            return Err(Error::new("Flaky", format!("attempt {}", context.attempt)));
        }
        Order::FailUntil { .. } => json!(context.attempt),
        Order::Context => json!({
            "request_id": context.request_id,
            "function_name": context.function_name,
            "function_version": context.function_version,
            "arn": context.invoked_function_arn,
            "memory": context.memory_limit_bytes,
            "remaining_ms": context.remaining().as_millis() as u64,
            "log_group": context.log_group_name,
            "client_context": context.client_context,
            "trace": context.trace_header,
            "attempt": context.attempt,
        }),
        Order::Env { name } => json!(std::env::var(name).ok()),
        Order::EnvAll => json!(std::env::vars().map(|(name, _)| name).collect::<Vec<_>>()),
        Order::Read { path } => match std::fs::read_to_string(path) {
            Ok(text) => json!({"text": text}),
            Err(error) => json!({"error": error.to_string()}),
        },
        Order::Write { path } => match std::fs::write(path, "written") {
            Ok(()) => json!({"text": "written"}),
            Err(error) => json!({"error": error.to_string()}),
        },
        Order::Error => return Err(Error::new("Wanted", "as you wished")),
        Order::Panic => panic!("as you wished"),
        Order::Exit { status } => std::process::exit(status),
        Order::Loop => loop {
            black_box(0);
        },
        Order::Sleep { ms } => {
            std::thread::sleep(Duration::from_millis(ms));
            json!("awake")
        }
        Order::SleepForever => {
            std::thread::sleep(Duration::from_nanos(u64::MAX));
            json!("never")
        }
        Order::Work { ms } => {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(ms) {
                for n in 0..10_000u64 {
                    black_box(n);
                }
            }
            json!("done")
        }
        Order::Grow => {
            let mut taken = Vec::new();
            loop {
                taken.push(black_box(vec![1u8; 1 << 20]));
            }
        }
        Order::Take { mb } => json!(black_box(vec![1u8; mb << 20]).len()),
        Order::Recurse => json!(recurse(0)),
        Order::Print { lines } => {
            (0..lines).for_each(|n| println!("line {n}"));
            json!(lines)
        }
        Order::PrintLong { bytes } => {
            print!("{}", "x".repeat(bytes));
            json!(bytes)
        }
        Order::PrintForever => loop {
            println!("{}", "flood ".repeat(1000));
        },
        Order::PrintBytes { hex } => {
            use std::io::Write;
            let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
            let bytes: Result<Vec<u8>, _> = (0..hex.len()).step_by(2).map(digit).collect();
            std::io::stdout().write_all(&bytes?)?;
            std::io::stdout().flush()?;
            json!("written")
        }
        Order::Answer { bytes } => json!("x".repeat(bytes)),
        Order::Reach { address } => match std::net::TcpStream::connect(&address) {
            Ok(_) => json!("reached"),
            Err(error) => json!(format!("refused: {error}")),
        },
        Order::Files => json!(match std::fs::read_dir("/") {
            Ok(entries) => entries.count().to_string(),
            Err(error) => format!("refused: {error}"),
        }),
        Order::Random { bytes } => {
            use std::hash::{BuildHasher, Hasher};
            // std asks the host for randomness once a hasher.
            let hashers = (0..bytes.div_ceil(16))
                .map(|_| std::collections::hash_map::RandomState::new().build_hasher().finish());
            json!(hashers.fold(0, |a, b| a ^ b) != 0)
        }
    })
}

#[inline(never)]
#[allow(unconditional_recursion)] // on purpose
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(frame[(depth % 64) as usize] + 1) + frame[0]
}
