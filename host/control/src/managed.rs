//! The policies of AWS that Lambda's users attach to roles, as far as they mean something here. The
//! documents are our own; names and ARNs are AWS's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use wambda_policy::Policy;

use crate::directory::Managed;

/// 2015-02-06T00:00:00Z: some day of the past, the same one for all.
const CREATED_MS: u64 = 1_423_180_800_000;

const LOGS: &[&str] = &["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"];

const POLICIES: &[(&str, &str, &[&[&str]])] = &[
    ("/", "AdministratorAccess", &[&["*"]]),
    ("/", "AWSLambda_FullAccess", &[&["lambda:*", "iam:GetRole", "iam:ListRoles", "logs:*"]]),
    (
        "/",
        "AWSLambda_ReadOnlyAccess",
        &[&["lambda:Get*", "lambda:List*", "logs:Describe*", "logs:Get*", "logs:Filter*"]],
    ),
    ("/", "IAMFullAccess", &[&["iam:*"]]),
    (
        "/",
        "ReadOnlyAccess",
        &[&[
            "lambda:Get*",
            "lambda:List*",
            "iam:Get*",
            "iam:List*",
            "logs:Describe*",
            "logs:Get*",
            "logs:Filter*",
            "cloudwatch:Get*",
            "cloudwatch:List*",
        ]],
    ),
    ("/service-role/", "AWSLambdaBasicExecutionRole", &[LOGS]),
    ("/service-role/", "AWSLambdaRole", &[&["lambda:InvokeFunction"]]),
    (
        "/service-role/",
        "AWSLambdaSQSQueueExecutionRole",
        &[LOGS, &["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]],
    ),
    (
        "/service-role/",
        "AWSLambdaDynamoDBExecutionRole",
        &[
            LOGS,
            &[
                "dynamodb:DescribeStream",
                "dynamodb:GetRecords",
                "dynamodb:GetShardIterator",
                "dynamodb:ListStreams",
            ],
        ],
    ),
    ("/service-role/", "AWSLambdaKinesisExecutionRole", &[LOGS]),
    ("/service-role/", "AWSLambdaVPCAccessExecutionRole", &[LOGS]),
    ("/", "AWSXRayDaemonWriteAccess", &[&["xray:PutTraceSegments", "xray:PutTelemetryRecords"]]),
];

/// All of them, by ARN.
#[must_use]
pub fn builtin() -> BTreeMap<String, Arc<Managed>> {
    let all = POLICIES.iter().enumerate().filter_map(|(at, (path, name, actions))| {
        let actions = actions.concat();
        let statement = json!({"Effect": "Allow", "Action": actions, "Resource": "*"});
        let document = Policy::of_statements(&[statement]).ok()?;
        let arn = format!("arn:aws:iam::aws:policy{path}{name}");
        let managed = Managed {
            name: (*name).to_owned(),
            path: (*path).to_owned(),
            id: format!("ANPAWAMBDA{at:010}"),
            arn: arn.clone(),
            description: String::new(),
            created_ms: CREATED_MS,
            updated_ms: CREATED_MS,
            versions: BTreeMap::from([(1, (Arc::new(document), CREATED_MS))]),
            default: 1,
            tags: BTreeMap::new(),
        };
        Some((arn, Arc::new(managed)))
    });
    all.collect()
}

/// Whether an ARN is of one of AWS's own policies.
#[must_use]
pub fn is_builtin(arn: &str) -> bool {
    arn.starts_with("arn:aws:iam::aws:policy/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_document_is_valid() {
        assert_eq!(super::builtin().len(), super::POLICIES.len());
    }
}
