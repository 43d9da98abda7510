"""The calls that Terraform's AWS provider makes, in its order, with what it reads of the answers."""

import base64
import json
import re

from aws import HELLO_WASM, TRUST, client, refused, zipped

aws, iam, sts, logs = client("lambda"), client("iam"), client("sts"), client("logs")
ZIP = zipped(HELLO_WASM)
FUNCTION_ARN = re.compile(r"^arn:aws:lambda:us-east-1:\d{12}:function:[a-zA-Z0-9-_]+(:[a-zA-Z0-9-_$]+)?$")

# provider
assert sts.get_caller_identity()["Account"] == "000000000000"

# aws_iam_role
made = iam.create_role(RoleName="tf", Path="/", AssumeRolePolicyDocument=TRUST, MaxSessionDuration=3600)["Role"]
role = iam.get_role(RoleName="tf")["Role"]
assert role["Arn"] == made["Arn"] and role["AssumeRolePolicyDocument"] == json.loads(TRUST)
assert iam.list_role_policies(RoleName="tf")["PolicyNames"] == []
assert iam.list_attached_role_policies(RoleName="tf")["AttachedPolicies"] == []
basic = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
iam.attach_role_policy(RoleName="tf", PolicyArn=basic)
assert iam.list_attached_role_policies(RoleName="tf")["AttachedPolicies"][0]["PolicyArn"] == basic
inline = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
iam.put_role_policy(RoleName="tf", PolicyName="p", PolicyDocument=json.dumps(inline))
assert iam.get_role_policy(RoleName="tf", PolicyName="p")["PolicyDocument"] == inline

# aws_cloudwatch_log_group
logs.create_log_group(logGroupName="/aws/lambda/tf", tags={"a": "b"})
logs.put_retention_policy(logGroupName="/aws/lambda/tf", retentionInDays=14)
group = logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/tf")["logGroups"][0]
assert group["retentionInDays"] == 14
assert logs.list_tags_for_resource(resourceArn=group["logGroupArn"])["tags"] == {"a": "b"}


# aws_lambda_function: create, read
aws.create_function(FunctionName="tf", Description="", MemorySize=128, PackageType="Zip", Publish=False, Role=role["Arn"],
                    Timeout=3, Tags={}, Handler="bootstrap", Runtime="provided.al2023", Architectures=["x86_64"],
                    EphemeralStorage={"Size": 512}, TracingConfig={"Mode": "PassThrough"}, Layers=[],
                    LoggingConfig={"LogFormat": "Text", "LogGroup": "/aws/lambda/tf"}, Code={"ZipFile": ZIP})


def read_function():
    aws.get_waiter("function_active_v2").wait(FunctionName="tf", WaiterConfig={"Delay": 1})
    got = aws.get_function(FunctionName="tf")
    config = got["Configuration"]
    for member in ["Architectures", "FunctionArn", "CodeSha256", "Description", "EphemeralStorage", "Handler",
                   "LastModified", "LoggingConfig", "MemorySize", "PackageType", "Role", "Runtime", "SnapStart",
                   "CodeSize", "Timeout", "TracingConfig", "State", "LastUpdateStatus", "Version", "RevisionId"]:
        assert config.get(member) is not None, member
    assert got["Code"] is not None and got["Code"]["Location"], "Code must not be null"
    assert base64.b64decode(config["CodeSha256"])
    versions = aws.list_versions_by_function(FunctionName="tf", MaxItems=10000)["Versions"]
    assert versions[0]["Version"] == "$LATEST", "the last one is taken for the newest"
    aws.get_function_code_signing_config(FunctionName="tf")
    return config, versions[-1]


config, newest = read_function()
assert newest["Version"] == "$LATEST" and newest["FunctionArn"].endswith(":$LATEST")

# update: configuration, then code, then concurrency, then publish
aws.update_function_configuration(FunctionName="tf", Timeout=10, Description="", MemorySize=128, Handler="bootstrap",
                                  Role=role["Arn"], Runtime="provided.al2023", Environment={"Variables": {}}, Layers=[])
aws.get_waiter("function_updated_v2").wait(FunctionName="tf", WaiterConfig={"Delay": 1})
aws.update_function_code(FunctionName="tf", Architectures=["x86_64"], ZipFile=ZIP, Publish=False)
aws.get_waiter("function_updated_v2").wait(FunctionName="tf", WaiterConfig={"Delay": 1})
aws.put_function_concurrency(FunctionName="tf", ReservedConcurrentExecutions=5)
version = aws.publish_version(FunctionName="tf")["Version"]
got = aws.get_function_configuration(FunctionName=config["FunctionArn"], Qualifier=version)
assert got["LastUpdateStatus"] == "Successful", got
config, newest = read_function()
assert newest["Version"] == version == "1"
assert aws.get_function(FunctionName="tf", Qualifier="1")["Configuration"]["Version"] == "1"
assert aws.get_function_concurrency(FunctionName="tf")["ReservedConcurrentExecutions"] == 5

# aws_lambda_alias
aws.create_alias(FunctionName="tf", Name="live", FunctionVersion="1", Description="", RoutingConfig={})
alias = aws.get_alias(FunctionName="tf", Name="live")
assert FUNCTION_ARN.match(alias["AliasArn"]) and not alias.get("RoutingConfig", {}).get("AdditionalVersionWeights")
aws.update_alias(FunctionName="tf", Name="live", FunctionVersion="1", Description="d", RoutingConfig={})
assert aws.get_alias(FunctionName="tf", Name="live")["Description"] == "d"

# aws_lambda_permission
for qualifier, wanted in [({}, "tf"), ({"Qualifier": "live"}, "tf:live")]:
    aws.add_permission(FunctionName="tf", StatementId="AllowSNS", Action="lambda:InvokeFunction",
                       Principal="sns.amazonaws.com", SourceArn="arn:aws:sns:us-east-1:000000000000:t", **qualifier)
    policy = json.loads(aws.get_policy(FunctionName="tf", **qualifier)["Policy"])
    statement = next(s for s in policy["Statement"] if s["Sid"] == "AllowSNS")
    # the provider's parser: plain strings, nothing else
    assert isinstance(statement["Action"], str) and isinstance(statement["Resource"], str), statement
    assert FUNCTION_ARN.match(statement["Resource"]) and statement["Resource"].endswith(wanted), statement
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"} and statement["Effect"] == "Allow"
    for block in statement["Condition"].values():
        assert all(isinstance(value, str) for value in block.values()), statement
    aws.remove_permission(FunctionName="tf", StatementId="AllowSNS", **qualifier)
    refused("ResourceNotFoundException", 404, lambda: aws.get_policy(FunctionName="tf", **qualifier))

# aws_lambda_function_url
url = aws.create_function_url_config(FunctionName="tf", AuthType="NONE", Cors={"AllowOrigins": ["*"]})
aws.add_permission(FunctionName="tf", StatementId="FunctionURLAllowPublicAccess", Action="lambda:InvokeFunctionUrl",
                   Principal="*", FunctionUrlAuthType="NONE")
error = refused("ResourceConflictException", 409, lambda: aws.add_permission(
    FunctionName="tf", StatementId="FunctionURLAllowPublicAccess", Action="lambda:InvokeFunctionUrl",
    Principal="*", FunctionUrlAuthType="NONE"))
assert "The statement id (FunctionURLAllowPublicAccess) provided already exists" in error["Error"]["Message"]
got = aws.get_function_url_config(FunctionName="tf")
assert got["FunctionUrl"] == url["FunctionUrl"] and got["InvokeMode"] == "BUFFERED"
assert got["Cors"]["AllowOrigins"] == ["*"] and FUNCTION_ARN.match(got["FunctionArn"])
assert aws.update_function_url_config(FunctionName="tf", AuthType="AWS_IAM")["AuthType"] == "AWS_IAM"
aws.delete_function_url_config(FunctionName="tf")
refused("ResourceNotFoundException", 404, lambda: aws.get_function_url_config(FunctionName="tf"))

# aws_lambda_event_source_mapping, disabled: there are no sources here yet
queue = "arn:aws:sqs:us-east-1:000000000000:q"
error = refused("InvalidParameterValueException", 400,
                lambda: aws.create_event_source_mapping(FunctionName="tf", EventSourceArn=queue))
assert "Enabled=false" in error["Error"]["Message"]
mapping = aws.create_event_source_mapping(FunctionName="tf", EventSourceArn=queue, Enabled=False, BatchSize=5,
                                          FilterCriteria={"Filters": [{"Pattern": '{"a":[1]}'}]}, Tags={"k": "v"})
assert mapping["ResponseMetadata"]["HTTPStatusCode"] == 202
got = aws.get_event_source_mapping(UUID=mapping["UUID"])
assert got["State"] == "Disabled" and got["FunctionArn"].endswith(":tf") and got["BatchSize"] == 5
assert aws.list_tags(Resource=got["EventSourceMappingArn"])["Tags"] == {"k": "v"}
refused("ResourceConflictException", 409, lambda: aws.create_event_source_mapping(
    FunctionName="tf", EventSourceArn=queue, Enabled=False))
refused("InvalidParameterValueException", 400, lambda: aws.update_event_source_mapping(
    UUID=mapping["UUID"], FilterCriteria={"Filters": [{"Pattern": "nonsense"}]}))
got = aws.update_event_source_mapping(UUID=mapping["UUID"], BatchSize=7, FilterCriteria={}, ScalingConfig={})
assert got["BatchSize"] == 7 and "FilterCriteria" not in got
assert [m["UUID"] for m in aws.list_event_source_mappings(FunctionName="tf")["EventSourceMappings"]] == [mapping["UUID"]]
assert aws.delete_event_source_mapping(UUID=mapping["UUID"])["State"] == "Deleting"
refused("ResourceNotFoundException", 404, lambda: aws.get_event_source_mapping(UUID=mapping["UUID"]))

# destroy
aws.delete_alias(FunctionName="tf", Name="live")
aws.delete_function(FunctionName="tf")
refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName="tf"))
logs.delete_log_group(logGroupName="/aws/lambda/tf")
assert logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/tf")["logGroups"] == []
iam.delete_role_policy(RoleName="tf", PolicyName="p")
refused("DeleteConflict", 409, lambda: iam.delete_role(RoleName="tf"))
iam.detach_role_policy(RoleName="tf", PolicyArn=basic)
assert iam.list_instance_profiles_for_role(RoleName="tf")["InstanceProfiles"] == []
iam.delete_role(RoleName="tf")
refused("NoSuchEntity", 404, lambda: iam.get_role(RoleName="tf"))
