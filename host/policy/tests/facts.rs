//! Every fact that AWS always sets: a condition on it applies.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails so

use serde_json::{Value as Json, json};
use wambda_policy::facts::{Asking, is_missing};
use wambda_policy::{Decision, Policy, Principal, Request, decide};

fn root() -> Principal {
    Principal::Root { account: "123456789012".to_owned() }
}

fn user() -> Principal {
    Principal::Identity {
        arn: "arn:aws:iam::123456789012:user/ada".to_owned(),
        role: None,
        account: "123456789012".to_owned(),
    }
}

fn session() -> Principal {
    Principal::Identity {
        arn: "arn:aws:sts::123456789012:assumed-role/r/s".to_owned(),
        role: Some("arn:aws:iam::123456789012:role/r".to_owned()),
        account: "123456789012".to_owned(),
    }
}

/// Whether a statement that denies under these conditions applies.
fn denies(principal: &Principal, condition: &Json) -> bool {
    let asking = Asking {
        principal,
        id: "AIDAX",
        user: "ada",
        region: "us-east-1",
        account: "123456789012",
        issued_s: matches!(principal, Principal::Identity { role: Some(_), .. })
            .then_some(1_799_999_000),
    };
    let statement = |effect: &str, condition: &Json| json!({"Effect": effect, "Action": "*", "Resource": "*", "Condition": condition});
    let policy =
        Policy::of_statements(&[statement("Allow", &json!({})), statement("Deny", condition)]);
    let request = Request {
        principal: principal.clone(),
        action: "lambda:InvokeFunction".to_owned(),
        resource: "arn:aws:lambda:us-east-1:123456789012:function:f".to_owned(),
        // 2027-01-15T08:00:00Z.
        context: asking.facts(1_800_000_000),
    };
    match decide(&request, &[&policy.unwrap()], None) {
        Decision::Allow => false,
        Decision::ExplicitDeny => true,
        Decision::ImplicitDeny => panic!("{condition} is not judged"),
    }
}

#[test]
fn denying_conditions_on_what_aws_always_sets_apply() {
    for (principal, condition) in [
        (user(), json!({"Bool": {"aws:SecureTransport": "false"}})),
        (user(), json!({"DateGreaterThan": {"aws:CurrentTime": "2027-01-15T07:59:59Z"}})),
        (user(), json!({"StringLike": {"aws:CurrentTime": "2027-01-15T08:*"}})),
        (user(), json!({"NumericGreaterThan": {"aws:EpochTime": "1799999999"}})),
        (user(), json!({"DateGreaterThan": {"aws:EpochTime": "1799999999"}})),
        (user(), json!({"StringEquals": {"aws:PrincipalType": "User"}})),
        (session(), json!({"StringEquals": {"aws:PrincipalType": "AssumedRole"}})),
        (root(), json!({"StringEquals": {"aws:PrincipalType": "Account"}})),
        (Principal::Anonymous, json!({"StringEquals": {"aws:PrincipalType": "Anonymous"}})),
        (user(), json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::123456789012:user/a*"}})),
        (session(), json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::123456789012:role/r"}})),
        (user(), json!({"StringEquals": {"aws:PrincipalAccount": "123456789012"}})),
        (user(), json!({"StringEquals": {"aws:ResourceAccount": "123456789012"}})),
        (user(), json!({"StringEquals": {"aws:userid": "AIDAX"}})),
        (Principal::Anonymous, json!({"StringEquals": {"aws:userid": "anonymous"}})),
        (user(), json!({"StringEquals": {"aws:username": "ada"}})),
        (user(), json!({"StringNotEquals": {"aws:RequestedRegion": "eu-west-1"}})),
        (user(), json!({"StringEquals": {"aws:RequestedRegion": "us-east-1"}})),
        (user(), json!({"Bool": {"aws:ViaAWSService": "false"}})),
        (user(), json!({"Bool": {"aws:PrincipalIsAWSService": "false"}})),
        (session(), json!({"Bool": {"aws:MultiFactorAuthPresent": "false"}})),
        (user(), json!({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}})),
        (session(), json!({"DateLessThan": {"aws:TokenIssueTime": "2027-01-15T08:00:00Z"}})),
    ] {
        assert!(denies(&principal, &condition), "{principal:?}: {condition}");
    }
    // Long-term keys have neither, as on AWS.
    assert!(!denies(&user(), &json!({"Bool": {"aws:MultiFactorAuthPresent": "false"}})));
    assert!(!denies(
        &user(),
        &json!({"DateLessThan": {"aws:TokenIssueTime": "2030-01-01T00:00:00Z"}})
    ));
    assert!(!denies(&user(), &json!({"Bool": {"aws:SecureTransport": "true"}})));
}

#[test]
fn what_no_request_has_is_known() {
    for (key, missing) in [
        ("aws:ResourceTag/env", true),
        ("AWS:resourcetag/Env", true),
        ("aws:RequestTag/a", true),
        ("aws:TagKeys", true),
        ("lambda:layer", true),
        ("aws:ResourceTag", false),
        ("aws:PrincipalTag/team", false),
        ("aws:PrincipalOrgID", false),
        ("s3:prefix", false),
        ("ä", false),
    ] {
        assert_eq!(is_missing(key), missing, "{key}");
    }
}
