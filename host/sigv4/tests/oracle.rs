//! Against AWS's own signer, and against tampering.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails so
#![allow(clippy::print_stdout)] // says what it has seen

use std::time::{Duration, UNIX_EPOCH};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings};
use aws_sigv4::sign::v4;
use proptest::prelude::*;
use wambda_sigv4::{
    AuthError, Claim, Credentials, EMPTY_SHA256, KeyCache, Request, presign, sha256_hex, sign,
};

const NOW: i64 = 1_795_420_800;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn who(token: Option<&str>) -> Credentials {
    Credentials {
        access_key: "AKIDEXAMPLE".to_owned(),
        secret_key: SECRET.to_owned(),
        token: token.map(str::to_owned),
    }
}

type Headers = Vec<(String, String)>;

/// What aws-sigv4 adds to a request: headers and query parameters.
fn theirs(
    (method, uri): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
    token: Option<&str>,
    expires: Option<u64>,
) -> (Headers, Headers) {
    let identity = aws_credential_types::Credentials::new(
        "AKIDEXAMPLE",
        SECRET,
        token.map(str::to_owned),
        None,
        "t",
    )
    .into();
    let mut settings = SigningSettings::default();
    if let Some(expires) = expires {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(expires));
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("lambda")
        .time(UNIX_EPOCH + Duration::from_secs(NOW as u64))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let request =
        SignableRequest::new(method, uri, headers.iter().copied(), SignableBody::Bytes(body))
            .unwrap();
    let (made, _) = aws_sigv4::http_request::sign(request, &params).unwrap().into_parts();
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    (
        made.headers().map(owned).collect(),
        made.params().iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
    )
}

fn verify(request: &Request<'_>, now: i64) -> Result<(), AuthError> {
    let claim = Claim::read(request)?;
    // Another signer has another secret.
    let secret = if claim.access_key == "AKIDEXAMPLE" { SECRET } else { "another" };
    claim.verify(request, secret, (&["us-east-1"], "lambda"), now, &KeyCache::default())
}

fn split(uri: &str) -> (&str, &str) {
    let rest = uri.strip_prefix("http://localhost:5262").unwrap();
    rest.split_once('?').unwrap_or((rest, ""))
}

proptest! {
    #[test]
    fn aws_sigv4_and_we_agree(
        path in "(/[a-zA-Z0-9:_.~-]{0,8}(%3A|%20)?){1,4}",
        query in prop::collection::vec(("[a-zA-Z]{1,5}", "[a-zA-Z0-9%2F_.-]{0,6}"), 0..4),
        value in "[a-z]{1,6}( {1,3}[a-z]{1,4}){0,2}",
        body in prop::collection::vec(any::<u8>(), 0..200),
        token in prop::option::of("[A-Za-z0-9+/=]{1,40}"),
    ) {
        let query: Vec<String> =
            query.iter().map(|(k, v)| format!("{k}={}", v.replace('%', ""))).collect();
        let query = query.join("&");
        let uri = format!("http://localhost:5262{path}{}{query}", if query.is_empty() { "" } else { "?" });
        let sent = [("host", "localhost:5262"), ("x-amz-invocation-type", value.as_str())];
        let (added, _) = theirs(("POST", &uri), &sent, &body, token.as_deref(), None);
        let hash = sha256_hex(&body);
        let (path, query) = split(&uri);
        let base = Request {
            method: "POST", path, query, headers: &sent, body_sha256: &hash, encodes_twice: true,
        };
        let ours = sign(&base, &who(token.as_deref()), ("us-east-1", "lambda"), NOW);
        let authorization = &added.iter().find(|(name, _)| name == "authorization").unwrap().1;
        // The same signature, and the same verdict about it.
        prop_assert_eq!(&ours.authorization, authorization);
        let mut all: Vec<(&str, &str)> = sent.to_vec();
        all.extend(added.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let request = Request { headers: &all, ..base };
        prop_assert_eq!(verify(&request, NOW), Ok(()));
        prop_assert_eq!(verify(&Request { method: "PUT", ..request }, NOW), Err(AuthError::mismatch()));
        prop_assert_eq!(
            verify(&Request { body_sha256: EMPTY_SHA256, ..request }, NOW).is_ok(), body.is_empty()
        );
    }

    #[test]
    fn no_header_makes_it_panic(authorization in ".{0,200}", date in ".{0,30}", query in ".{0,100}") {
        let headers = [("host", "h"), ("authorization", authorization.as_str()), ("x-amz-date", date.as_str())];
        let request = Request {
            method: "GET", path: "/", query: &query, headers: &headers, body_sha256: EMPTY_SHA256,
            encodes_twice: true,
        };
        let refused = verify(&request, NOW).is_err();
        prop_assert!(refused);
        let plain = Request { headers: &headers[..1], ..request };
        let refused = verify(&plain, NOW).is_err();
        prop_assert!(refused);
    }
}

#[test]
fn presigned_requests_of_both_are_good_until_they_expire() {
    let path = "/2015-03-31/functions/f";
    let uri = format!("http://localhost:5262{path}?Qualifier=1");
    let (_, added) = theirs(("GET", &uri), &[("host", "localhost:5262")], b"", None, Some(60));
    let added: Vec<String> = added
        .iter()
        .map(|(k, v)| format!("{k}={}", v.replace('/', "%2F").replace(';', "%3B")))
        .collect();
    let theirs = format!("Qualifier=1&{}", added.join("&"));
    let ours =
        presign(("localhost:5262", path), &who(Some("to/ken")), ("us-east-1", "lambda"), NOW, 60);
    for query in [theirs, ours] {
        let request = Request {
            method: "GET",
            path,
            query: &query,
            headers: &[("host", "localhost:5262")],
            body_sha256: EMPTY_SHA256,
            encodes_twice: true,
        };
        assert_eq!(verify(&request, NOW + 60), Ok(()), "{query}");
        let late = verify(&request, NOW + 61).unwrap_err().to_string();
        assert!(late.starts_with("Signature expired: "), "{late}");
        let other = query.replace("Expires=60", "Expires=600");
        let tampered = Request { query: &other, ..request };
        assert_eq!(verify(&tampered, NOW), Err(AuthError::mismatch()));
    }
}

/// A request that is signed, in pieces that can be changed one by one.
fn signed() -> (Vec<(String, String)>, String) {
    let sent = [("host", "localhost:5262"), ("x-amz-log-type", "Tail")];
    let hash = sha256_hex(b"{}");
    let request = Request {
        method: "POST",
        path: "/2015-03-31/functions/f/invocations",
        query: "Qualifier=1",
        headers: &sent,
        body_sha256: &hash,
        encodes_twice: true,
    };
    let signature = sign(&request, &who(None), ("us-east-1", "lambda"), NOW);
    let mut headers: Vec<(String, String)> =
        sent.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    headers.push(("x-amz-date".to_owned(), signature.date));
    headers.push(("authorization".to_owned(), signature.authorization));
    (headers, hash)
}

fn judged(headers: &[(String, String)], hash: &str, now: i64) -> Result<(), AuthError> {
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let request = Request {
        method: "POST",
        path: "/2015-03-31/functions/f/invocations",
        query: "Qualifier=1",
        headers: &headers,
        body_sha256: hash,
        encodes_twice: true,
    };
    verify(&request, now)
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let (headers, hash) = signed();
    assert_eq!(judged(&headers, &hash, NOW), Ok(()));
    for (at, (name, value)) in headers.iter().enumerate() {
        for place in 0..value.len() {
            let mut bytes = value.clone().into_bytes();
            bytes[place] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            // White space around commas and at the ends has no meaning in HTTP.
            if changed.split_whitespace().eq(value.split_whitespace()) {
                continue;
            }
            let mut headers = headers.clone();
            headers[at].1 = changed;
            assert!(judged(&headers, &hash, NOW).is_err(), "{name} at {place}");
        }
    }
    assert!(judged(&headers, EMPTY_SHA256, NOW).is_err());
    let mut more = headers.clone();
    more.push(("x-amz-client-context".to_owned(), "e30=".to_owned()));
    assert!(judged(&more, &hash, NOW).unwrap_err().to_string().contains("not signed"));
    let mut twice = headers.clone();
    twice.push(("authorization".to_owned(), "AWS4-HMAC-SHA256 x".to_owned()));
    assert!(judged(&twice, &hash, NOW).is_err());
}

#[test]
fn time_and_scope_are_checked() {
    let (headers, hash) = signed();
    assert_eq!(judged(&headers, &hash, NOW + 300), Ok(()));
    assert_eq!(judged(&headers, &hash, NOW - 300), Ok(()));
    let said = |now| judged(&headers, &hash, now).unwrap_err().to_string();
    assert!(said(NOW + 301).starts_with("Signature expired: "), "{}", said(NOW + 301));
    assert!(said(NOW + 301).ends_with("- 5 min.)"));
    assert!(said(NOW - 301).starts_with("Signature not yet current: "));
    let names: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let request = Request {
        method: "POST",
        path: "/",
        query: "",
        headers: &names,
        body_sha256: &hash,
        encodes_twice: true,
    };
    let claim = Claim::read(&request).unwrap();
    let keys = KeyCache::default();
    let said = |regions: &[&str], service: &str| {
        claim.verify(&request, SECRET, (regions, service), NOW, &keys).unwrap_err().to_string()
    };
    assert!(said(&["eu-west-1"], "lambda").contains("valid region, not 'us-east-1'"));
    assert!(said(&["us-east-1"], "iam").contains("correct service: 'iam'"));
}

#[test]
fn wrong_forms_are_named() {
    let said = |authorization: &str| {
        let headers =
            [("host", "h"), ("authorization", authorization), ("x-amz-date", "20261123T120000Z")];
        let request = Request {
            method: "GET",
            path: "/",
            query: "",
            headers: &headers,
            body_sha256: EMPTY_SHA256,
            encodes_twice: true,
        };
        verify(&request, NOW).unwrap_err().to_string()
    };
    assert!(said("Basic abc").contains("algorithm"));
    assert!(
        said("AWS4-HMAC-SHA256 Credential=a/20261123/r/s/aws4_request").contains("'Signature'")
    );
    assert!(
        said("AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=00").contains("5 slash")
    );
    assert!(
        said("AWS4-HMAC-SHA256 Credential=a/20261123/r/s/x, SignedHeaders=host, Signature=00")
            .contains("terminator")
    );
    assert!(
        said("AWS4-HMAC-SHA256 Credential=a/20261122/r/s/aws4_request, SignedHeaders=host, Signature=00")
            .contains("Date in Credential scope")
    );
}

/// AWS's published vectors, when somebody has put them into `tests/aws-sig-v4-test-suite`: one
/// folder a case, with its `.req`, `.creq`, `.sts` and `.authz`.
#[test]
fn published_vectors_pass_when_they_are_there() {
    let suite =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws-sig-v4-test-suite");
    let mut folders = vec![suite];
    let mut passed = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "req") {
                vector(&path);
                passed += 1;
            }
        }
    }
    println!("{passed} vectors");
}

fn vector(req: &std::path::Path) {
    let text = std::fs::read_to_string(req).unwrap().replace("\r\n", "\n");
    let wanted = std::fs::read_to_string(req.with_extension("authz")).unwrap();
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap();
    let (method, rest) = first.split_once(' ').unwrap();
    let target = rest.rsplit_once(' ').map_or(rest, |(target, _)| target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        match line.split_once(':') {
            Some((name, value)) if !line.starts_with(' ') => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => headers.last_mut().unwrap().1.push_str(&format!(" {}", line.trim())),
        }
    }
    headers.push(("authorization".to_owned(), wanted.trim().to_owned()));
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let hash = sha256_hex(body.as_bytes());
    let request =
        Request { method, path, query, headers: &headers, body_sha256: &hash, encodes_twice: true };
    let claim = Claim::read(&request).unwrap();
    // 2015-08-30T12:36:00Z, as all of them have it.
    claim
        .verify(&request, SECRET, (&["us-east-1"], "service"), 1_440_938_160, &KeyCache::default())
        .unwrap_or_else(|error| panic!("{}: {error}", req.display()));
}
