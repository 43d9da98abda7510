"""boto3's Invoke against Wambda: what AWS answers, in AWS's shapes."""

import base64
import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

aws = boto3.client(
    "lambda",
    endpoint_url=os.environ["WAMBDA_URL"],
    config=Config(retries={"max_attempts": 0}, parameter_validation=False),
)


def invoke(name, event, **more):
    payload = event if isinstance(event, bytes) else json.dumps(event).encode()
    return aws.invoke(FunctionName=name, Payload=payload, **more)


def refused(code, status, call):
    try:
        call()
    except ClientError as error:
        got = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert got == (code, status), (got, error.response)
        return error.response
    raise AssertionError(f"{code} expected")


# a plain invocation
answer = invoke("hello", {"name": "Ada"})
assert answer["StatusCode"] == 200 and answer["ExecutedVersion"] == "$LATEST"
assert "FunctionError" not in answer and "LogResult" not in answer
assert json.load(answer["Payload"])["message"] == "Hello, Ada!"
assert len(answer["ResponseMetadata"]["RequestId"]) == 36

# every form of the name
arn = "arn:aws:lambda:us-east-1:000000000000:function:hello"
for name in ["hello", "hello:$LATEST", "000000000000:function:hello", arn, arn + ":$LATEST"]:
    assert "FunctionError" not in invoke(name, {"name": "x"}), name
assert "FunctionError" not in invoke("hello", {"name": "x"}, Qualifier="$LATEST")

# the tail of the log
tail = base64.b64decode(invoke("hello", {"name": "Tail"}, LogType="Tail")["LogResult"]).decode()
assert tail.startswith("START RequestId: ") and "greeting Tail" in tail and "REPORT RequestId: " in tail, tail

# dry run, and what is not there yet
answer = aws.invoke(FunctionName="hello", InvocationType="DryRun")
assert answer["StatusCode"] == 204 and answer["Payload"].read() == b""
refused("ValidationException", 400, lambda: invoke("hello", {}, InvocationType="Nonsense"))

# functions that fail
answer = invoke("guest", {"do": "error"})
body = json.load(answer["Payload"])
assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
assert (body["errorType"], body["errorMessage"], body["stackTrace"]) == ("Wanted", "as you wished", []), body
assert body["requestId"] == answer["ResponseMetadata"]["RequestId"]
answer = invoke("guest", {"do": "loop"})
body = json.load(answer["Payload"])
assert answer["FunctionError"] == "Unhandled" and body["errorType"] == "Sandbox.Timedout", body
assert body["errorMessage"].endswith("Error: Task timed out after 1.00 seconds"), body
assert json.load(invoke("guest", {"do": "panic"})["Payload"])["errorType"] == "Runtime.ExitError"
assert json.load(invoke("guest", {"do": "grow"})["Payload"])["errorType"] == "Runtime.OutOfMemory"
too_large = json.load(invoke("guest", {"do": "answer", "bytes": 2000})["Payload"])
assert too_large["errorType"] == "Function.ResponseSizeTooLarge", too_large

# context
context = json.dumps({"client": {"app": "x"}})
answer = invoke("guest", {"do": "context"}, ClientContext=base64.b64encode(context.encode()).decode())
seen = json.load(answer["Payload"])
assert seen["client_context"] == context and seen["arn"] == arn.replace("hello", "guest"), seen
refused("InvalidRequestContentException", 400, lambda: invoke("guest", {}, ClientContext="%%%"))
refused("InvalidRequestContentException", 400, lambda: invoke("guest", {}, ClientContext="A" * 4000))

# nothing in, nothing out
assert json.load(aws.invoke(FunctionName="silent")["Payload"]) is None

# a function that speaks HTTP takes API Gateway's events
event = {"rawPath": "/p", "requestContext": {"http": {"method": "POST"}}, "body": "aGk=", "isBase64Encoded": True}
shape = json.load(invoke("http", event)["Payload"])
assert (shape["statusCode"], shape["body"]) == (200, "hi"), shape

# its log has a tail as well
answer = invoke("http", event, LogType="Tail")
assert "REPORT RequestId: " in base64.b64decode(answer["LogResult"]).decode()

# refusals
error = refused("ResourceNotFoundException", 404, lambda: invoke("nobody", {}))
assert error["Error"]["Message"].endswith(":function:nobody:$LATEST"), error
refused("ResourceNotFoundException", 404, lambda: invoke("hello:v7", {}))
refused("ValidationException", 400, lambda: invoke("a b", {}))
refused("InvalidRequestContentException", 400, lambda: invoke("hello", b"{"))
refused("InvalidRequestContentException", 400, lambda: invoke("hello", b'"\x87"'))
refused("RequestTooLargeException", 413, lambda: invoke("guest", {"x": "y" * 2000}))
error = refused("TooManyRequestsException", 429, lambda: invoke("busy", {}))
assert error["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded", error
assert error["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1", error
assert {f["FunctionName"] for f in aws.list_functions()["Functions"]} >= {"hello", "guest"}
