"""Makes one of everything; run again on a server that was killed in between, finds it all."""

import json
import os

from aws import HELLO_WASM, TRUST, client, zipped

aws, iam, logs = client("lambda"), client("iam"), client("logs")
QUEUE = "arn:aws:sqs:us-east-1:000000000000:q"

if "WAMBDA_AGAIN" not in os.environ:
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST, Tags=[{"Key": "a", "Value": "b"}])["Role"]["Arn"]
    iam.attach_role_policy(RoleName="r", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    iam.create_user(UserName="u")
    iam.create_access_key(UserName="u")
    layer = aws.publish_layer_version(LayerName="l", Content={"ZipFile": zipped(b"x", "x.txt")})["LayerVersionArn"]
    aws.create_function(FunctionName="f", Role=role, Runtime="provided.al2023", Handler="bootstrap", Publish=True,
                        Code={"ZipFile": zipped(HELLO_WASM)}, Tags={"t": "1"}, Layers=[layer], Timeout=7)
    aws.update_function_configuration(FunctionName="f", Timeout=8)
    aws.publish_version(FunctionName="f")
    aws.create_alias(FunctionName="f", Name="live", FunctionVersion="1",
                     RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}})
    aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=9)
    aws.put_provisioned_concurrency_config(FunctionName="f", Qualifier="2", ProvisionedConcurrentExecutions=2)
    aws.add_permission(FunctionName="f", StatementId="s", Action="lambda:InvokeFunction", Principal="sns.amazonaws.com")
    aws.create_function_url_config(FunctionName="f", AuthType="NONE", Cors={"AllowOrigins": ["*"]})
    aws.put_function_recursion_config(FunctionName="f", RecursiveLoop="Allow")
    aws.create_event_source_mapping(FunctionName="f", EventSourceArn=QUEUE, Enabled=False)
    logs.create_log_group(logGroupName="g")

got = aws.get_function(FunctionName="f")
assert got["Tags"] == {"t": "1"} and got["Concurrency"]["ReservedConcurrentExecutions"] == 9
config = got["Configuration"]
assert (config["Timeout"], config["State"], len(config["Layers"])) == (8, "Active", 1), config
versions = aws.list_versions_by_function(FunctionName="f")["Versions"]
assert [(v["Version"], v["Timeout"]) for v in versions] == [("$LATEST", 8), ("1", 7), ("2", 8)], versions
assert aws.get_alias(FunctionName="f", Name="live")["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
assert aws.get_provisioned_concurrency_config(
    FunctionName="f", Qualifier="2")["RequestedProvisionedConcurrentExecutions"] == 2
assert json.loads(aws.get_policy(FunctionName="f")["Policy"])["Statement"][0]["Sid"] == "s"
assert aws.get_function_url_config(FunctionName="f")["Cors"]["AllowOrigins"] == ["*"]
assert aws.get_function_recursion_config(FunctionName="f")["RecursiveLoop"] == "Allow"
assert len(aws.list_event_source_mappings(EventSourceArn=QUEUE)["EventSourceMappings"]) == 1
assert aws.list_layer_versions(LayerName="l")["LayerVersions"][0]["Version"] == 1
for qualifier in ["$LATEST", "1", "2", "live"]:
    answer = aws.invoke(FunctionName="f", Qualifier=qualifier, Payload=b'{"name":"Ada"}')
    assert json.load(answer["Payload"])["message"] == "Hello, Ada!", qualifier
assert aws.publish_version(FunctionName="f")["Version"] == "2", "nothing has changed since"
assert iam.list_role_tags(RoleName="r")["Tags"] == [{"Key": "a", "Value": "b"}]
assert len(iam.list_attached_role_policies(RoleName="r")["AttachedPolicies"]) == 1
assert len(iam.list_access_keys(UserName="u")["AccessKeyMetadata"]) == 1
assert logs.describe_log_groups(logGroupNamePrefix="g")["logGroups"]
