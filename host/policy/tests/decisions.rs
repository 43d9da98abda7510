//! The truth table, from data, and what holds for every policy.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails so
#![allow(clippy::print_stdout)] // says what it has seen

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use wambda_policy::{
    Decision, Grants, Policy, Principal, Request, ResourcePolicy, Value, decide, may_assume,
};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:123456789012:function:f";

fn ada() -> Principal {
    Principal::Identity {
        arn: "arn:aws:iam::123456789012:user/ada".to_owned(),
        role: None,
        account: "123456789012".to_owned(),
    }
}

fn principal(case: &Json) -> Principal {
    let text = |key: &str| case["principal"][key].as_str().map(str::to_owned);
    if let Some(name) = text("service") {
        Principal::Service(name)
    } else if let Some(account) = text("root") {
        Principal::Root { account }
    } else if let Some(role) = text("role") {
        Principal::Identity {
            arn: "arn:aws:sts::123456789012:assumed-role/r/session".to_owned(),
            role: Some(role),
            account: "123456789012".to_owned(),
        }
    } else if case["principal"]["anonymous"] == true {
        Principal::Anonymous
    } else {
        ada()
    }
}

#[test]
fn the_truth_table_holds() {
    let cases: Vec<Json> = serde_json::from_str(include_str!("cases.json")).unwrap();
    assert!(cases.len() > 45);
    for case in cases {
        let context = case["context"].as_object().cloned().unwrap_or_default();
        let request = Request {
            principal: principal(&case),
            action: "lambda:InvokeFunction".to_owned(),
            resource: FUNCTION.to_owned(),
            context: context
                .into_iter()
                .map(|(key, value)| match value {
                    Json::Bool(value) => (key, Value::Bool(value)),
                    other => (key, Value::Text(other.as_str().unwrap().to_owned())),
                })
                .collect(),
        };
        let identity = Policy::of_statements(case["identity"].as_array().unwrap()).unwrap();
        let resource = case["resource"].as_array().map(|s| Policy::of_statements(s).unwrap());
        let got = decide(&request, &[&identity], resource.as_ref());
        assert_eq!(format!("{got:?}"), case["want"].as_str().unwrap(), "{}", case["name"]);
    }
}

#[test]
fn malformed_documents_are_named() {
    for (document, what) in [
        ("some policy", "JSON"),
        ("[]", "object"),
        (r#"{"Version": "2012-10-17"}"#, "Statement"),
        (r#"{"Version": "2020-01-01", "Statement": []}"#, "2012-10-17"),
        (r#"{"Statement": [], "Extra": 1}"#, "Extra"),
        (r#"{"Statement": [1]}"#, "object"),
        (r#"{"Statement": {"Effect": "Allow", "Resource": "*"}}"#, "Action"),
        (r#"{"Statement": {"Effect": "Allow", "Action": "*"}}"#, "Resource"),
        (r#"{"Statement": {"Effect": "Maybe", "Action": "*", "Resource": "*"}}"#, "not valid"),
        (r#"{"Statement": {"Effect": "Allow", "Action": "x", "Resource": "*"}}"#, "vendor"),
        (r#"{"Statement": {"Effect": "Allow", "Action": [], "Resource": "*"}}"#, "Action"),
        (r#"{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "x"}}"#, "ARN"),
        (
            r#"{"Statement": {"Effect": "Allow", "Action": "*", "NotAction": "*", "Resource": "*"}}"#,
            "exclude",
        ),
        (
            r#"{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": 1}}"#,
            "Condition",
        ),
        (
            r#"{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Guess": {"a": "b"}}}}"#,
            "not valid",
        ),
        (r#"{"Statement": {"Effect": "Allow", "Action": "*", "Principal": {"Who": "x"}}}"#, "Who"),
    ] {
        let said = Policy::parse(document).unwrap_err().to_string();
        assert!(said.contains(what), "{document}: {said}");
    }
}

#[test]
fn resource_policies_grow_and_shrink() {
    let statement = |sid: &str| json!({"Sid": sid, "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunction", "Resource": FUNCTION});
    let policy = ResourcePolicy::default().with(statement("a")).unwrap();
    let policy = policy.with(statement("b")).unwrap();
    assert!(policy.statement("a").is_some() && policy.policy().is_some());
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<ResourcePolicy>(&text).unwrap(), policy);
    assert!(policy.without("c").unwrap().is_none());
    let empty = policy.without("a").unwrap().unwrap().without("b").unwrap().unwrap();
    assert!(empty.is_empty() && empty.policy().is_none());
}

#[test]
fn grants_are_what_the_role_allows() {
    let policy = Policy::parse(
        r#"{"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "wambda:Connect", "Resource": "arn:aws:wambda:::host/*.example.com:443"},
            {"Effect": "Deny", "Action": "wambda:Connect", "Resource": "arn:aws:wambda:::host/secret.example.com:*"}]}"#,
    )
    .unwrap();
    let grants = Grants::new(wambda_policy::grants::Session {
        principal: ada(),
        id: "AROAX:f".to_owned(),
        policies: vec![policy.into()],
        region: "us-east-1".into(),
    });
    let now = 1_800_000_000;
    assert!(grants.allow_host("api.EXAMPLE.com", 443, now));
    assert!(!grants.allow_host("api.example.com", 80, now));
    assert!(!grants.allow_host("secret.example.com", 443, now));
    assert!(!grants.allow_host("example.com.evil.org", 443, now));
    assert!(!Grants::default().allow_host("api.example.com", 443, now));
}

#[test]
fn roles_are_assumed_by_those_whom_they_trust() {
    let role = "arn:aws:iam::123456789012:role/r";
    let may = |principal: Principal, identity: &str, trusted: &str| {
        let request = Request {
            principal,
            action: "sts:AssumeRole".to_owned(),
            resource: role.to_owned(),
            context: Vec::new(),
        };
        let trust = format!(
            r#"{{"Statement": {{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {trusted}}}}}"#
        );
        let identity = Policy::parse(identity).unwrap();
        may_assume(&request, &[&identity], &Policy::parse(&trust).unwrap())
    };
    let nothing = r#"{"Statement": []}"#;
    let allow =
        r#"{"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}}"#;
    let deny = r#"{"Statement": {"Effect": "Deny", "Action": "sts:*", "Resource": "*"}}"#;
    let by_name = r#"{"AWS": "arn:aws:iam::123456789012:user/ada"}"#;
    let by_account = r#"{"AWS": "arn:aws:iam::123456789012:root"}"#;
    let root = || Principal::Root { account: "123456789012".to_owned() };
    assert!(may(ada(), nothing, by_name));
    assert!(!may(ada(), deny, by_name));
    assert!(!may(ada(), nothing, by_account));
    assert!(may(ada(), allow, by_account));
    assert!(!may(ada(), allow, r#"{"Service": "lambda.amazonaws.com"}"#));
    assert!(may(root(), nothing, by_account));
    assert!(!may(root(), nothing, by_name));
    assert!(!may(Principal::Anonymous, nothing, by_account));
}

fn statement() -> impl Strategy<Value = Json> {
    let action = prop_oneof![
        Just("*"),
        Just("lambda:*"),
        Just("lambda:InvokeFunction"),
        Just("lambda:Get*"),
        Just("s3:*")
    ];
    let resource = prop_oneof![
        Just("*"),
        Just(FUNCTION),
        Just("arn:aws:lambda:*:*:function:*"),
        Just("arn:aws:lambda:us-east-1:123456789012:function:g")
    ];
    let effect = prop_oneof![3 => Just("Allow"), 1 => Just("Deny")];
    (effect, action, resource, any::<bool>()).prop_map(|(effect, action, resource, not)| {
        let key = if not { "NotAction" } else { "Action" };
        json!({"Effect": effect, key: action, "Resource": resource})
    })
}

/// Whether a statement's plain words cover the request, worked out anew.
fn covers(statement: &Json) -> bool {
    let action = |pattern: &str| matches!(pattern, "*" | "lambda:*" | "lambda:InvokeFunction");
    let acts = match statement["Action"].as_str() {
        Some(pattern) => action(pattern),
        None => !action(statement["NotAction"].as_str().unwrap()),
    };
    acts && !statement["Resource"].as_str().unwrap().ends_with(":g")
}

proptest! {
    #[test]
    fn decisions_follow_the_words(statements in prop::collection::vec(statement(), 0..6)) {
        let request = Request {
            principal: ada(),
            action: "lambda:InvokeFunction".to_owned(),
            resource: FUNCTION.to_owned(),
            context: Vec::new(),
        };
        let policy = Policy::of_statements(&statements).unwrap();
        let got = decide(&request, &[&policy], None);
        let some = |effect: &str| statements.iter().any(|s| s["Effect"] == effect && covers(s));
        let want = match (some("Deny"), some("Allow")) {
            (true, _) => Decision::ExplicitDeny,
            (false, true) => Decision::Allow,
            (false, false) => Decision::ImplicitDeny,
        };
        prop_assert_eq!(got, want);
        // Split over two policies, nothing changes.
        let (a, b) = statements.split_at(statements.len() / 2);
        let (a, b) = (Policy::of_statements(a).unwrap(), Policy::of_statements(b).unwrap());
        prop_assert_eq!(decide(&request, &[&a, &b], None), want);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", action in ".{0,40}", resource in ".{0,60}") {
        let _ = Policy::parse(&text);
        let request =
            Request { principal: ada(), action, resource, context: vec![(text, Value::Bool(true))] };
        let policy = Policy::of_statements(&[json!({"Effect": "Deny", "Action": "x:y", "Resource": "arn:a:b:c:d:${e}"})]);
        let _ = decide(&request, &[&policy.unwrap()], None);
    }
}
