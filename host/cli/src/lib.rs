//! The `wambda` command: the server, and its client. Everything but `serve`, `doctor` and `compile` talks to
//! a server over HTTP, like any client. A library only so that a test can give it another allocator.

mod client;
mod credentials;
mod demo;
mod deploy;
mod doctor;
mod invoke;
mod keys;
mod queue;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use wambda_confine::Wall;
use wambda_model::limits::{COMPILE_ADDRESS_BYTES, COMPILE_CPU_SECONDS};
use wambda_model::{BuildError, Clock, SystemClock};
use wambda_runtime::{EngineKind, child};
use wambda_server::ServeArgs;

use client::Client;
use credentials::Signer;

/// AWS Lambda that you run yourself, with WebAssembly sandboxes.
#[derive(Debug, Parser)]
#[command(name = "wambda", version, about, max_term_width = 100)]
struct Cli {
    /// The server to talk to
    #[arg(long, global = true, env = "WAMBDA_SERVER", default_value = "http://127.0.0.1:5262")]
    server: String,
    /// Sign with the account's own key: DATA-DIR/root-key.json of a server with --auth keys.
    /// Without it, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY sign, if they are set
    #[arg(long, global = true, env = "WAMBDA_ROOT_KEY")]
    root_key: Option<PathBuf>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<ServeArgs>),
    /// Create a function or replace its code
    Deploy(Box<deploy::DeployArgs>),
    /// Run a function and print its result
    Invoke(invoke::InvokeArgs),
    /// List functions
    List,
    /// Show a function's log
    Logs(show::LogsArgs),
    /// Delete functions
    Delete {
        /// Names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Manage users' access keys, for a server with --auth keys
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Look into queues, and move what is in them
    Queue {
        #[command(subcommand)]
        command: queue::QueueCommand,
    },
    /// Show what became of an asynchronous invocation
    Status {
        /// Its id
        id: String,
    },
    /// Say what of a stopped server's data directory is damaged, and what can be saved
    Doctor(doctor::DoctorArgs),
    /// Start a server and show the examples on it
    Demo(demo::DemoArgs),
    /// Print shell completions
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Unpack one upload and say what it is; the server runs this as a child of its own
    #[command(hide = true)]
    Inspect {
        #[command(flatten)]
        limits: ChildLimits,
        /// Whether WASI 0.3 is allowed
        #[arg(long)]
        wasi03: bool,
        /// It is a layer, which is only checked
        #[arg(long)]
        layer: bool,
        /// The upload
        input: PathBuf,
        /// The wasm in it
        output: PathBuf,
    },
    /// Compile one upload; the server runs this as a child of its own
    #[command(hide = true)]
    Compile {
        /// main or wasi03
        #[arg(long)]
        engine: String,
        #[command(flatten)]
        limits: ChildLimits,
        /// The wasm
        input: PathBuf,
        /// The artifact
        output: PathBuf,
    },
}

/// What a child may use.
#[derive(Debug, clap::Args)]
struct ChildLimits {
    /// Limit for CPU time, in seconds
    #[arg(long, default_value_t = COMPILE_CPU_SECONDS)]
    cpu_seconds: u64,
    /// Limit for the address space
    #[arg(long, default_value_t = COMPILE_ADDRESS_BYTES)]
    address_bytes: u64,
    /// How much of Landlock it has to work behind
    #[arg(long, default_value = Wall::NONE.landlock, value_parser = ["none", "partial", "full"])]
    landlock: String,
    /// Whether it has to work behind seccomp
    #[arg(long)]
    seccomp: bool,
}

impl From<ChildLimits> for child::Limits {
    fn from(given: ChildLimits) -> Self {
        let ChildLimits { cpu_seconds, address_bytes, landlock, seccomp } = given;
        // The parser lets no other one through.
        let wall = Wall::of(&landlock, seccomp).unwrap_or(Wall::NONE);
        Self { cpu_seconds, address_bytes, wall, ..Self::default() }
    }
}

/// What a child tells the server, by its exit code.
fn child_code(done: Result<String, BuildError>) -> Result<ExitCode> {
    let (why, code) = match done {
        Ok(said) => {
            show::out(&said)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(BuildError::Invalid(why)) => (why, ExitCode::FAILURE),
        Err(BuildError::TooLarge(why)) => (why, ExitCode::from(child::EXIT_LARGE)),
        Err(BuildError::Full(why)) => (why, ExitCode::from(child::EXIT_FULL)),
        Err(BuildError::Busy(why) | BuildError::Internal(why)) => {
            (why, ExitCode::from(child::EXIT_MACHINE))
        }
    };
    eprintln!("{why}");
    Ok(code)
}

/// Does what the arguments of this process say.
#[must_use]
pub fn main() -> ExitCode {
    main_with(Arc::new(SystemClock))
}

/// The same, with another clock for the server.
#[must_use]
pub fn main_with(clock: Arc<dyn Clock>) -> ExitCode {
    match run(Cli::parse(), &clock) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, clock: &Arc<dyn Clock>) -> Result<ExitCode> {
    let client = || {
        let signer = Signer::find(cli.root_key.as_deref())?;
        Ok::<_, anyhow::Error>(Client::new(&cli.server, signer))
    };
    match cli.command {
        Command::Serve(args) => wambda_server::serve(&args.settle()?, clock)?,
        Command::Deploy(args) => deploy::run(&client()?, &args, cli.json)?,
        Command::Invoke(args) => return invoke::run(&client()?, args, cli.json),
        Command::List => show::list(&client()?, cli.json)?,
        Command::Logs(args) => show::logs(&client()?, &args, cli.json)?,
        Command::Delete { names } => show::delete(&client()?, &names, cli.json)?,
        Command::Keys { command } => keys::run(&client()?, command, cli.json)?,
        Command::Queue { command } => queue::run(&client()?, command, cli.json)?,
        Command::Status { id } => queue::status(&client()?, &id, cli.json)?,
        Command::Doctor(args) => return doctor::run(&args, cli.json),
        Command::Demo(args) => demo::run(&args)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wambda", &mut std::io::stdout());
        }
        Command::Inspect { limits, layer: true, input, output, .. } => {
            return child_code(child::check_layer(&limits.into(), &input, &output));
        }
        Command::Inspect { limits, wasi03, input, output, .. } => {
            return child_code(child::inspect(&limits.into(), wasi03, &input, &output));
        }
        Command::Compile { engine, limits, input, output } => {
            let kind = EngineKind::parse(&engine).ok_or_else(|| anyhow!("no engine {engine:?}"))?;
            return child_code(child::compile(kind, &limits.into(), &input, &output));
        }
    }
    Ok(ExitCode::SUCCESS)
}
