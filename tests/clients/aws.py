"""What the AWS client scripts share: clients that never retry, that check every response against
botocore's model, and a way to expect an error."""

import http.client
import io
import json
import os
import urllib.parse
import zipfile

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL = os.environ["WAMBDA_URL"]
ROOT = os.environ.get("WAMBDA_ROOT", ".")
CONFIG = Config(retries={"max_attempts": 0}, parameter_validation=False, read_timeout=60)


def client(service, region="us-east-1", **more):
    made = boto3.client(service, endpoint_url=URL, region_name=region, config=CONFIG, **more)
    made.meta.events.register("after-call", validate)
    return made


def validate(http_response, parsed, model, **_):
    """Members that the model requires are there, at any depth."""
    if http_response.status_code >= 300 or model.output_shape is None:
        return
    missing = []
    walk(model.output_shape, parsed, model.name, missing)
    assert not missing, f"{model.name} lacks {missing}: {parsed}"


def walk(shape, value, at, missing):
    if value is None:
        return
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in shape.required_members:
            if value.get(name) is None:
                missing.append(f"{at}.{name}")
        for name, member in shape.members.items():
            walk(member, value.get(name), f"{at}.{name}", missing)
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            walk(shape.member, item, f"{at}[]", missing)


def refused(code, status, call):
    """The call fails; with this code and status, where they are given."""
    try:
        call()
    except ClientError as error:
        got = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
        assert code in (None, got[0]) and status in (None, got[1]), (got, error.response)
        assert error.response["ResponseMetadata"].get("RequestId"), error.response
        return error.response
    raise AssertionError(f"{code} expected")


def unsigned(method, path, body=b"", headers=None):
    """A request without a signature, and its answer."""
    parts = urllib.parse.urlsplit(URL)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    answer.content = answer.read()
    connection.close()
    return answer


def wasm(path):
    """A built guest or example."""
    with open(os.path.join(ROOT, path), "rb") as file:
        return file.read()


HELLO_WASM = wasm("examples/target/wasm32-wasip2/release/hello.wasm")
GUEST_WASM = wasm("tests/guests/target/wasm32-wasip2/release/guest_event.wasm")
HTTP_WASM = wasm("examples/target/wasm32-wasip2/release/http_echo.wasm")


def zipped(content, name="bootstrap"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


TRUST = json.dumps({
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
})
