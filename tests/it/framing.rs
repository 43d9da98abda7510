//! Where a response ends: whatever a function says of its length, the next response on the connection is the next
//! client's own, or the connection is closed. A table, and a fuzzer that plays scripts at random (docs/SPECIFICATION.md).

mod fuzz;
mod wire;

use std::time::Duration;

use serde_json::json;
use wambda_tests::{Server, guest};

use crate::wats;
use wire::{Connection, End};

/// How a hostile function is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// `/fn/NAME/…`.
    Path,
    /// A function URL that streams, and one that buffers.
    Url(&'static str),
    /// `/v1/functions/NAME/invoke`, with an event that is a request.
    Native,
    /// Lambda's `Invoke`, and `InvokeWithResponseStream`.
    Lambda(&'static str),
}

const DOORS: [Door; 6] = [
    Door::Path,
    Door::Url("RESPONSE_STREAM"),
    Door::Url("BUFFERED"),
    Door::Native,
    Door::Lambda("2015-03-31/functions/NAME/invocations"),
    Door::Lambda("2021-11-15/functions/NAME/response-streaming-invocations"),
];

/// The stage: a server with hostile functions of each kind, and a victim.
struct Stage {
    server: Server,
    /// Function, invoke mode, host of its URL.
    hosts: Vec<(&'static str, &'static str, String)>,
}

/// Hostile functions: kind and reuse.
const GUESTS: [&str; 4] = ["http-fresh", "http-warm", "http3-fresh", "http3-warm"];

impl Stage {
    fn new() -> Self {
        let server = Server::with(&["--wasi03"]);
        for name in GUESTS {
            let (kind, reuse) = name.split_once('-').unwrap();
            let upload = guest(if kind == "http" { "proxy" } else { "http3" });
            server.deploy(name, &upload, &format!("timeout=1&reuse={reuse}"));
        }
        server.deploy("victim", wats::echo().as_bytes(), "");
        let mut hosts = Vec::new();
        for name in GUESTS {
            for mode in ["RESPONSE_STREAM", "BUFFERED"] {
                hosts.push((name, mode, url_of(&server, name, mode)));
            }
        }
        Self { server, hosts }
    }

    /// A request by which a function plays a script.
    fn request(&self, door: Door, name: &str, method: &str, script: &str) -> Vec<u8> {
        let event = json!({"rawPath": "/script", "rawQueryString": script,
            "requestContext": {"http": {"method": method}}});
        let (method, path, host, body) = match door {
            Door::Path => {
                (method, format!("/fn/{name}/script?{script}"), "localhost", String::new())
            }
            Door::Url(mode) => {
                let found = self.hosts.iter().find(|(n, m, _)| (*n, *m) == (name, mode));
                let host = found.map(|(_, _, host)| host.as_str()).unwrap();
                (method, format!("/script?{script}"), host, String::new())
            }
            Door::Native => {
                ("POST", format!("/v1/functions/{name}/invoke"), "localhost", event.to_string())
            }
            Door::Lambda(path) => {
                ("POST", format!("/{}", path.replace("NAME", name)), "localhost", event.to_string())
            }
        };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}");
        format!("{head}\r\n\r\n{body}").into_bytes()
    }

    /// Plays a script, and asks the victim behind it on the same connection; returns how the hostile response ended.
    /// Panics when a byte reaches the victim's client that is not its own.
    fn play(&self, door: Door, name: &str, method: &str, script: &str, pipelined: bool) -> End {
        let what = format!("{door:?} {name} {method} {script} pipelined={pipelined}");
        let mut connection = Connection::new(&self.server);
        let hostile = self.request(door, name, method, script);
        let victim = |n: u32| {
            let token = format!("victim-{n}-{script}");
            let length = token.len();
            let head = "POST /v1/functions/victim/invoke HTTP/1.1\r\nhost: localhost";
            (format!("{head}\r\ncontent-length: {length}\r\n\r\n{token}").into_bytes(), token)
        };
        connection.send(&hostile);
        if pipelined {
            connection.send(&victim(0).0);
        }
        let sent_method = if matches!(door, Door::Path | Door::Url(_)) { method } else { "POST" };
        let end = connection.response(sent_method);
        let End::Whole { closes, .. } = &end else {
            assert!(connection.is_closed(), "{what}: it goes on behind {end:?}");
            return end;
        };
        if *closes {
            assert!(connection.is_closed(), "{what}: it goes on although it says close");
            return end;
        }
        for n in u32::from(!pipelined)..3 {
            let (request, token) = victim(n);
            if n > 0 {
                connection.send(&request);
            }
            match connection.response("POST") {
                End::Whole { status: 200, body, .. } => {
                    let body = String::from_utf8_lossy(&body);
                    assert!(body == token, "{what}: the victim got {body:?} behind {end:?}");
                }
                // Closed in between: no byte of a response was sent.
                End::Nothing => return end,
                other => panic!("{what}: the victim got {other:?} behind {end:?}"),
            }
        }
        end
    }
}

/// Gives a function a URL that anybody may use; returns its host.
fn url_of(server: &Server, name: &str, mode: &str) -> String {
    // A function has one URL for each of its aliases.
    let post = |path: String, body: serde_json::Value| {
        let json = [("content-type", "application/json")];
        server.request("POST", &path, &json, body.to_string().as_bytes())
    };
    let alias = mode.to_lowercase().replace('_', "-");
    let published = post(format!("/2015-03-31/functions/{name}/versions"), json!({})).expect(201);
    let version = published.json()["Version"].clone();
    let made = json!({"Name": alias, "FunctionVersion": version});
    post(format!("/2015-03-31/functions/{name}/aliases"), made).expect(201);
    let config = json!({"AuthType": "NONE", "InvokeMode": mode});
    let path = format!("/2021-10-31/functions/{name}/url?Qualifier={alias}");
    let url = post(path, config).expect(201).json()["FunctionUrl"].as_str().unwrap().to_owned();
    for action in ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"] {
        let statement = action.replace(':', "-");
        let allowed = json!({"StatementId": statement, "Action": action, "Principal": "*"});
        let path = format!("/2015-03-31/functions/{name}/policy?Qualifier={alias}");
        post(path, allowed).expect(201);
    }
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// What may be seen of a script that a door streams.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// A response with this status and as many bytes.
    Is(u16, usize),
    /// 502, or the connection ends within the response.
    Fails,
}

/// Scripts whose head and body disagree, and some that do not: for GET, and for HEAD.
fn scripts() -> Vec<(&'static str, Wanted, Wanted)> {
    use Wanted::{Fails, Is};
    let bodyless = |status| (Is(status, 0), Is(status, 0));
    let mut all = vec![
        ("header:content-length=100,set,none", Fails, Is(200, 0)),
        ("header:content-length=0,set,none", Is(200, 0), Is(200, 0)),
        ("set,none", Is(200, 0), Is(200, 0)),
        ("header:content-length=100,body,set,write:10,finish", Fails, Is(200, 0)),
        ("header:content-length=100,body,set,write:10,sleep:40,finish", Fails, Is(200, 0)),
        ("header:content-length=100,body,set,sleep:40,drop", Fails, Is(200, 0)),
        ("header:content-length=100,body,set,sleep:40,forget", Fails, Is(200, 0)),
        ("header:content-length=5,body,set,write:5,finish", Is(200, 5), Is(200, 0)),
        ("header:content-length=5,body,set,write:5,sleep:40,finish", Is(200, 5), Is(200, 0)),
        ("body,set,write:5,finish", Is(200, 5), Is(200, 0)),
        ("body,set,write:5,trailers", Is(200, 5), Is(200, 0)),
        ("header:content-length=5,body,set,write:5,trailers", Is(200, 5), Is(200, 0)),
        ("body,set,sleep:40,write:9000,finish", Is(200, 9000), Is(200, 0)),
        ("status:101,body,set,write:5,finish", Fails, Fails),
        ("status:103,body,set,write:5,finish", Fails, Fails),
    ];
    for (script, status) in [
        ("status:204,body,set,write:5,finish", 204),
        ("status:204,header:content-length=5,body,set,write:5,finish", 204),
        ("status:204,header:content-length=5,set,none", 204),
        ("status:205,body,set,write:5,finish", 205),
        ("status:304,body,set,write:5,finish", 304),
        ("status:304,header:content-length=5,body,set,write:5,finish", 304),
        ("status:304,header:content-length=100,set,none", 304),
    ] {
        let (get, head) = bodyless(status);
        all.push((script, get, head));
    }
    all
}

/// Too many bytes: those that were promised may be all that a client sees, and are a response then.
const LONG: [&str; 3] = [
    "header:content-length=5,body,set,write:50,finish",
    "header:content-length=5,body,set,write:5,write:45,finish",
    "header:content-length=5,body,set,sleep:40,write:5000,finish",
];

/// What is wrong of the table at one door of one function.
fn of_the_table(stage: &Stage, name: &'static str, door: Door) -> Vec<String> {
    let streams = matches!(door, Door::Path | Door::Url("RESPONSE_STREAM"));
    let mut failed = Vec::new();
    for (script, get, head) in scripts() {
        for (method, wanted) in [("GET", get), ("HEAD", head)] {
            let end = stage.play(door, name, method, script, method == "GET");
            let good = match (wanted, &end) {
                _ if !streams => matches!(end, End::Whole { .. }),
                (Wanted::Is(status, size), End::Whole { status: got, body, .. }) => {
                    (status, size) == (*got, body.len())
                }
                (Wanted::Is(..), _) | (Wanted::Fails, End::Nothing) => false,
                (Wanted::Fails, End::Whole { status, .. }) => *status == 502,
                (Wanted::Fails, End::Cut) => true,
            };
            if !good {
                failed.push(format!("{door:?} {name} {method} {script}: {end:?}"));
            }
        }
    }
    for script in LONG {
        let end = stage.play(door, name, "GET", script, true);
        let size = match &end {
            End::Whole { status: 200, body, .. } => body.len(),
            _ => 0,
        };
        if streams && size > 5 {
            failed.push(format!("{door:?} {name} {script}: {end:?}"));
        }
    }
    failed
}

#[test]
fn a_response_is_as_long_as_its_head_says_or_the_connection_ends() {
    let stage = Stage::new();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let running = GUESTS.map(|name| {
            let stage = &stage;
            scope.spawn(move || DOORS.map(|door| of_the_table(stage, name, door)).concat())
        });
        running.into_iter().flat_map(|guest| guest.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{} of the table:\n{}", failed.len(), failed.join("\n"));
    stage.server.assert_well();
}

#[test]
fn results_of_events_do_not_frame_either() {
    let stage = Stage::new();
    for (n, (said, status, size)) in [
        (r#""headers":{"content-length":"100"},"body":"hello""#, 200, 5),
        (r#""headers":{"transfer-encoding":"chunked"},"body":"hello""#, 200, 5),
        (r#""statusCode":204,"body":"hello""#, 204, 0),
        (r#""statusCode":205,"body":"hello""#, 205, 0),
        (r#""statusCode":304,"body":"hello","headers":{"content-length":"7"}"#, 304, 0),
        (r#""statusCode":101,"body":"hello""#, 502, 35),
    ]
    .into_iter()
    .enumerate()
    {
        let said = if said.contains("statusCode") {
            said.to_owned()
        } else {
            format!(r#""statusCode":200,{said}"#)
        };
        let json = format!("{{{said}}}");
        let data = format!("(memory (export \"memory\") 1) (data (i32.const 8) {json:?})");
        let packed = (8u64 << 32) | json.len() as u64;
        let name = format!("shaped-{n}");
        let wat = wats::core_with(&data, &format!("(i64.const {packed})"));
        stage.server.deploy(&name, wat.as_bytes(), "");
        for method in ["GET", "HEAD"] {
            let end = stage.play(Door::Path, &name, method, "", true);
            let size = if method == "HEAD" { 0 } else { size };
            let End::Whole { status: got, body, .. } = &end else { panic!("{json}: {end:?}") };
            assert_eq!((*got, body.len()), (status, size), "{method} {json}: {end:?}");
        }
    }
    stage.server.assert_well();
}

/// What fails before anything was sent is told as a whole; otherwise the client sees a head, and less than it promises.
#[test]
fn a_response_that_is_too_short_is_refused_or_cut_and_never_nothing() {
    let stage = Stage::new();
    let answer =
        stage.server.get("/fn/http-fresh/script?header:content-length=100,set").expect(502);
    assert_eq!(answer.header("x-wambda-error"), "Runtime.InvalidResponse");
    let log = stage.server.log("http-fresh");
    assert!(log.contains("promises 100 bytes, and has 0"), "{log}");
    let counted = "wambda_invocations_total{function=\"http-fresh\",outcome=\"error\"}";
    assert_eq!(stage.server.metric(counted), 1.0);
    let short = "header:content-length=100,body,set,write:10,finish";
    for _ in 0..30 {
        let end = stage.play(Door::Path, "http-fresh", "GET", short, false);
        assert!(matches!(end, End::Cut | End::Whole { status: 502, .. }), "{end:?}");
    }
}

#[test]
fn scripts_at_random_reach_nobody_else() {
    fuzz::run(&Stage::new(), fuzz::wish(Duration::from_secs(3)));
}
