//! Tests of the whole, one binary. Each starts a server of its own and uses it as users do: HTTP,
//! the command line, boto3, a Prometheus parser. Guests that only tests need are in `tests/guests`
//! and, as WAT, in [`wats`].

#![allow(clippy::disallowed_methods)] // tests measure and wait

mod account;
mod allocations;
mod aws;
mod browser;
mod cli;
mod clients;
mod compiling;
mod connections;
mod damage;
mod durability;
mod egress;
mod events;
mod exhausted;
mod fairness;
mod forks;
mod framing;
mod front;
mod hostile;
mod http_kinds;
mod inside;
mod isolation;
mod kinds;
mod leaving;
mod ledger;
mod limits;
mod lineage;
mod logs;
mod matching;
mod memory;
mod native;
mod panics;
mod pool;
mod readers;
mod shares;
mod smith;
mod stopping;
mod threads;
mod wall;
mod wats;
