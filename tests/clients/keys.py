"""A server with --auth keys: signatures, users, policies, roles; and what happens without them."""

import datetime
import json
import os
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from aws import CONFIG, HELLO_WASM, TRUST, URL, client, refused, unsigned, validate, zipped

with open(os.environ["WAMBDA_ROOT_KEY"]) as file:
    ROOT = json.load(file)
KEYS = {"aws_access_key_id": ROOT["access_key_id"], "aws_secret_access_key": ROOT["secret_access_key"]}
aws, iam, sts = (client(service, **KEYS) for service in ("lambda", "iam", "sts"))
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"


def send(request):
    prepared = request.prepare()
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(prepared.url, data=prepared.body, headers=dict(prepared.headers), method=prepared.method))
        return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def signed(method, path, body=b"", key=ROOT, region="us-east-1", service="lambda", at=None, tamper=None, token=None):
    request = AWSRequest(method=method, url=URL + path, data=body, headers={"Content-Type": "application/json"})
    signer = SigV4Auth(Credentials(key["access_key_id"], key["secret_access_key"], token), service, region)
    if at is None:
        signer.add_auth(request)
    else:
        import botocore.auth
        real = botocore.auth.get_current_datetime
        botocore.auth.get_current_datetime = lambda *a, **k: at
        try:
            signer.add_auth(request)
        finally:
            botocore.auth.get_current_datetime = real
    if tamper:
        tamper(request)
    return send(request)


# nobody, and nobody in particular
for method, path in [("GET", "/2015-03-31/functions"), ("GET", "/v1/functions"), ("PUT", "/v1/functions/f"),
                     ("POST", "/v1/functions/f/invoke"), ("POST", "/2015-03-31/functions/f/invocations"),
                     ("GET", "/v1/functions/f/logs"), ("GET", "/v1/functions/f/scaling")]:
    answer = unsigned(method, path, b"{}")
    assert answer.status == 403, (path, answer.status, answer.content)
    assert b"Missing Authentication Token" in answer.content, answer.content
assert unsigned("GET", "/fn/f/").status == 403
assert unsigned("GET", "/healthz").status == 200 and unsigned("GET", "/metrics").status == 200
answer = unsigned("POST", "/", b"Action=ListUsers&Version=2010-05-08", {"Content-Type": "application/x-www-form-urlencoded"})
assert answer.status == 403 and b"<Code>MissingAuthenticationToken</Code>" in answer.content, answer.content
answer = unsigned("POST", "/", b"{}", {"X-Amz-Target": "Logs_20140328.DescribeLogGroups"})
assert answer.status == 403, answer.content
wrong = {"aws_access_key_id": "AKIANOBODY", "aws_secret_access_key": "x"}
refused("UnrecognizedClientException", 403, lambda: client("lambda", **wrong).list_functions())
refused("InvalidClientTokenId", 403, lambda: client("iam", **wrong).list_users())
wrong = {**KEYS, "aws_secret_access_key": "x"}
refused("InvalidSignatureException", 403, lambda: client("lambda", **wrong).list_functions())
refused("SignatureDoesNotMatch", 403, lambda: client("sts", **wrong).get_caller_identity())
refused("InvalidSignatureException", 403, lambda: client("lambda", region="eu-west-1", **KEYS).list_functions())

# the account itself
me = sts.get_caller_identity()
assert me["Arn"] == "arn:aws:iam::000000000000:root" and iam.get_user()["User"]["UserName"] == "root"
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
new = {"Runtime": "provided.al2023", "Handler": "bootstrap", "Role": role, "Code": {"ZipFile": zipped(HELLO_WASM)}}
for name in ("f", "g"):
    aws.create_function(FunctionName=name, **new)
assert json.load(aws.invoke(FunctionName="f", Payload=b'{"name":"Ada"}')["Payload"])["message"] == "Hello, Ada!"

# signatures: good, old, early, tampered with, replayed, presigned
INVOKE, EVENT = "/2015-03-31/functions/f/invocations", b'{"name":"x"}'
now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
assert signed("POST", INVOKE, EVENT)[0] == 200
assert signed("POST", "/v1/functions/f/invoke", EVENT)[0] == 200
assert signed("GET", "/2015-03-31/functions/?MaxItems=1&Marker=")[0] == 200
status, headers, body = signed("POST", INVOKE, EVENT, at=now - datetime.timedelta(minutes=6))
assert status == 403 and headers["x-amzn-errortype"] == "InvalidSignatureException" and b"Signature expired" in body, body
status, headers, body = signed("POST", INVOKE, EVENT, at=now + datetime.timedelta(minutes=6))
assert status == 403 and b"Signature not yet current" in body, body
assert signed("POST", INVOKE, EVENT, at=now - datetime.timedelta(minutes=4))[0] == 200
assert signed("POST", INVOKE, EVENT, service="s3")[0] == 403


def body_changed(request):
    request.data = b'{"name":"y"}'


def path_changed(request):
    request.url = request.url.replace("/f/", "/g/")


def header_added(request):
    request.headers["X-Amz-Log-Type"] = "Tail"


def header_changed(request):
    del request.headers["Content-Type"]
    request.headers["Content-Type"] = "text/plain"


def query_added(request):
    request.url += "?Qualifier=$LATEST"


def signature_cut(request):
    value = request.headers["Authorization"]
    del request.headers["Authorization"]
    request.headers["Authorization"] = value[:-1] + ("0" if value[-1] != "0" else "1")


def unsigned_body(request):
    request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"


def nonsense(request):
    del request.headers["Authorization"]
    request.headers["Authorization"] = "AWS4-HMAC-SHA256 nonsense"


for tamper in [body_changed, path_changed, header_added, header_changed, query_added, signature_cut, unsigned_body, nonsense]:
    status, headers, body = signed("POST", INVOKE, EVENT, tamper=tamper)
    assert status in (400, 403), (tamper.__name__, status, body)
    assert headers["x-amzn-errortype"] in ("InvalidSignatureException", "IncompleteSignatureException"), headers
request = AWSRequest(method="GET", url=URL + "/2015-03-31/functions/f")
SigV4QueryAuth(Credentials(*ROOT.values()), "lambda", "us-east-1", expires=60).add_auth(request)
assert send(request)[0] == 200
request = AWSRequest(method="GET", url=request.url.replace("functions/f", "functions/g"))
assert send(request)[0] == 403

# users do what their policies say
iam.create_user(UserName="ada")
refused("EntityAlreadyExists", 409, lambda: iam.create_user(UserName="ada"))
made = iam.create_access_key(UserName="ada")["AccessKey"]
key = {"access_key_id": made["AccessKeyId"], "secret_access_key": made["SecretAccessKey"]}
ada = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
her = client("lambda", **ada)
assert client("sts", **ada).get_caller_identity()["Arn"] == "arn:aws:iam::000000000000:user/ada"
error = refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="f"))
assert "is not authorized to perform: lambda:InvokeFunction on resource: " + ARN + "f" in error["Error"]["Message"]
refused("AccessDeniedException", 403, her.list_functions)
refused("AccessDenied", 403, lambda: client("iam", **ada).list_users())
refused("AccessDeniedException", 403, lambda: client("logs", **ada).describe_log_groups())


def allow(*statements):
    iam.put_user_policy(UserName="ada", PolicyName="p", PolicyDocument=json.dumps(
        {"Version": "2012-10-17", "Statement": list(statements)}))


allow({"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": ARN + "f"})
assert her.invoke(FunctionName="f", Payload=EVENT)["StatusCode"] == 200
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="g"))
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="nobody"))
assert signed("POST", "/v1/functions/f/invoke", EVENT, key=key)[0] == 200
assert signed("POST", "/v1/functions/g/invoke", EVENT, key=key)[0] == 403
assert signed("GET", "/v1/functions", key=key)[0] == 403
allow({"Effect": "Allow", "Action": "*", "Resource": "*"},
      {"Effect": "Deny", "Action": "lambda:InvokeFunction", "Resource": ARN + "f"})
assert her.invoke(FunctionName="g", Payload=EVENT)["StatusCode"] == 200
error = refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="f"))
assert "explicit deny" in error["Error"]["Message"]
allow({"Effect": "Allow", "Action": "lambda:*", "Resource": "*",
       "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}})
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="g"))
# creating a function hands its role on
allow({"Effect": "Allow", "Action": "lambda:*", "Resource": "*"})
error = refused("AccessDeniedException", 403, lambda: her.create_function(FunctionName="h", **new))
assert "iam:PassRole" in error["Error"]["Message"]
allow({"Effect": "Allow", "Action": ["lambda:*", "iam:PassRole"], "Resource": "*"})
her.create_function(FunctionName="h", **new)
# the function's own policy is enough
allow({"Effect": "Allow", "Action": "lambda:Get*", "Resource": "*"})
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="h"))
aws.add_permission(FunctionName="h", StatementId="s", Action="lambda:InvokeFunction",
                   Principal="arn:aws:iam::000000000000:user/ada")
assert her.invoke(FunctionName="h", Payload=EVENT)["StatusCode"] == 200
aws.remove_permission(FunctionName="h", StatementId="s")
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="h"))

# switched off, deleted
iam.update_access_key(UserName="ada", AccessKeyId=made["AccessKeyId"], Status="Inactive")
refused("UnrecognizedClientException", 403, lambda: her.get_function(FunctionName="h"))
iam.update_access_key(UserName="ada", AccessKeyId=made["AccessKeyId"], Status="Active")
assert her.get_function(FunctionName="h")
assert iam.list_access_keys(UserName="ada")["AccessKeyMetadata"][0]["Status"] == "Active"
refused("DeleteConflict", 409, lambda: iam.delete_user(UserName="ada"))

# roles are assumed by those whom they trust
refused("MalformedPolicyDocument", 400, lambda: iam.create_role(RoleName="x", AssumeRolePolicyDocument="some policy"))
account = json.dumps({"Version": "2012-10-17", "Statement": {
    "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}}})
worker = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=account)["Role"]["Arn"]
iam.put_role_policy(RoleName="worker", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": {
    "Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": ARN + "g"}}))
her_sts = client("sts", **ada)
refused("AccessDenied", 403, lambda: her_sts.assume_role(RoleArn=worker, RoleSessionName="job"))
allow({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": worker})
assumed = her_sts.assume_role(RoleArn=worker, RoleSessionName="job", DurationSeconds=900)
assert assumed["AssumedRoleUser"]["Arn"] == "arn:aws:sts::000000000000:assumed-role/worker/job"
temporary = assumed["Credentials"]
session = {"aws_access_key_id": temporary["AccessKeyId"], "aws_secret_access_key": temporary["SecretAccessKey"],
           "aws_session_token": temporary["SessionToken"]}
as_role = client("lambda", **session)
assert as_role.invoke(FunctionName="g", Payload=EVENT)["StatusCode"] == 200
refused("AccessDeniedException", 403, lambda: as_role.invoke(FunctionName="f"))
assert client("sts", **session).get_caller_identity()["Arn"].endswith(":assumed-role/worker/job")
for change in [{"aws_session_token": temporary["SessionToken"][:-2] + "xx"}, {"aws_access_key_id": made["AccessKeyId"]},
               {"aws_session_token": "nonsense"}]:
    refused("UnrecognizedClientException", 403, lambda: client("lambda", **{**session, **change}).invoke(FunctionName="g"))
iam.delete_role_policy(RoleName="worker", PolicyName="p")
refused("AccessDeniedException", 403, lambda: as_role.invoke(FunctionName="g"))
iam.delete_role(RoleName="worker")
refused("UnrecognizedClientException", 403, lambda: as_role.invoke(FunctionName="g"))

# managed policies
policy = iam.create_policy(PolicyName="mine", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}]}))["Policy"]["Arn"]
iam.attach_user_policy(UserName="ada", PolicyArn=policy)
assert her.invoke(FunctionName="f", Payload=EVENT)["StatusCode"] == 200
second = iam.create_policy_version(PolicyArn=policy, SetAsDefault=True, PolicyDocument=json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}))["PolicyVersion"]
assert second["VersionId"] == "v2" and second["IsDefaultVersion"]
refused("AccessDeniedException", 403, lambda: her.invoke(FunctionName="f"))
iam.set_default_policy_version(PolicyArn=policy, VersionId="v1")
assert her.invoke(FunctionName="f", Payload=EVENT)["StatusCode"] == 200
refused("DeleteConflict", 409, lambda: iam.delete_policy(PolicyArn=policy))
refused("AccessDenied", 403, lambda: iam.delete_policy(PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"))
iam.detach_user_policy(UserName="ada", PolicyArn=policy)
iam.delete_policy_version(PolicyArn=policy, VersionId="v2")
iam.delete_policy(PolicyArn=policy)

# function URLs
url = aws.create_function_url_config(FunctionName="f", AuthType="NONE")["FunctionUrl"]
host = url.split("/")[2]
assert unsigned("GET", "/", headers={"Host": host}).status == 403, "nobody was given permission"
aws.add_permission(FunctionName="f", StatementId="public", Action="lambda:InvokeFunctionUrl", Principal="*",
                   FunctionUrlAuthType="NONE")
# its event is not the one that the function wants; that it ran is what counts
assert unsigned("POST", "/", EVENT, {"Host": host}).status in (200, 502)
assert unsigned("POST", "/fn/f/", EVENT).status in (200, 502)
aws.update_function_url_config(FunctionName="f", AuthType="AWS_IAM")
assert unsigned("POST", "/", EVENT, {"Host": host}).status == 403
assert unsigned("POST", "/fn/f/", EVENT).status == 403
assert signed("POST", "/fn/f/", EVENT)[0] in (200, 502)
assert signed("POST", "/fn/f/", EVENT, key=key)[0] == 403
