//! Functions that call the platform itself: by no network, as their execution role, and within the same limits as
//! everybody else.

use std::time::{Duration, Instant};

use serde_json::json;
use wambda_tests::{Answer, Server, eventually, guest};

use crate::egress::{fetch, http};
use crate::forks::{beside, calls};
use crate::wats;

/// The same in WASI 0.2 and in 0.3.
const BOTH: [&str; 2] = ["f", "f3"];

/// What a role may do: effect, action and function of each statement.
fn may(server: &Server, role: &str, statements: &[(&str, &str, &str)]) {
    let statement = |(effect, action, function): &(&str, &str, &str)| {
        let resource = format!("arn:aws:lambda:us-east-1:000000000000:function:{function}");
        json!({"Effect": effect, "Action": action, "Resource": resource})
    };
    let statements: Vec<_> = statements.iter().map(statement).collect();
    let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    let fields = [("RoleName", role), ("PolicyName", "p"), ("PolicyDocument", &*document)];
    server.iam("PutRolePolicy", &fields);
}

/// Has the function call the platform; its answer is the status, the length and the body of what it got.
fn call(server: &Server, function: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let order = [("x-path", path), ("x-head", "400")];
    let more: Vec<_> = order.iter().chain(more).copied().collect();
    fetch(server, function, "http", "wambda.internal", &more)
}

fn said(server: &Server, function: &str, path: &str, more: &[(&str, &str)]) -> String {
    call(server, function, path, more).expect(200).text()
}

/// A server with a function of either kind that may do what `statements` say, and an echo.
fn stage(statements: &[(&str, &str, &str)]) -> Server {
    let server = Server::with(&["--wasi03", "--egress-allow", "0.0.0.0/0"]);
    server.role("caller");
    may(&server, "caller", statements);
    server.deploy("f", &guest("http"), "timeout=10&role=caller");
    server.deploy("f3", &guest("http3"), "timeout=10&role=caller");
    server.deploy("other", wats::echo().as_bytes(), "");
    server
}

const NATIVE: &str = "/v1/functions/other/invoke";
const LAMBDA: &str = "/2015-03-31/functions/other/invocations";

#[test]
fn functions_call_the_platform_as_their_roles() {
    let server = stage(&[
        ("Allow", "lambda:InvokeFunction", "*"),
        ("Allow", "lambda:GetFunction", "other"),
        ("Deny", "lambda:InvokeFunction", "secret"),
    ]);
    server.deploy("secret", wats::echo().as_bytes(), "");
    let event = [("x-body", "{\"a\":1}")];
    for function in BOTH {
        for path in [NATIVE, LAMBDA] {
            assert_eq!(
                said(&server, function, path, &event),
                "200 7 {\"a\":1}",
                "{function} {path}"
            );
        }
        let seen = said(&server, function, "/v1/functions/other", &[]);
        assert!(seen.starts_with("200 ") && seen.contains("\"name\":\"other\""), "{seen}");
        let session = format!("arn:aws:sts::000000000000:assumed-role/caller/{function}");
        for (path, action) in [
            ("/v1/functions/secret/invoke", "lambda:InvokeFunction"),
            ("/2015-03-31/functions/secret/invocations", "lambda:InvokeFunction"),
            ("/v1/functions/missing/invoke?", ""),
            ("/fn/other/", ""),
            ("/fn/missing/", ""),
            ("/v1/functions/other/logs", "logs:FilterLogEvents"),
            ("/v1/queues", "sqs:ListQueues"),
        ] {
            let more: &[_] = if path.contains("invo") { &event } else { &[] };
            let text = said(&server, function, path, more);
            let status = if path.contains("missing/invoke") { "404" } else { "403" };
            assert!(text.starts_with(status), "{function} {path}: {text}");
            let says = action.is_empty()
                || text.contains(&format!("{session} is not authorized to perform: {action}"));
            assert!(says, "{function} {path}: {text}");
        }
        let mut form = vec![("x-body", "Action=GetCallerIdentity&Version=2011-06-15")];
        form.push(("x-pass-content-type", "application/x-www-form-urlencoded"));
        // What stands for its role is in its environment; whoever else it signs as has to be known.
        let by = |key: &str| {
            format!("AWS4-HMAC-SHA256 Credential={key}/20300101/us-east-1/sts/aws4_request")
        };
        let as_nobody = by("AKIAX");
        for (signature, wanted) in [
            (by("ASIAEXECUTIONROLE000"), &*session),
            (as_nobody, "IncompleteSignature"),
            (String::new(), "IncompleteSignature"),
        ] {
            let signed = ("x-pass-authorization", &*signature);
            let more: Vec<_> = form.iter().copied().chain([signed]).collect();
            let text = said(&server, function, "/", &more);
            assert!(text.contains(wanted), "{function} {signature:?}: {text}");
        }
        assert!(said(&server, function, "/", &form).contains(&session));
        // How the server is and whom it serves is not for functions.
        for path in ["/metrics", "/healthz", "/readyz", "/version", "/openapi.json", "/", "/x"] {
            let text = said(&server, function, path, &[]);
            assert!(text.starts_with("404"), "{function} {path}: {text}");
        }
    }
    // It holds at once.
    may(&server, "caller", &[("Allow", "lambda:InvokeFunctionUrl", "other")]);
    for function in BOTH {
        assert!(said(&server, function, NATIVE, &event).starts_with("403"));
        assert!(said(&server, function, "/fn/other/", &[]).starts_with("200"));
    }
    server.assert_well();
}

#[test]
fn functions_without_a_role_call_nothing_of_the_platform() {
    let server = stage(&[]);
    for (function, upload) in [("g", guest("http")), ("g3", guest("http3"))] {
        server.deploy(function, &upload, "");
        for path in [NATIVE, "/metrics", "/"] {
            let text = said(&server, function, path, &[("x-body", "{}")]);
            assert!(text.starts_with("error") && text.contains("HttpRequestDenied"), "{text}");
        }
        let log = server.log(function);
        assert!(log.contains("functions without an execution role may not call"), "{log}");
    }
    // With one, nothing but by its one name; what looks like it leads nowhere.
    for (scheme, authority) in [
        ("https", "wambda.internal"),
        ("http", "wambda.internal:5262"),
        ("http", "wambda.internal:443"),
        ("http", "x@wambda.internal"),
        ("http", "wambda.internal.invalid"),
        ("http", "xwambda.internal"),
    ] {
        let text = fetch(&server, "f", scheme, authority, &[("x-path", "/metrics")]);
        let text = text.expect(200).text();
        assert!(text.starts_with("error"), "{scheme}://{authority}: {text}");
    }
    // Nobody who comes by the network is such a caller.
    let from_outside = server.request("GET", "/metrics", &[("host", "wambda.internal")], b"");
    assert!(from_outside.expect(403).text().contains("CrossSite"));
    server.assert_well();
}

#[test]
fn aws_clients_in_functions_find_the_platform_in_their_environment() {
    let server = stage(&[]);
    let value = |function: &str, name: &str| {
        server.invoke(function, &json!({"do": "env", "name": name}).to_string()).expect(200).json()
    };
    server.deploy("without", &guest("event"), "");
    server.deploy("with", &guest("event"), "role=caller");
    server.deploy("own", &guest("event"), "role=caller&env.AWS_ENDPOINT_URL_LAMBDA=http://x.test");
    for name in
        ["AWS_ENDPOINT_URL_STS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    {
        assert_eq!(value("without", name), json!(null), "{name}");
        assert!(value("with", name).is_string(), "{name}");
    }
    assert_eq!(value("with", "AWS_ENDPOINT_URL_LAMBDA"), "http://wambda.internal");
    assert_eq!(value("own", "AWS_ENDPOINT_URL_LAMBDA"), "http://x.test");
    // What the platform does not have is called where it always was.
    assert_eq!(value("with", "AWS_ENDPOINT_URL"), json!(null));
}

#[test]
fn calls_to_the_platform_are_bounded_like_others() {
    let server = stage(&[("Allow", "lambda:*", "*")]);
    server.deploy("slow", &guest("event"), "timeout=30");
    server.deploy("hurried", &guest("http"), "timeout=1&role=caller");
    server.deploy("hurried3", &guest("http3"), "timeout=1&role=caller");
    let slow = "/v1/functions/slow/invoke";

    // As long as it takes: other hosts have ten seconds.
    server.deploy("f", &guest("http"), "timeout=20&role=caller");
    let began = Instant::now();
    let text = said(&server, "f", slow, &[("x-body", r#"{"do":"sleep","ms":10500}"#)]);
    assert!(text.starts_with("200") && began.elapsed() > Duration::from_secs(10), "{text}");

    // Who calls has a second, and so has who is called.
    let stopped = "wambda_kills_total{function=\"slow\",reason=\"timeout\"}";
    for function in ["hurried", "hurried3"] {
        let before = server.metric(stopped);
        let sleep = [("x-body", r#"{"do":"sleep","ms":8000}"#)];
        call(&server, function, slow, &sleep).expect(504);
        eventually(Duration::from_secs(3), || (server.metric(stopped) > before).then_some(()));
    }

    // Sixteen connections at once.
    let sleep = r#"{"do":"sleep","ms":500}"#;
    let text = said(&server, "f", slow, &[("x-times", "20"), ("x-body", sleep)]);
    let limited = text.matches("ConnectionLimitReached").count();
    assert_eq!((limited, text.matches("200 ").count()), (4, 16), "{text}");

    // Each payload within the limit of who is called, and all bodies of an invocation within its own.
    server.deploy("small", wats::echo().as_bytes(), "payload=1KB");
    let text = said(&server, "f", "/v1/functions/small/invoke", &[("x-send", "2000")]);
    assert!(text.starts_with("413"), "{text}");
    let text = said(&server, "f", NATIVE, &[("x-times", "12"), ("x-send", "6000000")]);
    assert!(text.contains("error"), "72 MB were sent: {text}");
    server.assert_well();
}

/// Who may end while the server stops may call as well, also somebody new.
#[test]
fn functions_that_may_end_may_call() {
    let mut server = stage(&[("Allow", "lambda:*", "*")]);
    let (answered, stopped) = std::thread::scope(|scope| {
        let calling = scope.spawn(|| {
            call(&server, "f", NATIVE, &[("x-delay", "1500"), ("x-body", "[1]")]).expect(200).text()
        });
        std::thread::sleep(Duration::from_millis(700));
        server.signal(rustix::process::Signal::TERM);
        (calling.join().unwrap(), Instant::now())
    });
    assert_eq!(answered, "200 3 [1]");
    assert!(server.wait(Duration::from_secs(5)) && stopped.elapsed() < Duration::from_secs(5));
}

/// What a role may no longer do, nobody does who is at work already: neither with the rights it began with, nor when its function
/// is gone.
#[test]
fn rights_that_are_taken_back_are_gone_for_those_at_work() {
    let server = stage(&[("Allow", "lambda:*", "*")]);
    server.deploy("gone", &guest("http"), "timeout=10&role=caller");
    let late = [("x-delay", "4000"), ("x-body", "[1]")];
    let texts = std::thread::scope(|scope| {
        let calls: Vec<_> = ["f", "gone"]
            .map(|name| scope.spawn(|| call(&server, name, NATIVE, &late).expect(200).text()))
            .into_iter()
            .collect();
        for name in ["f", "gone"] {
            let running = || server.get(&format!("/v1/functions/{name}/scaling")).json();
            eventually(Duration::from_secs(2), || (running()["running"] == 1).then_some(()));
        }
        std::thread::sleep(Duration::from_millis(300));
        server.request("DELETE", "/v1/functions/gone", &[], b"").expect(204);
        may(&server, "caller", &[("Allow", "lambda:GetFunction", "*")]);
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(texts.iter().all(|text| text.starts_with("403")), "{texts:?}");
    // Nor when the role is another one by the same name, or Lambda may not assume it.
    may(&server, "caller", &[("Allow", "lambda:*", "*")]);
    assert_eq!(said(&server, "f", NATIVE, &late[1..]), "200 3 [1]");
    let nobody = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",
        "Action": "sts:AssumeRole"}]})
    .to_string();
    server.iam("UpdateAssumeRolePolicy", &[("RoleName", "caller"), ("PolicyDocument", &*nobody)]);
    let text = said(&server, "f", NATIVE, &late[1..]);
    assert!(text.starts_with("403") && text.contains("Lambda may not assume it"), "{text}");
    server.assert_well();
}

/// Function URLs are there by their hosts as well, for whom their policies let in.
#[test]
fn function_urls_are_called_by_their_hosts() {
    let server = stage(&[]);
    let json = [("content-type", "application/json")];
    let url = "/2021-10-31/functions/other/url";
    let made = server.request("POST", url, &json, br#"{"AuthType":"NONE"}"#).expect(201).json();
    let made = made["FunctionUrl"].as_str().unwrap().to_owned();
    let id = made.split("://").nth(1).unwrap().split('.').next().unwrap().to_owned();
    let host = format!("{id}.lambda-url.wambda.internal");
    let ask = |name: &str| http(&server, name, &host);
    for function in BOTH {
        assert!(ask(function).starts_with("403"), "{}", ask(function));
    }
    let permission = json!({"StatementId": "s", "Action": "lambda:InvokeFunctionUrl", "Principal": "*",
        "FunctionUrlAuthType": "NONE"});
    let policy = "/2015-03-31/functions/other/policy";
    server.request("POST", policy, &json, permission.to_string().as_bytes()).expect(201);
    for function in BOTH {
        assert!(ask(function).starts_with("200"), "{}", ask(function));
    }
    server.assert_well();
}

/// A function that calls itself twice, and waits for both: sixteen calls deep, within the time of the first.
#[test]
fn functions_that_call_themselves_end() {
    let server = stage(&[("Allow", "lambda:*", "*")]);
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let again = |times| [("x-again", "1"), ("x-times", times)];
    server.deploy("one", &guest("http"), "timeout=10&role=caller");
    let text = said(&server, "one", "/fn/one/fetch", &again("1"));
    assert!(text.starts_with("200"), "{text}");
    assert_eq!(calls(&server, "one"), 16);

    server.deploy("bomb", &guest("http"), "timeout=3&role=caller");
    let bomb = || {
        let began = Instant::now();
        let answer = beside(&server, || call(&server, "bomb", "/fn/bomb/fetch", &again("2")));
        assert!(matches!(answer.status, 200 | 504), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let all = eventually(Duration::from_secs(5), || {
            let before = calls(&server, "bomb");
            std::thread::sleep(Duration::from_millis(500));
            (calls(&server, "bomb") == before).then_some(before)
        });
        println!("a bomb became {all} calls");
    };
    bomb();
    let rest = server.rest();
    bomb();
    // Idle instances are there by right, and not each time the same number.
    server.assert_rests(&rest, 32);
    server.assert_well();
}

/// A function that sends itself events, one each and then two each: sixteen deep, within the bounds of its queue, and it
/// ends when it is deleted.
#[test]
fn functions_that_send_themselves_events_end() {
    let server = stage(&[("Allow", "lambda:*", "*")]);
    server.deploy("neighbour", wats::echo().as_bytes(), "");
    let send = |name: &str, times: &str| {
        let path = format!("/v1/functions/{name}/invoke?mode=event");
        // As API Gateway has it, so that its headers come back to it.
        let headers = json!({"x-scheme": "http", "x-authority": "wambda.internal", "x-path": path,
            "x-times": times, "x-again-event": "1"});
        let event = json!({"version": "2.0", "rawPath": "/fetch", "rawQueryString": "", "headers": headers,
            "requestContext": {"http": {"method": "GET", "path": "/fetch"}}, "isBase64Encoded": false});
        server.request("POST", &path, &[], event.to_string().as_bytes()).expect(202);
    };
    server.deploy("one", &guest("http"), "timeout=10&role=caller&retries=0");
    send("one", "1");
    let ended = |name: &str| {
        let queue = server.get(&format!("/v1/queues/async:{name}")).expect(200).json();
        (queue["depth"] == 0 && queue["in_flight"] == 0).then(|| calls(&server, name))
    };
    assert_eq!(eventually(Duration::from_secs(20), || ended("one").filter(|n| *n >= 16)), 16);

    server.deploy("bomb", &guest("http"), "timeout=10&role=caller&retries=0");
    beside(&server, || {
        send("bomb", "2");
        std::thread::sleep(Duration::from_secs(3));
        server.request("DELETE", "/v1/functions/bomb", &[], b"").expect(204);
        std::thread::sleep(Duration::from_secs(1));
    });
    let accepted = || server.metric("wambda_http_requests_total{code=\"202\",surface=\"native\"}");
    let before = accepted();
    assert!(before > 50.0, "{before}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(accepted(), before, "something of it goes on");
    server.assert_well();
}
