//! Outgoing requests of functions: nothing unless a role allows the host, nothing that is not public
//! unless the operator lists it, and within limits. The outside is on loopback: 127.0.0.2 is what the
//! operator lists, 127.0.0.3 is what must never be reached.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::json;
use wambda_tests::outside::{Dns, Web, say};
use wambda_tests::{Answer, Server, eventually, guest};

/// The same in WASI 0.2 and in 0.3.
const BOTH: [&str; 2] = ["f", "f3"];

/// A role that may reach these hosts (`HOST:PORT`, with wildcards).
pub(crate) fn role(server: &Server, name: &str, hosts: &[&str]) {
    server.role(name);
    policy(server, name, hosts);
}

fn policy(server: &Server, role: &str, hosts: &[&str]) {
    let arns: Vec<String> = hosts.iter().map(|h| format!("arn:aws:wambda:::host/{h}")).collect();
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "wambda:Connect", "Resource": arns}]});
    let document = document.to_string();
    let fields = [("RoleName", role), ("PolicyName", "p"), ("PolicyDocument", &*document)];
    server.iam("PutRolePolicy", &fields);
}

/// Has the function send a request.
pub(crate) fn fetch(
    server: &Server,
    function: &str,
    scheme: &str,
    authority: &str,
    more: &[(&str, &str)],
) -> Answer {
    let path = more.iter().find(|(name, _)| *name == "x-path").map_or("/", |(_, path)| path);
    let mut headers = vec![("x-scheme", scheme), ("x-authority", authority), ("x-path", path)];
    headers.extend(more.iter().filter(|(name, _)| *name != "x-path"));
    server.request("GET", &format!("/fn/{function}/fetch"), &headers, b"")
}

pub(crate) fn http(server: &Server, function: &str, authority: &str) -> String {
    fetch(server, function, "http", authority, &[]).expect(200).text()
}

fn outcomes(server: &Server, function: &str, outcome: &str) -> f64 {
    let labels = format!("{{function=\"{function}\",outcome=\"{outcome}\"}}");
    server.metric(&format!("wambda_egress_requests_total{labels}"))
}

pub(crate) struct World {
    pub(crate) server: Server,
    dns: Dns,
    good: Web,
    bad: Web,
}

pub(crate) fn world(more: &[&str]) -> World {
    let dns = Dns::start();
    let (good, bad) = (
        Web::start("127.0.0.2", |path, stream| say(stream, &format!("good {path}"))),
        Web::start("127.0.0.3", |_, stream| say(stream, "bad")),
    );
    let name_server = dns.address.to_string();
    let mut arguments = vec!["--egress-allow", "127.0.0.2", "--dns", &name_server, "--wasi03"];
    arguments.extend(more);
    let server = Server::with(&arguments);
    role(&server, "all", &["*"]);
    server.deploy("f", &guest("http"), "timeout=10&role=all");
    server.deploy("f3", &guest("http3"), "timeout=10&role=all");
    World { server, dns, good, bad }
}

#[test]
fn nothing_is_reached_unless_a_role_allows_the_host() {
    let World { server, dns, good, .. } = world(&[]);
    dns.tell("api.test", &[&["127.0.0.2"]]);
    let port = good.port();
    let host = format!("api.test:{port}");
    role(&server, "one", &[&host]);
    for (name, upload) in [("two", guest("http")), ("three", guest("http3"))] {
        server.deploy(name, &upload, "timeout=10");
        let said = http(&server, name, &host);
        assert!(said.starts_with("error") && said.contains("HttpRequestDenied"), "{name}: {said}");
        assert_eq!(good.visits(), 0, "{name}");
        let log = server.log(name);
        assert!(
            log.contains(&format!("does not allow wambda:Connect on arn:aws:wambda:::host/{host}")),
            "{log}"
        );
        assert_eq!(outcomes(&server, name, "denied"), 1.0);
    }
    for (name, upload) in [("two", guest("http")), ("three", guest("http3"))] {
        server.deploy(name, &upload, "role=one");
        assert_eq!(http(&server, name, &host), "200 6 good /", "{name}");
        assert_eq!(http(&server, name, &format!("API.test.:{port}")), "200 6 good /", "{name}");
        assert_eq!(outcomes(&server, name, "sent"), 2.0);
        // The same address by another name, and another port.
        for other in
            [format!("127.0.0.2:{port}"), format!("other.test:{port}"), "api.test".to_owned()]
        {
            assert!(http(&server, name, &other).contains("HttpRequestDenied"), "{name}: {other}");
        }
    }
    assert_eq!(good.visits(), 4);
    // Taken back, it holds at once, for instances that are there as well.
    policy(&server, "one", &["nothing.test:1"]);
    assert!(http(&server, "two", &host).contains("HttpRequestDenied"));
    server.put("two", &guest("http"), "role=nobody").expect(400);
    server.assert_well();
}

#[test]
fn names_are_resolved_once_and_what_they_lead_to_is_filtered() {
    let World { server, dns, good, bad } = world(&[]);
    // One port for both: only the address tells them apart.
    let port = bad.port();
    let twin = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let twin = Web::on(&twin, |_, stream| say(stream, "twin"));
    dns.tell("good.test", &[&["127.0.0.2"]]);
    dns.tell("evil.test", &[&["127.0.0.3"]]);
    dns.tell("metadata.test", &[&["169.254.169.254"]]);
    dns.tell("mixed.test", &[&["127.0.0.3", "127.0.0.2", "10.0.0.1"]]);
    dns.tell("empty.test", &[&[]]);
    for (name, wanted) in [
        ("good.test", "200 4 twin"),
        ("mixed.test", "200 4 twin"),
        ("evil.test", "DestinationIpProhibited"),
        ("metadata.test", "DestinationIpProhibited"),
        ("empty.test", "DnsError"),
        ("missing.test", "DnsError"),
        ("localhost", "DestinationIpProhibited"),
    ] {
        for function in BOTH {
            let said = http(&server, function, &format!("{name}:{port}"));
            assert!(said.contains(wanted), "{function}, {name}: {said}");
        }
    }
    // Rebinding: each request is resolved anew, and filtered anew; what is dialled is what was filtered.
    dns.tell("rebind.test", &[&["127.0.0.2"], &["127.0.0.3"], &["127.0.0.2"], &["127.0.0.3"]]);
    for _ in 0..6 {
        let said = http(&server, "f", &format!("rebind.test:{port}"));
        assert!(said == "200 4 twin" || said.contains("DestinationIpProhibited"), "{said}");
    }
    for function in BOTH {
        let said = http(&server, function, &format!("rebind.test:{port}"));
        assert!(said.contains("DestinationIpProhibited"), "{function}: {said}");
    }
    assert_eq!((bad.visits(), good.visits()), (0, 0));
    assert!(twin.visits() >= 2);
    assert!(outcomes(&server, "f", "forbidden") >= 3.0 && outcomes(&server, "f", "dns") >= 2.0);
    server.assert_well();
}

#[test]
fn redirects_are_requests_like_any_other() {
    let World { server, dns, bad, .. } = world(&[]);
    dns.tell("evil.test", &[&["127.0.0.3"]]);
    let port = bad.port();
    let redirecting = Web::start("127.0.0.2", move |path, stream| {
        let to = path.trim_start_matches("/to/").replace("PORT", &port.to_string());
        let _ = write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: http://{to}\r\ncontent-length: 0\r\n\r\n"
        );
    });
    let from = redirecting.address.to_string();
    for to in [
        "127.0.0.3:PORT/",
        "evil.test:PORT/",
        "169.254.169.254/latest/meta-data/",
        "[::1]:PORT/",
        "localhost:PORT/",
    ] {
        let path = format!("/to/{to}");
        let said = fetch(&server, "f", "http", &from, &[("x-path", &path), ("x-follow", "3")])
            .expect(200)
            .text();
        assert!(said.contains("DestinationIpProhibited"), "{to}: {said}");
    }
    let back = format!("/to/{from}/to/{from}/to/nowhere.test/");
    let said = fetch(&server, "f", "http", &from, &[("x-path", &back), ("x-follow", "2")])
        .expect(200)
        .text();
    assert!(said.starts_with("302"), "{said}");
    assert_eq!(bad.visits(), 0);
    server.assert_well();
}

/// A dead address of several does not take the time of the others.
#[test]
fn another_address_is_tried() {
    let World { server, dns, good, .. } = world(&["--egress-allow", "127.0.0.2,240.0.0.0/8"]);
    dns.tell("half-dead.test", &[&["240.0.0.1", "127.0.0.2"]]);
    assert_eq!(http(&server, "f", &format!("half-dead.test:{}", good.port())), "200 6 good /");
    server.assert_well();
}

/// Loopback, metadata and private addresses in many spellings, with a role that allows every host.
#[test]
fn no_spelling_of_a_forbidden_address_is_reached() {
    let World { server, dns, bad, .. } = world(&[]);
    for (name, address) in
        [("local.test", "127.0.0.1"), ("meta.test", "169.254.169.254"), ("zero.test", "0.0.0.0")]
    {
        dns.tell(name, &[&[address]]);
    }
    let spellings = [
        "127.0.0.1",
        "127.0.0.3",
        "127.1",
        "127.0.1",
        "127.0.0.01",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "2130706433",
        "2130706435",
        "017700000001",
        "127.000.000.001",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "0.0.0.0.",
        "00000000",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::FFFF:127.0.0.3]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::7f00:3]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::]",
        "[2001:0:7f00:1::]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fe80::1%lo]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "169.254.169.254",
        "169.254.170.2",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
        "192.0.0.192",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "local.test",
        "meta.test",
        "zero.test",
        "127.0.0.2@127.0.0.3",
        "127.0.0.2%40127.0.0.3",
        "127.0.0.3#127.0.0.2",
        "127.0.0.3\\127.0.0.2",
        "127.0.0.2:80@127.0.0.3",
        "127.0.0.3%00.good.test",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "127.0.0.3/",
        "",
        ".",
        "..",
        "a..b",
        "-",
    ];
    let port = bad.port();
    let wrong = |_: &str, stream: &mut std::net::TcpStream| say(stream, "bad");
    let others = ["127.0.0.1", "::1"].map(|ip| {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        TcpListener::bind((ip, port)).ok().map(|listener| Web::on(&listener, wrong))
    });
    let mut rest = None;
    for scheme in ["http", "https"] {
        // All of them once, and then no more is kept of any.
        rest = rest.or_else(|| (scheme == "https").then(|| server.rest()));
        for spelling in spellings {
            let authority = if spelling.contains('@') {
                spelling.to_owned()
            } else {
                format!("{spelling}:{port}")
            };
            let known = [
                "IpProhibited",
                "UriInvalid",
                "DnsError",
                "error authority",
                "InternalError",
                "HttpProtocolError",
            ];
            for function in BOTH {
                let said = fetch(&server, function, scheme, &authority, &[]).expect(200).text();
                let told =
                    said.starts_with("error") && known.iter().any(|code| said.contains(code));
                assert!(told, "{function}, {scheme}://{authority}: {said}");
            }
        }
    }
    assert_eq!(bad.visits(), 0);
    assert!(others.iter().flatten().all(|web| web.visits() == 0));
    server.assert_rests(&rest.unwrap(), 8);
    server.assert_well();
}

#[test]
fn the_server_itself_is_out_of_reach() {
    let allow = ["--egress-allow", "127.0.0.0/8,::1", "--egress-deny", "127.0.0.9", "--wasi03"];
    let server = Server::with(&allow);
    role(&server, "all", &["*"]);
    server.deploy("f", &guest("http"), "role=all");
    server.deploy("f3", &guest("http3"), "role=all");
    let own = server.address().to_owned();
    let port = own.rsplit(':').next().unwrap();
    // Of the two addresses of localhost one is the server's.
    let said = http(&server, "f", &format!("localhost:{port}"));
    assert!(said.starts_with("error"), "{said}");
    for authority in [own.clone(), format!("[::ffff:127.0.0.1]:{port}"), format!("0.0.0.0:{port}")]
    {
        for function in BOTH {
            let said = http(&server, function, &authority);
            assert!(said.contains("DestinationIpProhibited"), "{function}, {authority}: {said}");
        }
    }
    let listed = Web::start("127.0.0.9", |_, stream| say(stream, "x"));
    assert!(http(&server, "f", &listed.address.to_string()).contains("DestinationIpProhibited"));
    assert_eq!(listed.visits(), 0, "what is denied is not allowed by a wider network");
    let other = Web::start("127.0.0.8", |_, stream| say(stream, "x"));
    assert_eq!(http(&server, "f", &other.address.to_string()), "200 1 x");
    server.assert_well();
}

#[test]
fn connections_bytes_and_time_are_bounded() {
    let World { server, .. } = world(&["--egress-patience", "2"]);
    let web = Web::start("127.0.0.2", |path, stream| {
        let mut sink = [0; 65_536];
        match path {
            "/slow" => std::thread::sleep(Duration::from_millis(800)),
            "/silent" => return std::thread::sleep(Duration::from_secs(5)),
            "/stall" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
                return std::thread::sleep(Duration::from_secs(5));
            }
            "/endless" => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&sink).is_ok() {}
                return;
            }
            "/take" => while matches!(stream.read(&mut sink), Ok(1..)) {},
            "/garbage" => return stream.write_all(b"SMTP 220 hello\r\n\r\n").unwrap_or_default(),
            "/huge-head" => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
                return;
            }
            "/many-heads" => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1_000));
                return;
            }
            _ => {}
        }
        say(stream, "ok");
    });
    let at = web.address.to_string();
    let ask = |path: &str, more: &[(&str, &str)]| {
        let more = [&[("x-path", path)], more].concat();
        fetch(&server, "f", "http", &at, &more).expect(200).text()
    };
    let said = ask("/slow", &[("x-times", "20")]);
    let lines: Vec<&str> = said.lines().collect();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("200 2 ok"), count("ConnectionLimitReached")), (16, 4), "{said}");
    assert_eq!(
        ask("/slow", &[("x-times", "16")]).matches("200 2 ok").count(),
        16,
        "places come back"
    );
    for (path, wanted) in [
        ("/silent", "HttpResponseTimeout"),
        // Of an error in a body wasmtime tells the guest no code, but its words.
        ("/stall", "connection read timeout"),
        ("/garbage", "HttpProtocolError"),
        ("/huge-head", "HttpProtocolError"),
        ("/many-heads", "HttpProtocolError"),
        ("/endless", "size exceeds limit: 67108864 bytes"),
    ] {
        let said = ask(path, &[]);
        assert!(said.contains(wanted), "{path}: {said}");
    }
    let said = ask("/take", &[("x-send", "70000000")]);
    assert!(said.contains("HttpRequestBodySize(Some(67108864))"), "{said}");
    assert_eq!(ask("/slow", &[]), "200 2 ok", "what one invocation used, the next has again");
    assert!(outcomes(&server, "f", "timeout") >= 1.0 && outcomes(&server, "f", "limit") >= 4.0);
    // The function's own deadline is nearer.
    server.deploy("g", &guest("http"), "timeout=0.3&role=all");
    let answer = fetch(&server, "g", "http", &at, &[("x-path", "/silent")]);
    assert!(
        answer.status == 504 && answer.took < Duration::from_millis(1_700),
        "{}: {:?}",
        answer.status,
        answer.took
    );
    server.assert_well();
}

#[test]
fn functions_share_the_connections_that_there_may_be() {
    let World { server, .. } = world(&["--egress-patience", "60"]);
    // Each that arrives is held until all may go.
    let (held, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, may_go) = (Arc::clone(&held), Arc::clone(&go));
    let web = Web::start("127.0.0.2", move |_, stream| {
        count.fetch_add(1, SeqCst);
        while !may_go.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        say(stream, "ok");
    });
    let at = web.address.to_string();
    let most = |functions: usize, wanted: usize| {
        held.store(0, SeqCst);
        go.store(false, SeqCst);
        let names: Vec<String> = (0..functions).map(|n| format!("share{n}")).collect();
        for name in &names {
            server.deploy(name, &guest("http"), "timeout=60&role=all");
        }
        let ask =
            |name: &str| fetch(&server, name, "http", &at, &[("x-times", "16")]).expect(200).text();
        std::thread::scope(|scope| {
            let calls = names.iter().flat_map(|name| (0..17).map(move |_| name));
            let calls: Vec<_> = calls.map(|name| scope.spawn(move || ask(name))).collect();
            let full = || (held.load(SeqCst) >= wanted).then_some(());
            eventually(Duration::from_secs(50), full);
            let refused = || names.iter().map(|name| outcomes(&server, name, "limit")).sum::<f64>();
            let all = functions * 17 * 16;
            let over = || (refused() >= (all - wanted) as f64).then_some(());
            eventually(Duration::from_secs(50), over);
            assert_eq!(held.load(SeqCst), wanted);
            go.store(true, SeqCst);
            let said: Vec<String> = calls.into_iter().map(|call| call.join().unwrap()).collect();
            let good: usize = said.iter().map(|said| said.matches("200 2 ok").count()).sum();
            assert_eq!(good, wanted);
        });
        for name in &names {
            server.request("DELETE", &format!("/v1/functions/{name}"), &[], b"").expect(204);
        }
    };
    most(1, 256);
    most(5, 1_024);
    server.assert_well();
}

#[test]
fn tls_is_checked() {
    let authority = rcgen::generate_simple_self_signed(vec!["tls.test".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let trusted = dir.path().join("authorities.pem");
    std::fs::write(&trusted, authority.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(authority.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![authority.cert.der().clone()], key.into())
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.2:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            if tls.read(&mut [0; 4096]).is_ok() {
                say(&mut tls, "secret");
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    let dns = Dns::start();
    dns.tell("tls.test", &[&["127.0.0.2"]]);
    dns.tell("other.test", &[&["127.0.0.2"]]);
    let name_server = dns.address.to_string();
    let arguments = ["--egress-allow", "127.0.0.2", "--dns", &name_server];
    let server = Server::with_env(&arguments, &[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
    role(&server, "all", &["*"]);
    server.deploy("f", &guest("http"), "role=all");
    let ask = |host: &str| {
        fetch(&server, "f", "https", &format!("{host}:{port}"), &[]).expect(200).text()
    };
    assert_eq!(ask("tls.test"), "200 6 secret");
    for host in ["other.test", "127.0.0.2"] {
        assert!(
            ask(host).contains("TlsCertificateError"),
            "{host} is not whom the certificate names"
        );
    }
    let doubting = Server::with(&arguments);
    role(&doubting, "all", &["*"]);
    doubting.deploy("f", &guest("http"), "role=all");
    let said = fetch(&doubting, "f", "https", &format!("tls.test:{port}"), &[]).expect(200).text();
    assert!(said.contains("TlsCertificateError"), "an unknown authority: {said}");
    server.assert_well();
}
