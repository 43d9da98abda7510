//! The harness: a real server of its own for each test, on a free port, with data of its own, and
//! helpers to talk to it as users do. Everything panics on failure: this is test code.

#![allow(clippy::disallowed_methods)] // tests measure and wait

pub mod outside;
pub mod said;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use said::Said;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use ureq::Agent;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The `wambda` program, built beside the tests.
pub fn program() -> PathBuf {
    // target/PROFILE/deps/it-… → target/PROFILE/wambda
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("wambda");
    assert!(program.exists(), "{} is not there: run `cargo xtask test`", program.display());
    program
}

/// A built guest of `tests/guests`.
pub fn guest(name: &str) -> Vec<u8> {
    wasm(&format!("tests/guests/target/wasm32-wasip2/release/guest_{name}.wasm"))
}

/// A built example.
pub fn example(name: &str, target: &str) -> Vec<u8> {
    wasm(&format!("examples/target/{target}/release/{name}.wasm"))
}

fn wasm(path: &str) -> Vec<u8> {
    let path = root().join(path);
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask guests`", path.display()))
}

/// The Python with the clients in it.
pub fn python() -> String {
    std::env::var("WAMBDA_TEST_PYTHON").unwrap_or_else(|_| {
        let venv = root().join("target/venv/bin/python");
        assert!(venv.exists(), "no Python clients: run `cargo xtask test`");
        venv.display().to_string()
    })
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Expects a status, and returns itself.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The message of a `/v1` error.
    #[track_caller]
    pub fn message(&self) -> String {
        let json = self.json();
        json.pointer("/error/message").and_then(Value::as_str).expect("an error").to_owned()
    }
}

/// A server of the test's own.
pub struct Server {
    child: Child,
    pub url: String,
    data: PathBuf,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    agent: Agent,
    said: Said,
    _dir: Option<tempfile::TempDir>,
}

/// Memory and open files of a server at rest.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    /// Bytes of memory of its own.
    pub resident: u64,
    files: usize,
}

impl Server {
    /// A fresh server.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A fresh server with more arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::on(&dir.path().join("data"), arguments);
        server._dir = Some(dir);
        server
    }

    /// A fresh server whose data directory another user can get at.
    pub fn with_open(arguments: &[&str]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Self::on(&dir.path().join("data"), arguments);
        server._dir = Some(dir);
        server
    }

    /// A fresh server with more in its environment.
    pub fn with_env(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self::on_with(&dir.path().join("data"), arguments, env);
        server._dir = Some(dir);
        server
    }

    /// A server on data that may be there already.
    pub fn on(data: &Path, arguments: &[&str]) -> Self {
        Self::on_with(data, arguments, &[])
    }

    fn on_with(data: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let said = Said::default();
        let (child, url) = spawn(data, &arguments, &env, &said);
        let agent = Agent::config_builder().http_status_as_error(false).build().into();
        Self { child, url, data: data.to_owned(), arguments, env, agent, said, _dir: None }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What the server has written to its standard error.
    pub fn said(&self) -> &Said {
        &self.said
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// host:port
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let answer = self.try_request(method, path, headers, body);
        answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// What a request comes to where the connection may be cut before the answer is whole.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let began = Instant::now();
        let mut response = self.agent.run(request.body(body).unwrap())?;
        let headers = response.headers().iter();
        let headers =
            headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or("?").to_owned())).collect();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        Ok(Answer { status: response.status().as_u16(), headers, body, took: began.elapsed() })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// Uploads; `query` is the configuration.
    pub fn put(&self, name: &str, upload: &[u8], query: &str) -> Answer {
        self.request("PUT", &format!("/v1/functions/{name}?{query}"), &[], upload)
    }

    /// Uploads, and expects that to succeed.
    #[track_caller]
    pub fn deploy(&self, name: &str, upload: &[u8], query: &str) -> Value {
        let answer = self.put(name, upload, query);
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()
    }

    pub fn invoke(&self, name: &str, event: &str) -> Answer {
        self.request("POST", &format!("/v1/functions/{name}/invoke"), &[], event.as_bytes())
    }

    /// The value of a series such as `wambda_host_panics_total`; 0 when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").expect(200).text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The function's log as text.
    pub fn log(&self, name: &str) -> String {
        self.get(&format!("/v1/functions/{name}/logs?format=text&limit=4096")).expect(200).text()
    }

    /// Publishes a layer by Lambda's API.
    pub fn publish_layer(&self, name: &str, zip: &[u8]) -> Answer {
        let body = serde_json::json!({"Content": {"ZipFile": BASE64.encode(zip)}}).to_string();
        let path = format!("/2018-10-31/layers/{name}/versions");
        self.request("POST", &path, &[("content-type", "application/json")], body.as_bytes())
    }

    /// Gives a function its layers. They stay when its code changes.
    #[track_caller]
    pub fn set_layers(&self, function: &str, arns: &[&str]) {
        let body = serde_json::json!({"Layers": arns}).to_string();
        let path = format!("/2015-03-31/functions/{function}/configuration");
        let json = [("content-type", "application/json")];
        self.request("PUT", &path, &json, body.as_bytes()).expect(200);
        eventually(Duration::from_secs(20), || {
            let described = self.get(&path).expect(200).json();
            (described["LastUpdateStatus"] == "Successful").then_some(())
        });
    }

    /// Calls IAM, in its query protocol.
    #[track_caller]
    pub fn iam(&self, action: &str, fields: &[(&str, &str)]) -> String {
        let escape = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let fields: String = fields.iter().map(|(k, v)| format!("&{k}={}", escape(v))).collect();
        let body = format!("Version=2010-05-08&Action={action}{fields}");
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.request("POST", "/", &headers, body.as_bytes()).expect(200).text()
    }

    /// Makes a role that functions may have.
    #[track_caller]
    pub fn role(&self, name: &str) {
        let trust = serde_json::json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]});
        let fields = [("RoleName", name), ("AssumeRolePolicyDocument", &*trust.to_string())];
        self.iam("CreateRole", &fields);
    }

    /// A connection from another address of this machine, such as 127.0.0.2.
    pub fn connect_from(&self, source: &str) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let source: SocketAddr = format!("{source}:0").parse().unwrap();
        socket.bind(&source.into()).unwrap();
        let server: SocketAddr = self.address().parse().unwrap();
        socket.connect(&server.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes as they are; returns what comes back until the connection closes or is silent.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again on the same data; a port of its own again.
    pub fn restart(&mut self) -> Duration {
        let began = Instant::now();
        (self.child, self.url) = spawn(&self.data, &self.arguments, &self.env, &self.said);
        began.elapsed()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the process to end. Returns whether it ended well.
    pub fn wait(&mut self, patience: Duration) -> bool {
        eventually(patience, || self.child.try_wait().unwrap()).success()
    }

    /// Runs the command line against this server.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(["--server", &self.url]).args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Resident bytes of the process that are its own. Pages of its program are the kernel's: it has those of
    /// which something was used, and drops them as it likes.
    pub fn resident(&self) -> u64 {
        self.status("RssAnon:") + self.status("RssShmem:")
    }

    /// What it has at rest, to be compared with what it has later.
    pub fn rest(&self) -> Rest {
        std::thread::sleep(Duration::from_millis(500));
        Rest { resident: self.resident(), files: self.open_files() }
    }

    /// Within five seconds it has no more than it had then, but for so many megabytes and the connections of this very
    /// test.
    #[track_caller]
    pub fn assert_rests(&self, then: &Rest, megabytes: u64) {
        let most = then.resident + (megabytes << 20);
        let mut left = String::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let (resident, files) = (self.resident(), self.open_files());
            if resident <= most && files <= then.files + 2 {
                return;
            }
            let files = files.saturating_sub(then.files);
            left = format!("{} KB too much and {files} files", resident.saturating_sub(most) >> 10);
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("left behind: {left}");
    }

    /// The most resident bytes while this happens, beyond those before (proc(5): `clear_refs`, `VmHWM`).
    pub fn most_resident(&self, act: impl FnOnce()) -> u64 {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
        let before = self.status("VmRSS:");
        act();
        self.status("VmHWM:").saturating_sub(before)
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Files, sockets and the like that the process has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Its threads.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// The server is alive, has not panicked, and answers quickly.
    #[track_caller]
    pub fn assert_well(&self) {
        assert_eq!(self.get("/healthz").status, 200);
        assert_eq!(self.metric("wambda_host_panics_total"), 0.0, "a panic in the host");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    data: &Path,
    arguments: &[String],
    env: &[(String, String)],
    said: &Said,
) -> (Child, String) {
    // Whoever wants allocations counted, or panics, says so in the environment.
    let special = [("WAMBDA_COUNTED", "counted"), ("WAMBDA_PANICS", "panics")];
    let special = special.iter().find(|(key, _)| env.iter().any(|(given, _)| given == key));
    let program = match special {
        Some((_, name)) => program().with_file_name("examples").join(name),
        None => program(),
    };
    let mut child = Command::new(program)
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"])
        .arg(data)
        .args(arguments)
        // To print stacks it reads its own debugging information, a hundred megabytes.
        .env_remove("RUST_BACKTRACE")
        // As tests with raw sockets call it.
        .env("WAMBDA_ALLOWED_HOSTS", "a,b,h,x")
        .envs(env.iter().map(|(key, value)| (key, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    said.listen(child.stderr.take().unwrap());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("wambda listening on ").expect("the ready line").to_owned();
    (child, url)
}

/// A server on data that may be damaged, or what it says when it does not start.
///
/// # Errors
/// That.
pub fn try_start(data: &Path, arguments: &[&str]) -> Result<Server, String> {
    let mut command = Command::new(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"]).arg(data);
    command.args(arguments).env_remove("RUST_BACKTRACE");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let said = Said::default();
    said.listen(child.stderr.take().unwrap());
    let url = line.trim().strip_prefix("wambda listening on ").expect("the ready line").to_owned();
    let agent = Agent::config_builder().http_status_as_error(false).build().into();
    let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    let data = data.to_owned();
    Ok(Server { child, url, data, arguments, env: Vec::new(), agent, said, _dir: None })
}

/// What a server says that must not start; it listens on a free port, unless `arguments` say otherwise.
#[track_caller]
pub fn refused_start(data: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(["serve", "--data-dir"]).arg(data).args(arguments).stdin(Stdio::null());
    let output = command.env("WAMBDA_LISTEN", "127.0.0.1:0").output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The time that this many of a hundred do not exceed; nothing for none.
pub fn percentile(took: &mut [Duration], per_cent: usize) -> Duration {
    took.sort();
    let last = took.len().saturating_sub(1);
    took.get((took.len() * per_cent / 100).min(last)).copied().unwrap_or_default()
}

/// Runs a script of `tests/clients` against a server.
#[track_caller]
pub fn script(server: &Server, name: &str) {
    script_with(server, name, &[]);
}

/// Runs a script with more in its environment.
#[track_caller]
pub fn script_with(server: &Server, name: &str, env: &[(&str, &str)]) {
    let output = Command::new(python())
        .arg(root().join("tests/clients").join(name))
        .env("WAMBDA_URL", &server.url)
        .env("WAMBDA_ROOT", root())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}:\n{said}");
}

/// Tries until there is an answer.
#[track_caller]
pub fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is measured, once it is less than `most`. What else goes on on a machine only adds: one time of four has to be good. For
/// what would be as slow each time, and no less slow for having been done.
pub fn within(most: Duration, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut all = Vec::new();
    for _ in 0..4 {
        let took = measure();
        if took < most {
            return took;
        }
        all.push(took);
    }
    panic!("never within {most:?}: {all:?}");
}

/// Compiles WAT in the test, where a test wants the binary.
pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}
