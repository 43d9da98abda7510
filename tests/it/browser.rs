//! A server without keys and web pages of other sites: what browsers send for them, by raw sockets,
//! and from a browser.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wambda_tests::Server;

use crate::wats;

const EVIL: &str = "origin: https://evil.example\r\n";

fn status(answer: &str) -> u16 {
    let line = answer.lines().next().unwrap_or_default();
    line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// One request as it is.
fn send(server: &Server, line: &str, host: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}");
    server.raw(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())
}

#[test]
fn hosts_are_known_or_refused() {
    let server = Server::with(&["--allowed-hosts", "wambda.example,other.example"]);
    server.deploy("f", wats::echo().as_bytes(), "");
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let made =
        server.request("POST", "/2021-10-31/functions/f/url", &[], br#"{"AuthType": "NONE"}"#);
    let url = made.expect(201).json()["FunctionUrl"].as_str().unwrap().to_owned();
    let id = url.split_once("://").unwrap().1.split_once('.').unwrap().0.to_owned();
    let allow = json!({"StatementId": "s", "Action": "lambda:InvokeFunctionUrl", "Principal": "*",
        "FunctionUrlAuthType": "NONE"});
    let path = "/2015-03-31/functions/f/policy";
    server.request("POST", path, &[], allow.to_string().as_bytes()).expect(201);
    for (host, wanted) in [
        (format!("localhost:{port}"), 200),
        ("localhost".to_owned(), 200),
        (format!("f.localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        (format!("wambda.example:{port}"), 200),
        ("Other.Example".to_owned(), 200),
        (format!("evil.example:{port}"), 403),
        ("wambda.example.evil.example".to_owned(), 403),
        (format!("127.0.0.1.evil.example:{port}"), 403),
        (format!("192.0.2.1:{port}"), 403),
    ] {
        for line in [
            "GET /v1/functions",
            "GET /metrics",
            "GET /",
            "POST /fn/f/",
            "OPTIONS /v1/functions/f/invoke",
        ] {
            let got = status(&send(&server, line, &host, "", ""));
            let wanted = if line.starts_with("OPTIONS") && wanted == 200 { 405 } else { wanted };
            assert_eq!(got, wanted, "{line} of {host}");
        }
        let absolute = format!(
            "GET http://{host}/v1/functions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(status(&server.raw(absolute.as_bytes())), wanted, "{host}, as the target says");
    }
    // Function URLs are called by any name; and what says no host is no browser.
    let answer = send(&server, "POST /", &format!("{id}.lambda-url.evil.example"), EVIL, "");
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(status(&server.raw(b"GET /v1/functions HTTP/1.0\r\n\r\n")), 200);
    let refused = send(&server, "GET /v1/functions", "evil.example", "", "");
    assert!(refused.contains("--allowed-hosts") && refused.contains("CrossSite"), "{refused}");
    server.assert_well();
}

#[test]
fn pages_of_other_sites_are_refused() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let host = server.address().to_owned();
    let own = format!("origin: http://{host}\r\nsec-fetch-site: same-origin\r\n");
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let user = "Action=CreateUser&Version=2010-05-08&UserName=mallory";
    let logs = "content-type: application/x-amz-json-1.1\r\n\
                x-amz-target: Logs_20140328.CreateLogGroup\r\n";
    let simple = "content-type: text/plain\r\n";
    for (line, headers, body, native) in [
        ("POST /v1/functions/f/invoke", simple, "[1]", true),
        ("POST /v1/queues/dead:f/purge", simple, "", true),
        ("GET /v1/functions", "", "", true),
        ("PUT /v1/functions/g", "", &wats::echo(), true),
        ("DELETE /v1/functions/f", "", "", true),
        ("POST /2015-03-31/functions/f/invocations", simple, "[1]", false),
        ("DELETE /2015-03-31/functions/f", "", "", false),
        ("POST /", form, user, false),
        ("POST /", logs, r#"{"logGroupName": "g"}"#, false),
        ("POST /", simple, user, true),
        ("GET /metrics", "", "", true),
    ] {
        for from in [
            EVIL,
            "origin: null\r\n",
            "origin: http://localhost:1\r\n",
            "origin: http://127.0.0.1\r\n",
            "sec-fetch-site: cross-site\r\n",
            "sec-fetch-site: same-site\r\n",
        ] {
            let answer = send(&server, line, &host, &format!("{from}{headers}"), body);
            assert_eq!(status(&answer), 403, "{line} from {from}: {answer}");
            let said = if native { "CrossSite" } else { "AccessDenied" };
            assert!(answer.contains(said), "{line} is refused in other words: {answer}");
            assert!(!answer.contains("access-control-allow-origin"), "{answer}");
        }
    }
    // Nothing of it has happened; and without a page, or from one of the server's own, it does.
    assert!(!server.iam("ListUsers", &[]).contains("mallory"));
    server.get("/v1/functions/g").expect(404);
    for from in [own.as_str(), "", "sec-fetch-site: none\r\n"] {
        let answer = send(&server, "POST /v1/functions/f/invoke", &host, from, "[1]");
        assert_eq!(status(&answer), 200, "{from}: {answer}");
    }
    // Functions answer pages of other sites by themselves.
    let answer = send(&server, "POST /fn/f/", &host, EVIL, "[1]");
    assert_eq!(status(&answer), 200, "{answer}");
    server.assert_well();
}

/// With keys it is the signature that counts, whatever the host is and wherever it comes from.
#[test]
fn signed_requests_need_no_host() {
    let server = Server::with(&["--auth", "keys"]);
    let answer = send(&server, "GET /v1/functions", "evil.example", EVIL, "");
    assert!(answer.contains("Missing Authentication Token"), "{answer}");
}

/// A site of the test's own: one page, for as many visits as there are.
fn site(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = lines.find(String::is_empty);
            let length = page.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\
                 content-length: {length}\r\n\r\n"
            );
            let _ = (&stream).write_all(format!("{head}{page}").as_bytes());
        }
    });
    port
}

/// What a browser makes of a page, if there is a browser.
fn browse(url: &str) -> Option<String> {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--host-resolver-rules=MAP *.example 127.0.0.1", "--virtual-time-budget=5000"])
        .args(["--dump-dom", url])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("chromium: {error}"),
    }
}

#[test]
fn a_browser_does_nothing_for_other_sites() {
    let server = Server::start();
    server.deploy("f", wats::echo().as_bytes(), "");
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let page = r#"<body>waiting</body><script>
      const user = "Action=CreateUser&Version=2010-05-08&UserName=mallory";
      const to = "http://SERVER", simple = {method: "POST", mode: "no-cors"};
      const ask = async (name, path, how) => {
        try { return [name, (await fetch(to + path, how)).type]; }
        catch { return [name, "error"]; }
      };
      (async () => {
        const said = [
          await ask("read", "/v1/functions"),
          await ask("invoke", "/v1/functions/f/invoke", {...simple, body: "[\"of-a-page\"]"}),
          await ask("user", "/", {...simple, body: new URLSearchParams(user)}),
          await ask("image", "/v1/functions", {mode: "no-cors"}),
          await ask("put", "/v1/functions/g", {method: "PUT", body: "(module)"}),
        ];
        document.body.textContent = JSON.stringify(said);
      })();
    </script>"#;
    let page = site(page.replace("SERVER", server.address()));
    let Some(seen) = browse(&format!("http://127.0.0.1:{page}/")) else {
        println!("no chromium here: the same requests are tested by raw sockets only");
        return;
    };
    let said = seen.split_once("[[").and_then(|(_, rest)| rest.split_once("]]"));
    let said = said.unwrap_or_else(|| panic!("the page has not come to its end: {seen}")).0;
    let said: Value =
        serde_json::from_str(&format!("[[{}]]", said.replace("&quot;", "\""))).unwrap();
    assert_eq!(
        said,
        json!([
            ["read", "error"],
            ["invoke", "opaque"],
            ["user", "opaque"],
            ["image", "opaque"],
            ["put", "error"]
        ])
    );
    // The requests came, and did nothing.
    assert!(server.metric(r#"wambda_http_requests_total{code="403",surface="native"}"#) >= 4.0);
    assert!(!server.iam("ListUsers", &[]).contains("mallory"));
    assert!(!server.log("f").contains("START"), "the function ran");
    server.get("/v1/functions/g").expect(404);
    // A name of the page's own for the server's address reads nothing; the server's own names do.
    let rebound = browse(&format!("http://evil.example:{port}/v1/functions")).unwrap();
    assert!(rebound.contains("CrossSite") && !rebound.contains("\"name\""), "{rebound}");
    let typed = browse(&format!("http://localhost:{port}/v1/functions")).unwrap();
    assert!(typed.contains("functions") && !typed.contains("CrossSite"), "{typed}");
    server.assert_well();
}
