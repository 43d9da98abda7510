"""Ways around a policy that others have left open: what is authorized is what is acted upon."""

import json
import os
import socket
import urllib.parse

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from aws import HELLO_WASM, TRUST, client, refused, wasm, zipped

with open(os.environ["WAMBDA_ROOT_KEY"]) as file:
    ROOT = json.load(file)
KEYS = {"aws_access_key_id": ROOT["access_key_id"], "aws_secret_access_key": ROOT["secret_access_key"]}
aws, iam, logs = (client(service, **KEYS) for service in ("lambda", "iam", "logs"))
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
ROLE = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
NEW = {"Runtime": "provided.al2023", "Handler": "bootstrap", "Role": ROLE, "Code": {"ZipFile": zipped(HELLO_WASM)}}
ADMIN = "arn:aws:iam::aws:policy/AdministratorAccess"
for name in ("f", "payroll"):
    aws.create_function(FunctionName=name, **NEW)
    aws.publish_version(FunctionName=name)
    aws.create_alias(FunctionName=name, Name="prod", FunctionVersion="1")
    aws.create_alias(FunctionName=name, Name="dev", FunctionVersion="1")
iam.create_role(RoleName="dev-x", AssumeRolePolicyDocument=TRUST)
iam.create_user(UserName="admin")
iam.create_user(UserName="mallory")
made = iam.create_access_key(UserName="mallory")["AccessKey"]
MALLORY = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
his, his_iam, his_logs = (client(service, **MALLORY) for service in ("lambda", "iam", "logs"))


def allow(*statements):
    iam.put_user_policy(UserName="mallory", PolicyName="p", PolicyDocument=json.dumps(
        {"Version": "2012-10-17", "Statement": list(statements)}))


def with_fields(aws_client, operation, **fields):
    """Adds form fields that the operation does not have."""
    def add(params, **_):
        params["body"].update(fields)
    name = f"before-call.iam.{operation}"
    aws_client.meta.events.register(name, add, unique_id=name)
    return lambda: aws_client.meta.events.unregister(name, unique_id=name)


# denying conditions on what AWS always sets apply
for condition in [
        {"Bool": {"aws:SecureTransport": "false"}},
        {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}},
        {"NumericGreaterThan": {"aws:EpochTime": "1577836800"}},
        {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}},
        {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/mal*"}},
        {"StringEquals": {"aws:PrincipalAccount": "000000000000"}},
        {"StringEquals": {"aws:ResourceAccount": "000000000000"}},
        {"StringEquals": {"aws:PrincipalType": "User"}},
        {"StringLike": {"aws:userid": "AIDA*"}},
        {"StringEquals": {"aws:username": "mallory"}},
        {"StringLike": {"aws:UserAgent": "*Boto3*"}},
        {"StringEquals": {"aws:RequestedRegion": "us-east-1"}},
        {"Bool": {"aws:ViaAWSService": "false"}},
        {"Bool": {"aws:PrincipalIsAWSService": "false"}}]:
    allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
          {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
    refused("AccessDenied", 403, lambda: his_iam.get_user(UserName="admin"))
    refused("AccessDeniedException", 403, lambda: his.get_function(FunctionName="f"))
    refused("AccessDeniedException", 403, lambda: his_logs.describe_log_groups())

# a form's other fields say nothing about what is acted upon
allow({"Effect": "Allow", "Action": "iam:*", "Resource": "arn:aws:iam::000000000000:role/dev-*"})
his_iam.tag_role(RoleName="dev-x", Tags=[{"Key": "a", "Value": "b"}])
for operation, call in [
        ("AttachUserPolicy", lambda: his_iam.attach_user_policy(UserName="mallory", PolicyArn=ADMIN)),
        ("CreateAccessKey", lambda: his_iam.create_access_key(UserName="admin")),
        ("CreatePolicy", lambda: his_iam.create_policy(PolicyName="x", PolicyDocument="{}"))]:
    done = with_fields(his_iam, operation, RoleName="dev-x")
    refused("AccessDenied", 403, call)
    done()
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "iam:*", "Resource": "arn:aws:iam::000000000000:user/admin"},
      {"Effect": "Deny", "Action": "iam:*", "Resource": "arn:aws:iam::000000000000:role/high/*"})
done = with_fields(his_iam, "CreateAccessKey", RoleName="zz", PolicyName="zz")
refused("AccessDenied", 403, lambda: his_iam.create_access_key(UserName="admin"))
done()
refused("AccessDenied", 403, lambda: his_iam.create_role(RoleName="x", Path="/high/", AssumeRolePolicyDocument=TRUST))
# without a user's name it is the caller
allow({"Effect": "Allow", "Action": "iam:*AccessKey*", "Resource": "arn:aws:iam::000000000000:user/mallory"})
assert his_iam.list_access_keys()["AccessKeyMetadata"][0]["UserName"] == "mallory"
refused("AccessDenied", 403, lambda: his_iam.list_access_keys(UserName="admin"))
# a policy that an attachment may not have
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "iam:Attach*", "Resource": "*", "Condition": {"ArnEquals": {"iam:PolicyARN": ADMIN}}})
refused("AccessDenied", 403, lambda: his_iam.attach_user_policy(UserName="mallory", PolicyArn=ADMIN))

# a qualifier does not make another resource of what has none
allow({"Effect": "Allow", "Action": "lambda:*", "Resource": ARN + "f:dev"})
his.invoke(FunctionName="f:dev", Payload=b'{"name":"x"}')
for call in [lambda: his.update_function_code(FunctionName="f:dev", ZipFile=zipped(HELLO_WASM)),
             lambda: his.update_alias(FunctionName="f:dev", Name="prod", FunctionVersion="1"),
             lambda: his.update_function_configuration(FunctionName="f:dev", MemorySize=256),
             lambda: his.put_function_concurrency(FunctionName="f:dev", ReservedConcurrentExecutions=1),
             lambda: his.publish_version(FunctionName="f:dev")]:
    refused("AccessDeniedException", 403, call)
# a version has one spelling
allow({"Effect": "Allow", "Action": "lambda:*", "Resource": "*"},
      {"Effect": "Deny", "Action": "lambda:*", "Resource": ARN + "f:1"})
for qualifier in ("1", "01", "001"):
    refused(None, None, lambda: his.invoke(FunctionName="f", Qualifier=qualifier))
    refused(None, None, lambda: his.delete_function(FunctionName="f", Qualifier=qualifier))
assert aws.get_function(FunctionName="f", Qualifier="1")

# names of aliases
for name in ("$LATEST", "1", "a\nb", "a b"):
    refused(None, 400, lambda: aws.create_alias(FunctionName="f", Name=name, FunctionVersion="1"))
aws.add_permission(FunctionName="f", StatementId="s", Action="lambda:InvokeFunction", Principal="sns.amazonaws.com")
aws.delete_alias(FunctionName="f", Name="$LATEST")
assert aws.get_policy(FunctionName="f")

# logs by group
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "logs:*", "Resource": "arn:aws:logs:*:*:log-group:/aws/lambda/payroll:*"})
aws.invoke(FunctionName="payroll", Payload=b'{"name":"x"}')
group = "arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/payroll:*"
for call in [lambda: his_logs.filter_log_events(logGroupName="/aws/lambda/payroll"),
             lambda: his_logs.filter_log_events(logGroupIdentifier=group),
             lambda: his_logs.delete_log_group(logGroupName="/aws/lambda/payroll"),
             lambda: his_logs.tag_resource(resourceArn=group[:-2], tags={"a": "b"})]:
    refused("AccessDeniedException", 403, call)
assert his_logs.describe_log_groups()["logGroups"]
allow({"Effect": "Allow", "Action": "logs:FilterLogEvents", "Resource": group})
assert his_logs.filter_log_events(logGroupName="/aws/lambda/payroll")["events"]

# layers are read with permission
layer = aws.publish_layer_version(LayerName="secret", Content={"ZipFile": zipped(b"secret", "a.txt")})["LayerVersionArn"]
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "lambda:GetLayerVersion", "Resource": layer})
for call in [lambda: his.get_layer_version(LayerName="secret", VersionNumber=1),
             lambda: his.get_layer_version_by_arn(Arn=layer),
             lambda: his.update_function_configuration(FunctionName="f", Layers=[layer]),
             lambda: his.create_function(FunctionName="h", Layers=[layer], **NEW)]:
    refused("AccessDeniedException", 403, call)

# conditions that operators rely on
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "lambda:CreateFunctionUrlConfig", "Resource": "*",
       "Condition": {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}}},
      {"Effect": "Deny", "Action": "*", "Resource": "*",
       "Condition": {"StringEquals": {"aws:SourceIp": "10.1.2.3"}}})
refused("AccessDeniedException", 403, lambda: his.create_function_url_config(FunctionName="f", AuthType="NONE"))
his.create_function_url_config(FunctionName="f", AuthType="AWS_IAM")
# expired access stays expired through a role
trust = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
                                                           "Principal": {"AWS": "arn:aws:iam::000000000000:user/mallory"}}})
worker = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
iam.attach_role_policy(RoleName="worker", PolicyArn=ADMIN)
expired = {"Effect": "Deny", "Action": "*", "Resource": "*",
           "Condition": {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}}
allow({"Effect": "Allow", "Action": "*", "Resource": "*"}, expired)
his_sts = client("sts", **MALLORY)
refused("AccessDenied", 403, lambda: his_sts.assume_role(RoleArn=worker, RoleSessionName="job"))
# a session is its role
allow({"Effect": "Allow", "Action": "*", "Resource": "*"})
iam.put_role_policy(RoleName="worker", PolicyName="d", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": {
    "Effect": "Deny", "Action": "lambda:*", "Resource": "*", "Condition": {"ArnEquals": {"aws:PrincipalArn": worker}}}}))
temporary = his_sts.assume_role(RoleArn=worker, RoleSessionName="job")["Credentials"]
session = client("lambda", aws_access_key_id=temporary["AccessKeyId"], aws_secret_access_key=temporary["SecretAccessKey"],
                 aws_session_token=temporary["SessionToken"])
refused("AccessDeniedException", 403, session.list_functions)

# counts do not wrap, and are not counted twice
aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=100)
aws.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=5)
aws.update_function_configuration(FunctionName="f", MemorySize=256)
assert aws.publish_version(FunctionName="f")["Version"] == "2"
refused("InvalidParameterValueException", 400, lambda: aws.put_provisioned_concurrency_config(
    FunctionName="f", Qualifier="2", ProvisionedConcurrentExecutions=2**32 - 5))
aws.delete_function_concurrency(FunctionName="f")
aws.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=460)
aws.put_provisioned_concurrency_config(FunctionName="f", Qualifier="1", ProvisionedConcurrentExecutions=461)
aws.delete_provisioned_concurrency_config(FunctionName="f", Qualifier="1")

# a stranger's large body is refused with its head; a huge one of many small values is not taken apart
host = urllib.parse.urlsplit(os.environ["WAMBDA_URL"])
with socket.create_connection((host.hostname, host.port), timeout=10) as stranger:
    stranger.sendall(b"PUT /v1/functions/f HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n")
    assert stranger.recv(100).startswith(b"HTTP/1.1 403"), "before a byte of it was sent"
allow({"Effect": "Allow", "Action": "lambda:GetFunction", "Resource": "*"})


def many(params, **_):
    params["body"] = b'{"FileSystemConfigs":[' + b"{}," * 1_000_000 + b"{}]}"


his.meta.events.register("before-call.lambda.CreateFunction", many)
error = refused("SerializationException", 400, lambda: his.create_function(FunctionName="h", **NEW))
assert "100000 values" in error["Error"]["Message"], error

# a function calls with its own role's rights, whoever calls it, and whatever it signs with
iam.create_role(RoleName="calls", AssumeRolePolicyDocument=TRUST)
iam.put_role_policy(RoleName="calls", PolicyName="p", PolicyDocument=json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": ARN + "f"}]}))
fetches = wasm("tests/guests/target/wasm32-wasip2/release/guest_http.wasm")
aws.create_function(FunctionName="fetches", **{**NEW, "Role": ROLE.replace("/r", "/calls"), "Code": {"ZipFile": zipped(fetches)}})
aws.get_waiter("function_active_v2").wait(FunctionName="fetches")
allow({"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": ARN + "fetches"})


def fetched(function, key, **more):
    """What the function gets for `POST /2015-03-31/functions/FUNCTION/invocations`, invoked by whoever has the key."""
    headers = {"x-scheme": "http", "x-authority": "wambda.internal", "x-head": "500", "x-body": "{}",
               "x-path": f"/2015-03-31/functions/{function}/invocations", **more}
    event = {"version": "2.0", "rawPath": "/fetch", "rawQueryString": "", "headers": headers, "isBase64Encoded": False,
             "requestContext": {"http": {"method": "GET", "path": "/fetch"}}}
    return json.load(client("lambda", **key).invoke(FunctionName="fetches", Payload=json.dumps(event))["Payload"])["body"]


for key in (KEYS, MALLORY):
    assert fetched("f", key).startswith("200 "), fetched("f", key)
    answer = fetched("payroll", key)
    assert answer.startswith("403 ") and "assumed-role/calls/fetches is not authorized" in answer, answer


def signed(function, key, secret):
    """Headers of the same call, signed."""
    request = AWSRequest("POST", f"http://wambda.internal/2015-03-31/functions/{function}/invocations", data=b"{}")
    SigV4Auth(Credentials(key, secret), "lambda", "us-east-1").add_auth(request)
    return {f"x-pass-{name.lower()}": value for name, value in request.headers.items()}


# who signs as somebody is that, with the rights and without those of the role; who pretends to is nobody
root = signed("payroll", ROOT["access_key_id"], ROOT["secret_access_key"])
assert fetched("payroll", MALLORY, **root).startswith("200 "), fetched("payroll", MALLORY, **root)
his_own = signed("f", made["AccessKeyId"], made["SecretAccessKey"])
answer = fetched("f", KEYS, **his_own)
assert answer.startswith("403 ") and "user/mallory is not authorized" in answer, answer
answer = fetched("payroll", MALLORY, **signed("payroll", ROOT["access_key_id"], "x"))
assert answer.startswith("403 ") and "signature we calculated does not match" in answer, answer
