//! Wildcards fit what they should, and never cost more than they may.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails so

use proptest::prelude::*;
use serde_json::json;
use wambda_policy::wildcard::Text;
use wambda_policy::{
    ACTION_BYTES_MAX, Decision, Policy, Principal, Request, TEXT_BYTES_MAX, decide,
};

/// The same by its definition: a table of which beginning of the pattern fits which beginning of
/// the text.
fn fits(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for wanted in pattern.chars() {
        let before = row.clone();
        row[0] = before[0] && wanted == '*';
        for (at, got) in text.iter().enumerate() {
            row[at + 1] = match wanted {
                '*' => before[at + 1] || row[at],
                '?' => before[at],
                plain => before[at] && plain == *got,
            };
        }
    }
    row[text.len()]
}

fn check(pattern: &str, text: &str) {
    let held = Text::new(text);
    assert_eq!(held.fits(pattern), fits(pattern, text), "{pattern:?} against {text:?}");
    let most = held.work_max(pattern.len());
    assert!(held.work() <= most, "{pattern:?} on {text:?}: {} of {most}", held.work());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn patterns_fit_as_they_are_defined(pattern in "[ab?*é*?]{0,14}", text in "[abé*?]{0,24}") {
        check(&pattern, &text);
    }

    #[test]
    fn long_ones_do_as_well(
        pattern in "([ab?é]{0,70}\\*){0,4}[ab?]{0,3}", a in "[abé]{0,90}", b in "[ab]{0,90}",
    ) {
        check(&pattern, &format!("{a}{b}"));
        // What fits for certain: letters of the text for some of the wildcards.
        let text: String = pattern.chars().map(|c| match c { '?' => 'é', '*' => 'a', c => c }).collect();
        check(&pattern, &text);
    }
}

/// Patterns that make matchers go back: they cost pattern times text there.
fn hostile(bytes: usize) -> Vec<String> {
    let fill = |part: &str, end: &str| format!("*{}{end}*", part.repeat(bytes / part.len() - 2));
    vec![
        fill("a", "b"),
        fill("a?", "b"),
        fill("?a", "b"),
        fill("*a", "b"),
        fill("*?a", "b"),
        fill("a*?", "b"),
        fill("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa?", "b"),
        fill("?", ""),
        fill("*", "b"),
    ]
}

#[test]
fn no_pattern_costs_pattern_times_text() {
    for text in ["a".repeat(TEXT_BYTES_MAX), "é".repeat(TEXT_BYTES_MAX / 2)] {
        for bytes in [1_000, 2_000, 9_500] {
            for pattern in hostile(bytes) {
                let held = Text::new(&text);
                assert!(!(held.fits(&pattern) && pattern.contains('b')), "{pattern:?}");
                assert!(held.work() <= held.work_max(pattern.len()), "{bytes}");
                let product = (text.len() * pattern.len()) as u64;
                assert!(held.work() < product / 20, "{bytes}: {} of {product}", held.work());
            }
        }
    }
}

fn ask(action: &str, resource: &str, policies: &[&Policy]) -> Decision {
    let request = Request {
        principal: Principal::Anonymous,
        action: action.to_owned(),
        resource: resource.to_owned(),
        context: Vec::new(),
    };
    decide(&request, policies, None)
}

#[test]
fn what_is_too_long_is_allowed_by_nothing_and_denied_by_everything() {
    let policy = |effect: &str| {
        let all = json!({"Effect": effect, "Action": "*", "Resource": "*"});
        Policy::of_statements(&[all]).unwrap()
    };
    let (allow, deny) = (policy("Allow"), policy("Deny"));
    let arn = |bytes: usize| format!("arn:aws:s3:::{}", "a".repeat(bytes - 13));
    let action = |bytes: usize| format!("s3:{}", "a".repeat(bytes - 3));
    for (action, resource, fits) in [
        (action(ACTION_BYTES_MAX), arn(TEXT_BYTES_MAX), true),
        (action(ACTION_BYTES_MAX + 1), arn(TEXT_BYTES_MAX), false),
        (action(ACTION_BYTES_MAX), arn(TEXT_BYTES_MAX + 1), false),
    ] {
        let want = if fits { Decision::Allow } else { Decision::ImplicitDeny };
        assert_eq!(ask(&action, &resource, &[&allow]), want);
        assert_eq!(ask(&action, &resource, &[&allow, &deny]), Decision::ExplicitDeny);
    }
}

/// A variable that stands in a pattern a hundred times is not filled in a hundred times.
#[test]
fn filled_variables_are_bounded() {
    let pattern = format!("arn:aws:s3:::*{}", "${aws:userid}".repeat(600));
    let statement = json!({"Effect": "Allow", "Action": "*", "NotResource": pattern});
    let policy = Policy::of_statements(&[statement]).unwrap();
    let request = |id: usize| Request {
        principal: Principal::Anonymous,
        action: "s3:GetObject".to_owned(),
        resource: "arn:aws:s3:::a".to_owned(),
        context: vec![("aws:userid".to_owned(), wambda_policy::Value::Text("a".repeat(id)))],
    };
    assert_eq!(decide(&request(1), &[&policy], None), Decision::Allow);
    assert_eq!(decide(&request(TEXT_BYTES_MAX), &[&policy], None), Decision::ImplicitDeny);
}
