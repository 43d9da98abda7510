"""Function URLs, by the host that Lambda's API gives out; response streaming by boto3."""

import base64
import json

from aws import GUEST_WASM, HELLO_WASM, HTTP_WASM, TRUST, client, refused, unsigned, zipped

aws, iam = client("lambda"), client("iam")
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
for name, wasm in [("hello", HELLO_WASM), ("guest", GUEST_WASM), ("http", HTTP_WASM)]:
    aws.create_function(FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap",
                        Code={"ZipFile": zipped(wasm)}, Timeout=2)


def url_of(name, **more):
    made = aws.create_function_url_config(FunctionName=name, **{"AuthType": "NONE", **more})
    assert made["FunctionUrl"].startswith("http://") and ".lambda-url.us-east-1." in made["FunctionUrl"], made
    aws.add_permission(FunctionName=name, StatementId="public", Action="lambda:InvokeFunctionUrl", Principal="*",
                       FunctionUrlAuthType="NONE", **({"Qualifier": more["Qualifier"]} if "Qualifier" in more else {}))
    return made["FunctionUrl"].split("/")[2]


# who may
host = aws.create_function_url_config(FunctionName="hello", AuthType="NONE")["FunctionUrl"].split("/")[2]
answer = unsigned("POST", "/", b'{"name":"Ada"}', {"Host": host})
assert answer.status == 403 and b"Forbidden. For troubleshooting" in answer.content, answer.content
refused("ResourceConflictException", 409, lambda: aws.create_function_url_config(FunctionName="hello", AuthType="NONE"))
aws.delete_function_url_config(FunctionName="hello")
assert unsigned("GET", "/", headers={"Host": host}).status == 403, "the URL is gone"
host = url_of("hello")
assert unsigned("GET", "/", headers={"Host": "nobody.lambda-url.us-east-1.localhost"}).status == 403

# payload format 2.0
answer = unsigned("POST", "/a/b?x=1&x=2", b"hi", {"Host": host, "Cookie": "c=1", "Content-Type": "text/plain"})
assert answer.status in (200, 502), answer.status
host_guest = url_of("guest")
answer = unsigned("POST", "/", b'{"do":"panic"}', {"Host": host_guest})
assert (answer.status, answer.content) == (502, b"Internal Server Error"), answer.content
assert len(answer.headers["x-amzn-requestid"]) == 36

# functions that speak HTTP: buffered and streamed, cross-origin
host_http = url_of("http", Cors={"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET", "POST"],
                                 "AllowHeaders": ["x-y"], "ExposeHeaders": ["x-z"], "MaxAge": 60})
answer = unsigned("POST", "/path?q=1", b"body", {"Host": host_http, "Origin": "https://a.example"})
assert answer.status == 200 and b"body" in answer.content, answer.content
assert answer.headers["access-control-allow-origin"] == "https://a.example"
assert answer.headers["content-length"] == str(len(answer.content)), "buffered"
assert "access-control-allow-origin" not in unsigned("GET", "/", headers={"Host": host_http, "Origin": "https://b.example"}).headers
preflight = unsigned("OPTIONS", "/", headers={"Host": host_http, "Origin": "https://a.example",
                                              "Access-Control-Request-Method": "POST"})
assert preflight.status == 200 and preflight.headers["access-control-allow-methods"] == "GET,POST"
assert preflight.headers["access-control-max-age"] == "60" and preflight.headers["access-control-allow-headers"] == "x-y"
got = aws.update_function_url_config(FunctionName="http", InvokeMode="RESPONSE_STREAM", Cors={})
assert got["InvokeMode"] == "RESPONSE_STREAM" and "Cors" not in got
answer = unsigned("POST", "/path", b"body", {"Host": host_http})
assert answer.status == 200 and "content-length" not in answer.headers, "streamed"

# an alias has a URL of its own
aws.publish_version(FunctionName="guest")
aws.create_alias(FunctionName="guest", Name="live", FunctionVersion="1")
host_alias = url_of("guest", Qualifier="live")
assert host_alias != host_guest
assert len(aws.list_function_url_configs(FunctionName="guest")["FunctionUrlConfigs"]) == 2
refused("ValidationException", 400, lambda: aws.create_function_url_config(FunctionName="guest", Qualifier="1", AuthType="NONE"))
refused("ResourceNotFoundException", 404, lambda: aws.create_function_url_config(FunctionName="guest", Qualifier="x", AuthType="NONE"))
assert unsigned("POST", "/fn/guest:live/", b'x').status in (200, 502)
assert unsigned("POST", "/fn/guest:none/", b'x').status == 404

# AWS_IAM without keys: signed or not is all that can be seen
aws.update_function_url_config(FunctionName="hello", AuthType="AWS_IAM")
assert unsigned("POST", "/", b'{"name":"Ada"}', {"Host": host}).status == 403


# response streaming
def stream(name, payload, **more):
    answer = aws.invoke_with_response_stream(FunctionName=name, Payload=json.dumps(payload).encode(), **more)
    assert answer["StatusCode"] == 200 and answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    events = list(answer["EventStream"])
    assert "InvokeComplete" in events[-1], events
    chunks = b"".join(event["PayloadChunk"]["Payload"] for event in events[:-1])
    return answer["ExecutedVersion"], chunks, events[-1]["InvokeComplete"]


version, chunks, end = stream("hello", {"name": "Ada"}, LogType="Tail")
assert version == "$LATEST" and json.loads(chunks)["message"] == "Hello, Ada!" and "ErrorCode" not in end
assert b"REPORT RequestId" in base64.b64decode(end["LogResult"])
version, chunks, end = stream("guest", {"do": "answer", "bytes": 300000}, Qualifier="live")
assert version == "1" and len(chunks) >= 300000, len(chunks)
_, chunks, end = stream("guest", {"do": "error"})
assert chunks == b"" and end["ErrorCode"] == "Wanted" and "as you wished" in end["ErrorDetails"], end
_, chunks, end = stream("guest", {"do": "loop"})
assert end["ErrorCode"] == "Sandbox.Timedout", end
_, chunks, end = stream("http", {"rawPath": "/p", "requestContext": {"http": {"method": "POST"}}, "body": "hello"})
head, _, body = chunks.partition(b"\0" * 8)
assert json.loads(head)["statusCode"] == 200 and b"hello" in body, chunks
refused("ResourceNotFoundException", 404, lambda: aws.invoke_with_response_stream(FunctionName="nobody"))
