"""Bad input to every operation: always an AWS error, never a 5xx but the plain 501, never a hang.
What is random is so by a seed that is printed."""

import gzip
import json
import os
import random
import string

import botocore

from aws import HELLO_WASM, TRUST, client, unsigned, zipped

SEED = int(os.environ.get("WAMBDA_SEED", random.randrange(1 << 32)))
print("WAMBDA_SEED =", SEED)
rng = random.Random(SEED)
aws, iam = client("lambda"), client("iam")
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
aws.create_function(FunctionName="f", Role=role, Runtime="provided.al2023", Handler="bootstrap",
                    Code={"ZipFile": zipped(HELLO_WASM)}, Publish=True)
DATA = os.path.join(os.path.dirname(botocore.__file__), "data")


def model(path):
    with gzip.open(os.path.join(DATA, path, "service-2.json.gz")) as file:
        return json.load(file)


ODD = ["", " ", "a", "f", "f:1", "f:$LATEST", "f:f:f", "$LATEST", "../../etc/passwd", "a/b", "%00", "\0", "é", "𝔘", "x" * 65,
       "x" * 5000, "arn:aws:lambda:us-east-1:000000000000:function:f", "arn:aws:lambda:us-east-1:000000000000:function:f:9",
       "arn:aws:lambda:eu-west-1:000000000000:function:f", "arn:aws:lambda:us-east-1:999999999999:function:f", "arn:aws:lambda:::",
       "arn:", "arn:aws:s3:::b", "999999999999:function:f", "-1", "0", "1", "99999999999999999999999", "NaN", "null", "true",
       "{}", "[]", '"', "'; drop table", "<x>", "&amp;", "\r\nX: y", "${x}", "*", "?", "m5", "18446744073709551615"]
VALUES = [None, True, False, 0, 1, -1, 1 << 31, 1 << 63, 1 << 64, 1.5, 1e308, [], {}, [[]], [None], [1, "a", {}], {"": ""},
          {"a": {"b": {"c": {}}}}]


def odd():
    if rng.random() < 0.2:
        return "".join(rng.choice(string.printable + "é𝔘\0") for _ in range(rng.randrange(80)))
    return rng.choice(ODD)


def value(depth=0):
    kind = rng.random()
    if kind < 0.5:
        return odd()
    if kind < 0.8 or depth > 3:
        return rng.choice(VALUES)
    if kind < 0.9:
        return [value(depth + 1) for _ in range(rng.randrange(3))]
    return {odd(): value(depth + 1) for _ in range(rng.randrange(3))}


def plausible(shapes, name, depth=0):
    """A value that is of the shape, but for a part here and there."""
    if rng.random() < 0.12 or depth > 6:
        return value()
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        return {member: plausible(shapes, target["shape"], depth + 1)
                for member, target in (shape.get("members") or {}).items()
                if member in shape.get("required", []) or rng.random() < 0.3}
    if kind == "list":
        return [plausible(shapes, shape["member"]["shape"], depth + 1) for _ in range(rng.randrange(3))]
    if kind == "map":
        return {odd(): plausible(shapes, shape["value"]["shape"], depth + 1) for _ in range(rng.randrange(3))}
    if kind in ("integer", "long"):
        return rng.choice([shape.get("min", 0), shape.get("max", 10), shape.get("min", 0) - 1, shape.get("max", 10) + 1, 7])
    if kind == "boolean":
        return rng.random() < 0.5
    if "enum" in shape:
        return rng.choice(shape["enum"])
    return rng.choice(["f", "1", "live", "x", role, odd()])


def quoted(text):
    return "".join(c if c.isascii() and c.isalnum() else "".join(f"%{b:02X}" for b in c.encode()) for c in str(text))


def expect(answer, what, code):
    """An answer that a client can read."""
    if answer.status < 400:
        return
    said = (what, answer.status, answer.content[:300])
    assert answer.status < 500 or answer.status == 501, said
    assert answer.headers.get("x-amzn-errortype") != "ServiceException", said
    assert code(answer), said


def json_code(answer):
    body = json.loads(answer.content)
    return (answer.headers.get("x-amzn-errortype") or body.get("__type")) and (body.get("message") or body.get("Message"))


shapes = None
lambda_model = model("lambda/2015-03-31")
count = 0
for name, operation in sorted(lambda_model["operations"].items()):
    if name == "DeleteFunction":
        continue
    shapes = lambda_model["shapes"]
    members = shapes[operation["input"]["shape"]].get("members") or {}
    for round in range(14):
        path, query, headers, body = operation["http"]["requestUri"], [], {"Content-Type": "application/json"}, {}
        path, _, fixed = path.partition("?")
        for member, target in members.items():
            where, wire = target.get("location"), target.get("locationName", member)
            given = plausible(shapes, target["shape"])
            if where == "uri":
                known = rng.random() < 0.6 and wire == "FunctionName"
                path = path.replace("{%s}" % wire, quoted("f" if known else odd()))
            elif where == "querystring":
                if rng.random() < 0.5:
                    query.append(f"{wire}={quoted(given)}")
            elif where == "header":
                if rng.random() < 0.5:
                    headers[wire] = "".join(c for c in str(given) if 32 <= ord(c) < 127)
            elif rng.random() < 0.8:
                body[member] = given
        sent = rng.choice([b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 500]) if round < 2 else json.dumps(body).encode()
        target = path + ("?" + "&".join([fixed] * bool(fixed) + query) if fixed or query else "")
        answer = unsigned(operation["http"]["method"], target, sent, headers)
        expect(answer, (name, target, sent[:500]), json_code)
        count += 1

# the query protocol
for service, version in [("iam/2010-05-08", "2010-05-08"), ("sts/2011-06-15", "2011-06-15")]:
    operations = sorted(model(service)["operations"])
    for name in operations:
        form = "&".join([f"Action={name}", f"Version={version}"] + [
            f"{quoted(key)}={quoted(odd())}" for key in rng.sample(
                ["RoleName", "UserName", "PolicyName", "PolicyArn", "PolicyDocument", "AssumeRolePolicyDocument", "Marker",
                 "MaxItems", "Tags.member.1.Key", "Tags.member.1.Value", "Tags.member.99999.Key", "Path", "PathPrefix",
                 "RoleArn", "RoleSessionName", "DurationSeconds", "VersionId", "Status", "AccessKeyId"], 8)])
        answer = unsigned("POST", "/", form.encode(), {"Content-Type": "application/x-www-form-urlencoded"})
        expect(answer, form, lambda answer: b"<ErrorResponse" in answer.content and b"<Code>" in answer.content)
        count += 1

# JSON 1.1 and CBOR
for name in ["DescribeLogGroups", "FilterLogEvents", "GetLogEvents", "CreateLogGroup", "PutRetentionPolicy", "TagResource", "None"]:
    for _ in range(10):
        body = json.dumps({key: value() for key in rng.sample(
            ["logGroupName", "logStreamName", "limit", "nextToken", "startTime", "filterPattern", "tags", "resourceArn"], 4)})
        answer = unsigned("POST", "/", body.encode(), {"X-Amz-Target": "Logs_20140328." + name})
        expect(answer, (name, body), json_code)
        count += 1
for _ in range(60):
    body = bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
    operation = rng.choice(["GetMetricData", "ListMetrics", "GetMetricStatistics", "None"])
    answer = unsigned("POST", f"/service/GraniteServiceVersion20100801/operation/{operation}", body,
                      {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"})
    expect(answer, (operation, body), lambda answer: b"__type" in answer.content)
    count += 1

assert count > 1400, count
# what was asked for at random may have been to let nothing run
aws.delete_function_concurrency(FunctionName="f")
answer = aws.invoke(FunctionName="f", Qualifier="1", Payload=b'{"name":"Ada"}')
assert json.load(answer["Payload"])["message"] == "Hello, Ada!", "the function was harmed"
print(count, "requests")
