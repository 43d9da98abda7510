//! `cargo xtask …`: everything that building, testing and showing Wambda needs, in Rust.

#![allow(clippy::disallowed_methods)] // a tool of its own

mod bench;
mod codegen;
mod demo;
mod fuzz;
mod moto;
mod readme;
mod sh;
mod test;
mod tidy;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  demo [--exit]     build everything, start a server, show the examples on it
  test              everything that must pass: set-up, guests, lints, all tests
  test --long       the same, with more trials of what is tried at random
  test --aws        moto's own tests of Lambda, STS and IAM, against a server
  readme            type what the README shows, against the debug build
  guests            build the examples and the test guests
  bench [hello | work NAME…] [--quick]
                    measure Wambda beside its peers, and workloads
  bench queue       measure durable events, beside Redis Streams and NATS JetStream
  bench inside      measure invocations without HTTP
  bench overload    measure what is beyond capacity, and beside bad neighbours
                    (with --release each is built sooner, without link-time optimisation)
  chaos [CYCLES]    kill the server again and again under load, and check the ledger
  fuzz --smoke      each fuzz target for a minute (or: fuzz TARGET [SECONDS]); needs a nightly
                    toolchain, except for desync: hostile responses beside a victim
  codegen [--check] the AWS protocol front, from botocore's service models
  deny              check licences, sources and bans of what is depended on; deny.checked says what passed
  tidy              check file sizes, headers and dependency directions
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["demo", rest @ ..] => demo::run(rest),
        ["test", "--aws"] => moto::run(),
        ["test", rest @ ..] => test::run(rest),
        ["readme"] => test::readme(),
        ["guests"] => demo::guests(),
        ["bench", "queue", rest @ ..] => bench::queue(rest),
        ["bench", "inside", rest @ ..] => bench::inside(rest),
        ["bench", "overload", rest @ ..] => bench::overload(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["chaos", rest @ ..] => test::chaos(rest),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["codegen"] => codegen::run(false),
        ["codegen", "--check"] => codegen::run(true),
        ["deny"] => test::deny(),
        ["tidy"] => tidy::run(),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("no command {other:?}\n\n{HELP}"),
    }
}
