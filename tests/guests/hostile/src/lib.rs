//! An event function that abuses the host's interfaces as the event says.

mod files;

use std::hint::black_box;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use wambda::{Context, Error};
use wasip2::cli::{environment, stdin, stdout, terminal_stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::http::types::{Fields, OutgoingRequest};
use wasip2::io::poll;
use wasip2::random::{insecure, random};
use wasip2::sockets::{
    instance_network, ip_name_lookup, network, tcp, tcp_create_socket, udp_create_socket,
};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Order {
    Abort,
    ExitWell,
    Thread,
    /// Makes timers that never fire, and keeps them.
    Pollables {
        n: usize,
    },
    /// Waits for this many timers at once.
    PollMany {
        n: usize,
    },
    PollNothing,
    PollForever,
    /// The same timer again and again in one list.
    PollRepeated {
        n: usize,
    },
    /// Fields that nobody drops.
    LeakFields {
        n: usize,
    },
    LeakRequests {
        n: usize,
    },
    LeakStreams {
        n: usize,
    },
    LeakSockets {
        n: usize,
    },
    /// One set of headers, entry by entry.
    Headers {
        n: usize,
    },
    HeadersAtOnce {
        n: usize,
    },
    LongHeader {
        bytes: usize,
    },
    HeaderLines,
    Random {
        bytes: u64,
    },
    RandomForever,
    InsecureRandom {
        bytes: u64,
    },
    PrintSingly {
        n: usize,
    },
    PrintBlocks {
        n: usize,
    },
    /// Writes more than the stream said it takes.
    WriteBeyond,
    WriteZeroes {
        n: u64,
    },
    FlushForever,
    Stdin,
    EnvironmentForever,
    ClockForever,
    TerminalForever,
    Directories,
    Listen,
    Udp,
    Lookup {
        name: String,
    },
    /// An error with a message of this size, and this many frames.
    Complain {
        bytes: usize,
        frames: usize,
    },
    /// Fills its memory with a word, and keeps it.
    Plant {
        mb: usize,
    },
    /// Looks for a word in memory that it was just given.
    Dig {
        mb: usize,
    },
    /// Abuses the files of a layer.
    Files {
        act: String,
        #[serde(default)]
        n: u64,
    },
    /// Waits a little, over and over.
    Nap {
        ms: u64,
    },
}

#[wambda::handler]
fn handle(order: Order, _: Context) -> Result<Value, Error> {
    Ok(match order {
        Order::Abort => std::process::abort(),
        Order::ExitWell => std::process::exit(0),
        Order::Thread => json!(std::thread::Builder::new().spawn(|| ()).is_ok()),
        Order::Pollables { n } => json!(keep(n, never)),
        Order::PollMany { n } => {
            let timers: Vec<_> =
                (0..n).map(|_| monotonic_clock::subscribe_duration(1_000)).collect();
            let list: Vec<_> = timers.iter().collect();
            json!(poll::poll(&list).len() > 0)
        }
        Order::PollNothing => json!(poll::poll(&[]).len()),
        Order::PollForever => {
            never().block();
            json!("never")
        }
        Order::PollRepeated { n } => {
            let timer = monotonic_clock::subscribe_duration(1_000);
            json!(poll::poll(&vec![&timer; n]).len())
        }
        Order::LeakFields { n } => json!(keep(n, Fields::new)),
        Order::LeakRequests { n } => json!(keep(n, || OutgoingRequest::new(Fields::new()))),
        Order::LeakStreams { n } => json!(keep(n, stdout::get_stdout)),
        Order::LeakSockets { n } => {
            json!(keep(n, || tcp_create_socket::create_tcp_socket(network::IpAddressFamily::Ipv4)))
        }
        Order::Headers { n } => {
            let fields = Fields::new();
            let good = (0..n).take_while(|n| fields.append(&format!("h{n}"), b"v").is_ok()).count();
            json!(good)
        }
        Order::HeadersAtOnce { n } => {
            let entries: Vec<_> = (0..n).map(|n| (format!("h{n}"), b"v".to_vec())).collect();
            json!(Fields::from_list(&entries).is_ok())
        }
        Order::LongHeader { bytes } => json!(Fields::new().append("h", &vec![b'v'; bytes]).is_ok()),
        Order::HeaderLines => {
            let bad = ["a\r\nb: c", "a\n", "a\0", "\u{7f}"];
            let values =
                bad.iter().filter(|v| Fields::new().append("h", v.as_bytes()).is_ok()).count();
            let names =
                ["a b", "a:", "", "a\r\n", "host", "connection", "transfer-encoding", "upgrade"];
            let names =
                names.iter().filter(|name| Fields::new().append(name, b"v").is_ok()).count();
            json!([values, names])
        }
        Order::Random { bytes } => json!(random::get_random_bytes(bytes).len()),
        Order::RandomForever => loop {
            black_box(random::get_random_bytes(65_536));
        },
        Order::InsecureRandom { bytes } => json!(insecure::get_insecure_random_bytes(bytes).len()),
        Order::PrintSingly { n } => {
            let out = stdout::get_stdout();
            json!((0..n).filter(|_| out.blocking_write_and_flush(b"x").is_ok()).count())
        }
        Order::PrintBlocks { n } => {
            let (out, block) = (stdout::get_stdout(), vec![b'x'; 1 << 20]);
            for _ in 0..n {
                let mut rest = &block[..];
                while !rest.is_empty() {
                    let room = out.check_write().unwrap_or(0) as usize;
                    let (head, tail) = rest.split_at(room.min(rest.len()));
                    let _ = out.write(head);
                    rest = tail;
                }
            }
            json!(n)
        }
        Order::WriteBeyond => json!(stdout::get_stdout().write(&vec![b'x'; 8 << 20]).is_ok()),
        Order::WriteZeroes { n } => json!(stdout::get_stdout().write_zeroes(n).is_ok()),
        Order::FlushForever => loop {
            let _ = stdout::get_stdout().blocking_flush();
        },
        Order::Stdin => json!(stdin::get_stdin().blocking_read(1 << 40).map_or(0, |b| b.len())),
        Order::EnvironmentForever => loop {
            black_box((environment::get_environment(), environment::get_arguments()));
        },
        Order::ClockForever => loop {
            black_box((wall_clock::now(), monotonic_clock::now()));
        },
        Order::TerminalForever => loop {
            black_box(terminal_stdout::get_terminal_stdout());
        },
        Order::Directories => json!(preopens::get_directories().len()),
        Order::Listen => {
            let socket = tcp_create_socket::create_tcp_socket(network::IpAddressFamily::Ipv4);
            let at = tcp::IpSocketAddress::Ipv4(network::Ipv4SocketAddress {
                port: 0,
                address: (127, 0, 0, 1),
            });
            json!(match socket {
                Ok(socket) =>
                    format!("{:?}", socket.start_bind(&instance_network::instance_network(), at)),
                Err(code) => format!("Err({code:?})"),
            })
        }
        Order::Udp => {
            json!(match udp_create_socket::create_udp_socket(network::IpAddressFamily::Ipv4) {
                Ok(socket) => {
                    let any = network::Ipv4SocketAddress { port: 0, address: (0, 0, 0, 0) };
                    let at = network::IpSocketAddress::Ipv4(any);
                    format!("{:?}", socket.start_bind(&instance_network::instance_network(), at))
                }
                Err(code) => format!("Err({code:?})"),
            })
        }
        Order::Lookup { name } => {
            let found =
                ip_name_lookup::resolve_addresses(&instance_network::instance_network(), &name);
            json!(match found {
                Ok(addresses) => {
                    addresses.subscribe().block();
                    format!("{:?}", addresses.resolve_next_address())
                }
                Err(code) => format!("Err({code:?})"),
            })
        }
        Order::Complain { bytes, frames } => {
            let mut error = Error::new("E".repeat(bytes), "m".repeat(bytes));
            error.stack = vec!["frame".to_owned(); frames];
            return Err(error);
        }
        Order::Plant { mb } => {
            let planted = "canary!!".repeat(mb << 17);
            let length = black_box(&planted).len();
            std::mem::forget(planted);
            json!(length)
        }
        Order::Dig { mb } => json!(dig(mb << 20)),
        Order::Files { act, n } => files::act(&act, n),
        Order::Nap { ms } => loop {
            std::thread::sleep(Duration::from_millis(ms));
        },
    })
}

fn never() -> wasip2::io::poll::Pollable {
    monotonic_clock::subscribe_duration(u64::MAX)
}

fn keep<T>(n: usize, make: impl Fn() -> T) -> usize {
    let kept: Vec<T> = (0..n).map(|_| make()).collect();
    std::mem::forget(kept);
    n
}

/// Bytes that are not zero in memory that nobody of this instance has written.
fn dig(bytes: usize) -> usize {
    let pages = bytes / 65_536;
    let before = core::arch::wasm32::memory_grow(0, pages);
    if before == usize::MAX {
        return usize::MAX;
    }
    let from = before * 65_536;
    let mut found = 0;
    for at in (from..from + pages * 65_536).step_by(8) {
        // SAFETY: pages that were added just now, which nothing else uses.
        let word = unsafe { core::ptr::read_volatile(at as *const u64) };
        found += usize::from(word != 0);
    }
    found
}
