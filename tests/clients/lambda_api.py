"""boto3 against Lambda's API: functions, versions, aliases, and what stands around them. Every
response is checked against botocore's own model: members that are required must be there."""

import base64
import hashlib
import json
import time
import urllib.error
import urllib.request

from aws import GUEST_WASM, HELLO_WASM, TRUST, client, refused, unsigned, zipped

aws, iam = client("lambda"), client("iam")
ACCOUNT = "000000000000"
ARN = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:"
HELLO, GUEST = zipped(HELLO_WASM), zipped(GUEST_WASM)

# roles: unknown, foreign, not for Lambda, good
base = {"FunctionName": "f", "Runtime": "provided.al2023", "Handler": "bootstrap", "Code": {"ZipFile": HELLO}}
unknown = f"arn:aws:iam::{ACCOUNT}:role/unknown"
error = refused("InvalidParameterValueException", 400, lambda: aws.create_function(Role=unknown, **base))
assert error["Error"]["Message"] == "The role defined for the function cannot be assumed by Lambda.", error
foreign = unknown.replace(ACCOUNT, "999999999999")
refused("AccessDeniedException", 403, lambda: aws.create_function(Role=foreign, **base))
refused("ValidationException", 400, lambda: aws.create_function(Role="role", **base))
role = iam.create_role(RoleName="lambda", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
base["Role"] = role

# create
made = aws.create_function(Description="first", Timeout=5, MemorySize=256, Environment={"Variables": {"AA": "1"}},
                           Tags={"team": "a"}, **base)
assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
assert made["FunctionArn"] == ARN + "f" and made["Version"] == "$LATEST" and made["State"] in ("Pending", "Active")
assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(HELLO).digest()).decode() and made["CodeSize"] == len(HELLO)
assert made["Runtime"] == "provided.al2023" and made["Handler"] == "bootstrap" and made["Role"] == role
assert made["Environment"]["Variables"] == {"AA": "1"} and made["MemorySize"] == 256 and made["Timeout"] == 5
assert made["TracingConfig"] == {"Mode": "PassThrough"} and made["EphemeralStorage"] == {"Size": 512}
assert made["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"} and made["PackageType"] == "Zip"
assert made["LoggingConfig"]["LogGroup"] == "/aws/lambda/f" and made["Architectures"] == ["x86_64"]
aws.get_waiter("function_active_v2").wait(FunctionName="f", WaiterConfig={"Delay": 1})
aws.get_waiter("function_exists").wait(FunctionName="f")
refused("ResourceConflictException", 409, lambda: aws.create_function(**base))

# read
got = aws.get_function(FunctionName="f")
assert got["Configuration"]["State"] == "Active" and got["Configuration"]["LastUpdateStatus"] == "Successful"
assert got["Tags"] == {"team": "a"} and "Concurrency" not in got and got["Code"]["RepositoryType"] == "S3"
assert urllib.request.urlopen(got["Code"]["Location"]).read() == HELLO
try:
    urllib.request.urlopen(got["Code"]["Location"].replace("signature=", "signature=00"))
    raise AssertionError("a forged link was taken")
except urllib.error.HTTPError as error:
    assert error.code == 403
for name in ["f", "f:$LATEST", f"{ACCOUNT}:function:f", ARN + "f", ARN + "f:$LATEST"]:
    assert aws.get_function_configuration(FunctionName=name)["FunctionName"] == "f", name
assert aws.get_function(FunctionName="f", Qualifier="$LATEST")["Configuration"]["FunctionArn"] == ARN + "f:$LATEST"
error = refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName="nobody"))
assert error["Error"]["Message"] == f"Function not found: {ARN}nobody", error
refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName="f", Qualifier="7"))
error = refused("InvalidParameterValueException", 400, lambda: aws.get_function(FunctionName="f:1", Qualifier="2"))
assert "derived qualifier" in error["Error"]["Message"]
refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName=ARN.replace("us-east-1", "eu-west-1") + "f"))

# configuration
revision = got["Configuration"]["RevisionId"]
changed = aws.update_function_configuration(FunctionName="f", Description="second", MemorySize=128, RevisionId=revision)
assert changed["Description"] == "second" and changed["MemorySize"] == 128 and changed["Timeout"] == 5
assert changed["RevisionId"] != revision
aws.get_waiter("function_updated_v2").wait(FunctionName="f", WaiterConfig={"Delay": 1})
error = refused("PreconditionFailedException", 412,
                lambda: aws.update_function_configuration(FunctionName="f", Timeout=3, RevisionId=revision))
assert error["Error"]["Message"].startswith("The Revision Id provided does not match"), error
aws.update_function_configuration(FunctionName="f", Environment={"Variables": {}}, TracingConfig={"Mode": "Active"},
                                  EphemeralStorage={"Size": 1024}, LoggingConfig={"LogFormat": "JSON"},
                                  DeadLetterConfig={"TargetArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"},
                                  VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]})
now = aws.get_function_configuration(FunctionName="f")
assert "Environment" not in now and now["TracingConfig"]["Mode"] == "Active" and now["EphemeralStorage"]["Size"] == 1024
assert now["LoggingConfig"]["LogFormat"] == "JSON" and now["DeadLetterConfig"]["TargetArn"].endswith(":q")
assert now["VpcConfig"]["SubnetIds"] == ["subnet-1"]
for bad, code in [
    ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException"),
    ({"Environment": {"Variables": {"AA": "x" * 4096}}}, "InvalidParameterValueException"),
    ({"Timeout": 901}, "ValidationException"),
    ({"Timeout": 0}, "ValidationException"),
    ({"MemorySize": 64}, "ValidationException"),
    ({"MemorySize": 20000}, "ValidationException"),
    ({"Runtime": "wasm"}, "InvalidParameterValueException"),
    ({"EphemeralStorage": {"Size": 3000000}}, "ValidationException"),
    ({"Description": "x" * 257}, "ValidationException"),
    ({"Layers": [ARN.replace("function:", "layer:") + "none:1"]}, "ResourceNotFoundException"),
    ({"KMSKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/a"}, "InvalidParameterValueException"),
]:
    refused(code, 404 if "NotFound" in code else 400, lambda: aws.update_function_configuration(FunctionName="f", **bad))

# code
assert aws.update_function_code(FunctionName="f", ZipFile=GUEST, DryRun=True)["CodeSize"] == len(HELLO)
updated = aws.update_function_code(FunctionName="f", ZipFile=GUEST)
aws.get_waiter("function_updated").wait(FunctionName="f", WaiterConfig={"Delay": 1})
assert updated["CodeSize"] == len(GUEST)
answer = json.load(aws.invoke(FunctionName="f", Payload=b'{"do":"context"}')["Payload"])
assert answer["arn"] == ARN + "f", answer
refused("InvalidParameterValueException", 400, lambda: aws.update_function_code(FunctionName="f", ZipFile=b"nonsense"))
refused("InvalidParameterValueException", 400, lambda: aws.update_function_code(FunctionName="f"))
error = refused("InvalidParameterValueException", 400,
                lambda: aws.update_function_code(FunctionName="f", S3Bucket="bucket", S3Key="k"))
assert "no buckets yet" in error["Error"]["Message"]
assert aws.get_function_configuration(FunctionName="f")["CodeSize"] == len(GUEST), "a refused upload lost the code"

# versions
one = aws.publish_version(FunctionName="f", Description="v1")
assert (one["Version"], one["FunctionArn"], one["Description"]) == ("1", ARN + "f:1", "v1")
assert aws.publish_version(FunctionName="f")["Version"] == "1", "nothing has changed"
refused("InvalidParameterValueException", 400, lambda: aws.publish_version(FunctionName="f", CodeSha256="wrong"))
refused("PreconditionFailedException", 412, lambda: aws.publish_version(FunctionName="f", RevisionId="wrong"))
aws.update_function_configuration(FunctionName="f", Environment={"Variables": {"VV": "2"}})
assert aws.publish_version(FunctionName="f")["Version"] == "2"
two = aws.update_function_code(FunctionName="f", ZipFile=HELLO, Publish=True)
assert two["Version"] == "3", two
assert [v["Version"] for v in aws.list_versions_by_function(FunctionName="f")["Versions"]] == ["$LATEST", "1", "2", "3"]
page = aws.list_versions_by_function(FunctionName="f", MaxItems=2)
assert len(page["Versions"]) == 2
rest = aws.list_versions_by_function(FunctionName="f", Marker=page["NextMarker"])
assert [v["Version"] for v in rest["Versions"]] == ["2", "3"]
aws.get_waiter("published_version_active").wait(FunctionName="f", Qualifier="1", WaiterConfig={"Delay": 1})
answer = aws.invoke(FunctionName="f", Qualifier="1", Payload=b'{"do":"context"}')
assert answer["ExecutedVersion"] == "1" and json.load(answer["Payload"])["arn"] == ARN + "f:1"
assert json.load(aws.invoke(FunctionName="f", Payload=b'{"name":"Ada"}')["Payload"])["message"] == "Hello, Ada!"
error = refused("InvalidParameterValueException", 400, lambda: aws.delete_function(FunctionName="f", Qualifier="$LATEST"))
assert error["Error"]["Message"].startswith("$LATEST version cannot be deleted")
aws.delete_function(FunctionName="f", Qualifier="2")
refused("ResourceNotFoundException", 404, lambda: aws.invoke(FunctionName="f", Qualifier="2"))
assert len([f for f in aws.list_functions(FunctionVersion="ALL")["Functions"] if f["FunctionName"] == "f"]) == 3

# aliases
alias = aws.create_alias(FunctionName="f", Name="live", FunctionVersion="1", Description="d", RoutingConfig={})
assert alias["AliasArn"] == ARN + "f:live" and "RoutingConfig" not in alias
error = refused("ResourceConflictException", 409, lambda: aws.create_alias(FunctionName="f", Name="live", FunctionVersion="1"))
assert error["Error"]["Message"] == f"Alias already exists: {ARN}f:live"
refused("ResourceNotFoundException", 404, lambda: aws.create_alias(FunctionName="f", Name="x", FunctionVersion="99"))
refused("ValidationException", 400, lambda: aws.create_alias(FunctionName="f", Name="123", FunctionVersion="1"))
weights = {"AdditionalVersionWeights": {"3": 0.3}}
assert aws.update_alias(FunctionName="f", Name="live", RoutingConfig=weights)["RoutingConfig"] == weights
for bad in [{"1": 0.5}, {"3": 0.5, "1": 0.1}, {"$LATEST": 0.5}, {"77": 0.5}]:
    try:
        aws.update_alias(FunctionName="f", Name="live", RoutingConfig={"AdditionalVersionWeights": bad})
        raise AssertionError(f"{bad} was taken")
    except aws.exceptions.ClientError as wrong:
        assert wrong.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 404), wrong.response
seen = [aws.invoke(FunctionName="f", Qualifier="live", Payload=b'{"do":"count"}')["ExecutedVersion"] for _ in range(400)]
assert set(seen) == {"1", "3"} and 60 <= seen.count("3") <= 180, seen.count("3")
answer = aws.invoke(FunctionName="f:live", Payload=b'{"do":"context","name":"x"}')
if answer["ExecutedVersion"] == "1":
    assert json.load(answer["Payload"])["arn"] == ARN + "f:live"
refused("ResourceConflictException", 409, lambda: aws.delete_function(FunctionName="f", Qualifier="3"))
alias = aws.get_alias(FunctionName="f", Name="live")
refused("PreconditionFailedException", 412, lambda: aws.update_alias(FunctionName="f", Name="live", RevisionId="x"))
alias = aws.update_alias(FunctionName="f", Name="live", FunctionVersion="3", RoutingConfig={}, RevisionId=alias["RevisionId"])
assert "RoutingConfig" not in alias and alias["FunctionVersion"] == "3"
assert [a["Name"] for a in aws.list_aliases(FunctionName="f")["Aliases"]] == ["live"]
assert aws.list_aliases(FunctionName="f", FunctionVersion="1")["Aliases"] == []
assert aws.get_function_configuration(FunctionName="f", Qualifier="live")["FunctionArn"] == ARN + "f:live"
error = refused("ResourceNotFoundException", 404, lambda: aws.get_alias(FunctionName="f", Name="none"))
assert error["Error"]["Message"] == f"Cannot find alias arn: {ARN}f:none"

# concurrency
assert "ReservedConcurrentExecutions" not in aws.get_function_concurrency(FunctionName="f")
assert aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=7)["ReservedConcurrentExecutions"] == 7
assert aws.get_function(FunctionName="f")["Concurrency"] == {"ReservedConcurrentExecutions": 7}
limits = aws.get_account_settings()["AccountLimit"]
assert (limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]) == (1000, 993), limits
error = refused("InvalidParameterValueException", 400,
                lambda: aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=901))
assert "below its minimum value of [100]" in error["Error"]["Message"]
put = aws.put_provisioned_concurrency_config(FunctionName="f", Qualifier="live", ProvisionedConcurrentExecutions=3)
assert put["Status"] == "IN_PROGRESS" and put["ResponseMetadata"]["HTTPStatusCode"] == 202
for _ in range(100):
    state = aws.get_provisioned_concurrency_config(FunctionName="f", Qualifier="live")
    if state["Status"] == "READY":
        break
    time.sleep(0.1)
assert (state["Status"], state["AllocatedProvisionedConcurrentExecutions"]) == ("READY", 3), state
error = refused("InvalidParameterValueException", 400,
                lambda: aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=2))
assert "total provisioned concurrency [3]" in error["Error"]["Message"]
refused("InvalidParameterValueException", 400, lambda: aws.put_provisioned_concurrency_config(
    FunctionName="f", Qualifier="$LATEST", ProvisionedConcurrentExecutions=1))
refused("ResourceConflictException", 409, lambda: aws.put_provisioned_concurrency_config(
    FunctionName="f", Qualifier="3", ProvisionedConcurrentExecutions=1))
configs = aws.list_provisioned_concurrency_configs(FunctionName="f")["ProvisionedConcurrencyConfigs"]
assert [c["FunctionArn"] for c in configs] == [ARN + "f:live"]
aws.delete_provisioned_concurrency_config(FunctionName="f", Qualifier="live")
refused("ProvisionedConcurrencyConfigNotFoundException", 404,
        lambda: aws.get_provisioned_concurrency_config(FunctionName="f", Qualifier="live"))
aws.delete_function_concurrency(FunctionName="f")
aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
error = refused("TooManyRequestsException", 429, lambda: aws.invoke(FunctionName="f"))
assert error["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
aws.delete_function_concurrency(FunctionName="f")

# permissions
said = aws.add_permission(FunctionName="f", StatementId="s1", Action="lambda:InvokeFunction", Principal="sns.amazonaws.com",
                          SourceArn=f"arn:aws:sns:us-east-1:{ACCOUNT}:t", SourceAccount=ACCOUNT)
statement = json.loads(said["Statement"])
assert statement == {
    "Sid": "s1", "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "lambda:InvokeFunction",
    "Resource": ARN + "f", "Condition": {"ArnLike": {"AWS:SourceArn": f"arn:aws:sns:us-east-1:{ACCOUNT}:t"},
                                         "StringEquals": {"AWS:SourceAccount": ACCOUNT}}}, statement
error = refused("ResourceConflictException", 409, lambda: aws.add_permission(
    FunctionName="f", StatementId="s1", Action="lambda:InvokeFunction", Principal="*"))
assert error["Error"]["Message"].startswith("The statement id (s1) provided already exists")
refused("InvalidParameterValueException", 400, lambda: aws.add_permission(
    FunctionName="f", StatementId="s2", Action="lambda:InvokeFunction", Principal="nonsense"))
policy = aws.get_policy(FunctionName="f")
assert json.loads(policy["Policy"])["Statement"] == [statement] and policy["RevisionId"]
aws.add_permission(FunctionName="f", StatementId="q", Action="lambda:InvokeFunction", Principal="*", Qualifier="live")
assert json.loads(aws.get_policy(FunctionName="f", Qualifier="live")["Policy"])["Statement"][0]["Resource"] == ARN + "f:live"
refused("PreconditionFailedException", 412, lambda: aws.remove_permission(FunctionName="f", StatementId="s1", RevisionId="x"))
refused("ResourceNotFoundException", 404, lambda: aws.remove_permission(FunctionName="f", StatementId="none"))
aws.remove_permission(FunctionName="f", StatementId="s1")
refused("ResourceNotFoundException", 404, lambda: aws.get_policy(FunctionName="f"))
refused("ResourceNotFoundException", 404, lambda: aws.remove_permission(FunctionName="f", StatementId="s1"))
big = "x" * 60
try:
    for n in range(200):
        aws.add_permission(FunctionName="f", StatementId=f"{big}{n}", Action="lambda:InvokeFunction", Principal="sns.amazonaws.com")
    raise AssertionError("a policy without end")
except aws.exceptions.PolicyLengthExceededException:
    pass

# tags, settings
aws.tag_resource(Resource=ARN + "f", Tags={"b": "2"})
aws.untag_resource(Resource=ARN + "f", TagKeys=["team"])
assert aws.list_tags(Resource=ARN + "f")["Tags"] == {"b": "2"}
refused("InvalidParameterValueException", 400, lambda: aws.tag_resource(Resource=ARN + "f", Tags={"aws:x": "1"}))
refused("ResourceNotFoundException", 404, lambda: aws.list_tags(Resource=ARN + "nobody"))
signing = aws.get_function_code_signing_config(FunctionName="f")
assert signing["CodeSigningConfigArn"] == "" and signing["FunctionName"] == "f"
assert aws.get_function_recursion_config(FunctionName="f")["RecursiveLoop"] == "Terminate"
assert aws.put_function_recursion_config(FunctionName="f", RecursiveLoop="Allow")["RecursiveLoop"] == "Allow"
aws.put_function_recursion_config(FunctionName="f", RecursiveLoop="Terminate")
assert aws.get_runtime_management_config(FunctionName="f")["UpdateRuntimeOn"] == "Auto"

# loops of invocations end
loop = client("lambda")
trace = {"value": "Root=1-5759e988-bd862e3fe1be46a994272793"}
loop.meta.events.register("before-sign.lambda.Invoke", lambda request, **_: request.headers.add_header("X-Amzn-Trace-Id", trace["value"]))
aws.create_function(**{**base, "FunctionName": "ctx", "Code": {"ZipFile": GUEST}})
for n in range(16):
    seen = json.load(loop.invoke(FunctionName="ctx", Payload=b'{"do":"context"}')["Payload"])
    trace["value"] = seen["trace"]
assert "Lineage=" in trace["value"] and trace["value"].startswith("Root=1-5759e988"), trace
refused("RecursiveInvocationException", 400, lambda: loop.invoke(FunctionName="ctx", Payload=b'{"do":"context"}'))
aws.put_function_recursion_config(FunctionName="ctx", RecursiveLoop="Allow")
loop.invoke(FunctionName="ctx", Payload=b'{"do":"context"}')

# layers
layer = zipped(b"from a layer", "lib/data.txt")
refused("InvalidParameterValueException", 400, lambda: aws.publish_layer_version(LayerName="l", Content={}))
refused("InvalidParameterValueException", 400, lambda: aws.publish_layer_version(LayerName="l", Content={"ZipFile": b"no zip"}))
published = aws.publish_layer_version(LayerName="l", Content={"ZipFile": layer}, Description="d", LicenseInfo="MIT",
                                      CompatibleRuntimes=["provided.al2023"])
layer_arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:layer:l"
assert published["LayerVersionArn"] == layer_arn + ":1" and published["Version"] == 1
assert urllib.request.urlopen(published["Content"]["Location"]).read() == layer
aws.publish_layer_version(LayerName="l", Content={"ZipFile": layer})
assert [v["Version"] for v in aws.list_layer_versions(LayerName="l")["LayerVersions"]] == [2, 1]
assert aws.list_layers()["Layers"][0]["LatestMatchingVersion"]["Version"] == 2
assert aws.list_layers(CompatibleRuntime="provided.al2023")["Layers"][0]["LatestMatchingVersion"]["Version"] == 1
assert aws.get_layer_version_by_arn(Arn=layer_arn + ":1")["LicenseInfo"] == "MIT"
used = aws.update_function_configuration(FunctionName="ctx", Layers=[layer_arn + ":1"])
assert used["Layers"] == [{"Arn": layer_arn + ":1", "CodeSize": len(layer)}]
read = json.load(aws.invoke(FunctionName="ctx", Payload=b'{"do":"read","path":"/opt/lib/data.txt"}')["Payload"])
assert read["text"] == "from a layer", read
for path in ["/opt/../etc/passwd", "/etc/passwd", "/opt/lib/../../../../etc/passwd"]:
    body = json.load(aws.invoke(FunctionName="ctx", Payload=json.dumps({"do": "read", "path": path}).encode())["Payload"])
    assert "error" in body, body
body = json.load(aws.invoke(FunctionName="ctx", Payload=b'{"do":"write","path":"/opt/lib/data.txt"}')["Payload"])
assert "error" in body, body
aws.delete_layer_version(LayerName="l", VersionNumber=1)
refused("ResourceNotFoundException", 404, lambda: aws.get_layer_version(LayerName="l", VersionNumber=1))
assert json.load(aws.invoke(FunctionName="ctx", Payload=b'{"do":"read","path":"/opt/lib/data.txt"}')["Payload"])["text"]
aws.add_layer_version_permission(LayerName="l", VersionNumber=2, StatementId="s", Action="lambda:GetLayerVersion", Principal="*")
assert json.loads(aws.get_layer_version_policy(LayerName="l", VersionNumber=2)["Policy"])["Statement"][0]["Sid"] == "s"
aws.remove_layer_version_permission(LayerName="l", VersionNumber=2, StatementId="s")
refused("ResourceNotFoundException", 404, lambda: aws.get_layer_version_policy(LayerName="l", VersionNumber=2))

# paging of functions
for n in range(5):
    aws.create_function(**{**base, "FunctionName": f"page-{n}"})
names = [f["FunctionName"] for page in aws.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
         for f in page["Functions"]]
assert names == sorted(names) and {f"page-{n}" for n in range(5)} <= set(names), names
refused("InvalidParameterValueException", 400, lambda: aws.list_functions(Marker="a b"))

# what fails to compile
broken = zipped(b"\0asm\x01\0\0\0")
refused("InvalidParameterValueException", 400, lambda: aws.create_function(**{**base, "FunctionName": "b", "Code": {"ZipFile": broken}}))
refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName="b"))

# what is not there
raw = unsigned("POST", "/2025-11-30/capacity-providers", b"{}")
assert raw.status == 501 and raw.headers["x-amzn-errortype"] == "UnsupportedOperationException", raw.status
refused("UnsupportedOperationException", 501, lambda: aws.list_code_signing_configs())

# the end
aws.delete_alias(FunctionName="f", Name="live")
aws.delete_alias(FunctionName="f", Name="live")
aws.delete_function(FunctionName="f")
refused("ResourceNotFoundException", 404, lambda: aws.get_function(FunctionName="f"))
refused("ResourceNotFoundException", 404, lambda: aws.delete_function(FunctionName="f"))
