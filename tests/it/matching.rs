//! Patterns and texts that strangers bring: however they are made, they cost little.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;
use wambda_tests::{Server, guest};

use crate::wats;

/// What a role with as many policies as it may have costs, of as many bytes as they may have, all
/// made to be matched slowly.
#[test]
fn hostile_policies_and_resources_hold_nobody_up() {
    let server = Server::start();
    server.role("r");
    let fill = |part: &str| part.repeat(9_500 / part.len());
    for number in 0..20 {
        let part = ["a", "a?", "?aa", "*?a"][number % 4];
        let resource = format!("arn:aws:s3:::*{}b*", fill(part));
        let document = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*",
            "Resource": resource}]});
        let (name, document) = (format!("p{number}"), document.to_string());
        server.iam("CreatePolicy", &[("PolicyName", &name), ("PolicyDocument", &document)]);
        let arn = format!("arn:aws:iam::000000000000:policy/{name}");
        server.iam("AttachRolePolicy", &[("RoleName", "r"), ("PolicyArn", &arn)]);
    }
    server.deploy("f", wats::echo().as_bytes(), "role=arn:aws:iam::000000000000:role/r");
    let ask = |action: &str, resource: &str| {
        server.get(&format!("/v1/functions/f/grants?action={action}&resource={resource}"))
    };
    let resource = |bytes: usize| format!("arn:aws:s3:::{}", "a".repeat(bytes - 13));
    let refused = ask("s3:GetObject", &resource(28_000)).expect(400);
    assert!(refused.message().contains("resource takes at most 2048 bytes, got 28000"));
    assert!(refused.took < Duration::from_millis(500), "{:?}", refused.took);
    let refused = ask(&"a".repeat(129), &resource(100)).expect(400);
    assert!(refused.message().contains("action takes at most 128 bytes, got 129"));
    // A neighbour is answered meanwhile.
    let stop = AtomicBool::new(false);
    let (answers, slowest) = std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(Relaxed) {
                slowest = slowest.max(server.invoke("f", "[1]").expect(200).took);
            }
            slowest
        });
        let asking = [(); 4].map(|()| {
            scope.spawn(|| [(); 4].map(|()| ask("s3:GetObject", &resource(2_048)).expect(200)))
        });
        let answers = asking.map(|asking| asking.join().unwrap());
        stop.store(true, Relaxed);
        (answers, neighbour.join().unwrap())
    });
    for answer in answers.as_flattened() {
        assert_eq!(answer.json()["allowed"], false);
        assert!(answer.took < Duration::from_secs(1), "{:?}", answer.took);
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    server.assert_well();
}

/// A filter of many words goes through the log page by page, and finds what is there.
#[test]
fn filters_of_many_words_are_answered_in_pages() {
    let server = Server::start();
    server.deploy("f", &guest("event"), "logs=1MB&timeout=10");
    for _ in 0..2 {
        server.invoke("f", r#"{"do":"print","lines":2000}"#).expect(200);
    }
    // Words that no line has, and one that two have.
    let pattern = format!("{}\"line 1999\"", "-~ ".repeat(330));
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", "Logs_20140328.FilterLogEvents"),
    ];
    let (mut token, mut pages, mut found) = (None, 0, 0);
    loop {
        let mut ask = json!({"logGroupName": "/aws/lambda/f", "filterPattern": pattern});
        if let Some(token) = token {
            ask["nextToken"] = token;
        }
        let answer = server.request("POST", "/", &headers, ask.to_string().as_bytes()).expect(200);
        assert!(answer.took < Duration::from_secs(1), "{:?}", answer.took);
        let answer = answer.json();
        found += answer["events"].as_array().unwrap().len();
        pages += 1;
        token = answer.get("nextToken").filter(|token| !token.is_null()).cloned();
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, 2);
    assert!((2..100).contains(&pages), "{pages} pages");
}

/// A condition that AWS would judge, and that would never hold here, is not taken.
#[test]
fn conditions_that_would_never_apply_are_refused() {
    let server = Server::start();
    let put = |key: &str| {
        let document = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny",
            "Action": "*", "Resource": "*", "Condition": {"StringEquals": {key: "x"}}}]});
        let body = format!(
            "Version=2010-05-08&Action=CreatePolicy&PolicyName=p{}&PolicyDocument={document}",
            key.replace([':', '/'], "-")
        );
        let form = [("content-type", "application/x-www-form-urlencoded")];
        server.request("POST", "/", &form, body.as_bytes())
    };
    for key in ["aws:ResourceTag/env", "AWS:RequestTag/env", "aws:TagKeys", "lambda:Layer"] {
        let refused = put(key).expect(400).text();
        assert!(refused.contains("MalformedPolicyDocument") && refused.contains(key), "{refused}");
    }
    for key in ["aws:UserAgent", "aws:PrincipalTag/team", "s3:prefix"] {
        put(key).expect(200);
    }
}
