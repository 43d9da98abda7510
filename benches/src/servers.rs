//! The contenders' servers: each is started once, and has its functions when it is handed out.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::CORE;
use crate::args::Arguments;
use crate::bare::Bare;
use crate::contenders::{CONTENDERS, Code, Contender, Host};
use crate::load::Job;
use crate::process::Server;
use crate::sign::Signer;

/// Where `cargo xtask guests` leaves components.
const GUESTS: &str = "tests/guests/target/wasm32-wasip2/release";
/// The worker and its configuration.
const WORKERD: &str = "benches/peers/workerd.capnp";

/// `wasmtime serve` as its documentation begins, for 0.2 and 0.3. `-Scli` is needed by whatever was
/// built for wasm32-wasip2, since the standard library imports wasi:cli.
const DEFAULT: &[&str] = &["serve", "-Scli"];

/// All that `wasmtime serve` offers for requests like these:
/// - instances are reused as often as it can count, one request at a time (wasi:http 0.2 has no
///   other way), and are kept while a slice of somebody else goes on;
/// - the pooling allocator in place of a mapping for each instance, which keeps pages (with pagemap
///   scan it copies only those that were written) and all of its slots.
const TUNED: &[&str] = &[
    "serve",
    "-Scli",
    "--max-instance-reuse-count=4294967295",
    "--max-instance-concurrent-reuse-count=1",
    "--idle-instance-timeout=600s",
    "-Opooling-allocator=y",
    "-Opooling-pagemap-scan=auto",
    "-Opooling-memory-keep-resident=4194304",
    "-Opooling-table-keep-resident=524288",
    "-Opooling-max-unused-warm-slots=1000",
    "-Opooling-decommit-batch-size=16",
];

/// All servers that could be started.
pub(crate) struct Servers {
    running: Vec<(Host, Server)>,
    /// The version of each program.
    pub(crate) versions: Vec<String>,
    /// Flags of each server.
    pub(crate) flags: Vec<(Host, String)>,
    /// Peers that are not there, and why.
    pub(crate) missing: Vec<String>,
    signer: Signer,
    /// Dropped last: it has the servers' data.
    _data: TempDir,
}

impl Servers {
    pub(crate) fn start(arguments: &Arguments) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let (mut running, mut flags) = (Vec::new(), Vec::new());
        for bare in Bare::ALL {
            let server = Server::start(std::env::current_exe()?.as_path(), &[bare.as_str()])?;
            running.push((Host::Bare(bare), server));
        }
        for (host, folder, more) in [
            (Host::Wambda, "open", &[][..]),
            (Host::Keys, "keys", &["--auth", "keys"]),
            (Host::Wasi03, "wasi03", &["--wasi03"]),
        ] {
            let path = data.path().join(folder).to_string_lossy().into_owned();
            let all = ["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir", &path];
            let server = Server::start(&arguments.server, &[&all[..], more].concat())?;
            running.push((host, server));
            flags.push((host, [&["wambda", "serve", "--log", "warn"], more].concat().join(" ")));
        }
        let signer = Signer::read(&data.path().join("keys/root-key.json"))?;
        let versions = vec![version(&arguments.server)?];
        let missing = Vec::new();
        let mut this = Self { running, versions, flags, missing, signer, _data: data };
        for contender in CONTENDERS {
            this.deploy(contender).with_context(|| format!("cannot deploy {}", contender.name))?;
        }
        if !arguments.smoke {
            this.start_peers(arguments);
        }
        Ok(this)
    }

    /// Uploads a contender's function to its server.
    fn deploy(&self, contender: &Contender) -> Result<()> {
        let (Some(code), Some(server)) = (contender.code, self.get(contender.host)) else {
            return Ok(());
        };
        let code = bytes(code)?;
        let (name, reuse) = (contender.function(), contender.reuse());
        let path = format!("/v1/functions/{name}?reuse={reuse}");
        let mut request = ureq::put(format!("http://{}{path}", server.address));
        if contender.host == Host::Keys {
            for (header, value) in self.signer.headers(server.address, "PUT", &path, &code) {
                request = request.header(header, value);
            }
        }
        request.send(&code)?;
        Ok(())
    }

    fn start_peers(&mut self, arguments: &Arguments) {
        let (http, http3) = (file(Code::Http), file(Code::Http3));
        for (host, program, flags, what) in [
            (Host::Wasmtime, &arguments.wasmtime, DEFAULT, &*http),
            (Host::Tuned, &arguments.wasmtime, TUNED, &*http),
            (Host::Wasmtime03, &arguments.wasmtime, DEFAULT, &*http3),
            (Host::Workerd, &arguments.workerd, &["serve"], WORKERD),
        ] {
            let name = users(host);
            let Some(program) = program else {
                self.missing.push(format!("{name} is left out: its program is not there"));
                continue;
            };
            match peer(host, program, flags, what) {
                Ok(server) => {
                    self.running.push((host, server));
                    let program = program.file_name().unwrap_or_default().to_string_lossy();
                    self.flags.push((host, format!("{program} {}", flags.join(" "))));
                }
                Err(error) => self.missing.push(format!("{name} is left out: {error:#}")),
            }
        }
        for program in [&arguments.wasmtime, &arguments.workerd].into_iter().flatten() {
            self.versions.extend(version(program).ok());
        }
    }

    /// Ends a server that does not answer as it should.
    pub(crate) fn give_up(&mut self, host: Host, why: &anyhow::Error) {
        self.running.retain(|(of, _)| *of != host);
        self.missing.push(format!("{} was given up: {why:#}", users(host)));
    }

    pub(crate) fn get(&self, host: Host) -> Option<&Server> {
        self.running.iter().find(|(of, _)| *of == host).map(|(_, server)| server)
    }

    /// What is sent to a contender, signed now where that is needed.
    pub(crate) fn job(&self, contender: &Contender, server: &Server) -> Job {
        let (address, path) = (server.address, contender.path());
        let mut head = String::new();
        if contender.host == Host::Keys {
            for (header, value) in self.signer.headers(address, "POST", &path, b"{}") {
                head.push_str(&format!("{header}: {value}\r\n"));
            }
        }
        Job { address, path, head, body: "{}", wanted: "\"hello\"" }
    }
}

/// The contenders that a server answers for.
pub(crate) fn users(host: Host) -> String {
    let names = CONTENDERS.iter().filter(|contender| contender.host == host);
    names.map(|contender| contender.name).collect::<Vec<_>>().join(", ")
}

fn file(code: Code) -> String {
    let name = match code {
        Code::Core | Code::Event => "guest_hello",
        Code::Http => "guest_hello_http",
        Code::Http3 => "guest_hello_http3",
    };
    format!("{GUESTS}/{name}.wasm")
}

/// The upload: for wasi:http the same file that peers are given.
fn bytes(code: Code) -> Result<Vec<u8>> {
    if code == Code::Core {
        return Ok(CORE.as_bytes().to_vec());
    }
    let file = file(code);
    std::fs::read(&file).with_context(|| format!("{file} is missing: run `cargo xtask guests`"))
}

fn peer(host: Host, program: &Path, flags: &[&str], what: &str) -> Result<Server> {
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let place = match host {
        Host::Workerd => format!("--socket-addr=http={address}"),
        _ => format!("--addr={address}"),
    };
    Server::quiet(program, &[flags, &[&place, what]].concat(), address)
}

/// What a program says of itself.
fn version(program: &Path) -> Result<String> {
    let said = Command::new(program).arg("--version").output();
    let said = said.with_context(|| format!("cannot start {}", program.display()))?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_owned())
}
