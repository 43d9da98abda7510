"""moto's own Lambda, STS and IAM tests against Wambda: one server a region behind a proxy on port
5000, which tells tests that need services or operations which are not there from those that fail.

    moto_suite.py WAMBDA MOTO_SDIST OUT_DIR EXPECTED_FAILURES

EXPECTED_FAILURES is docs/COMPATIBILITY.md; its rows `| moto | KIND | TEST | REASON |` are the failures
that are known: `differs` counts as one, `moto` does not (moto takes or says what AWS does not, or the
test is about Python or containers). Any other failure, a row that passes, or less than 95 % of passes
is an error."""

import collections
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import xml.etree.ElementTree as ElementTree

import boto3
from botocore.config import Config

ACCOUNT = "123456789012"
REGIONS = ["us-east-1", "us-east-2", "us-west-1", "us-west-2", "eu-west-1", "eu-west-2", "eu-central-1", "ap-southeast-1"]
SERVICES = {"lambda", "iam", "sts", "logs", "monitoring"}
PORT = 5000
TESTS = ["tests/test_awslambda/test_lambda.py", "tests/test_awslambda/test_lambda_alias.py",
         "tests/test_awslambda/test_lambda_concurrency.py", "tests/test_awslambda/test_lambda_eventsourcemapping.py",
         "tests/test_awslambda/test_lambda_function_urls.py", "tests/test_awslambda/test_lambda_invoke.py",
         "tests/test_awslambda/test_lambda_layers.py", "tests/test_awslambda/test_lambda_policy.py",
         "tests/test_awslambda/test_lambda_tags.py", "tests/test_sts/test_sts.py", "tests/test_iam/test_iam.py"]
# Of IAM, what concerns roles.
KEYWORDS = "test_lambda or test_sts or role"

# moto's zips are Python; with a module that echoes, they are functions here as well.
PLUGIN = '''
import base64, io, json, os, urllib.request, zipfile
import pytest

ECHO = base64.b64decode(os.environ["WAMBDA_ECHO"])
TRUST = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
                    "Principal": {"Service": "lambda.amazonaws.com"}}})


def pytest_configure(config):
    import boto3
    import tests.test_awslambda.utilities as utilities
    from moto import mock_aws

    def process(source):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in [("lambda_function.py", source), ("bootstrap", ECHO)]:
                archive.writestr(zipfile.ZipInfo(name), content)
        return out.getvalue()

    def role(region=None):
        with mock_aws():
            iam = boto3.client("iam", region_name=region or "us-west-2")
            try:
                return iam.get_role(RoleName="my-role")["Role"]["Arn"]
            except iam.exceptions.NoSuchEntityException:
                return iam.create_role(RoleName="my-role", AssumeRolePolicyDocument=TRUST, Path="/my-path/")["Role"]["Arn"]

    from botocore.client import BaseClient
    real = BaseClient._make_api_call

    def call(self, operation, parameters):
        # moto does not look at these, and most of its tests put in anything.
        if operation == "CreateRole":
            try:
                known = json.loads(parameters["AssumeRolePolicyDocument"])["Statement"]
            except (ValueError, KeyError, TypeError):
                parameters = {**parameters, "AssumeRolePolicyDocument": TRUST}
            if not parameters.get("Path", "/").endswith("/"):
                parameters = {**parameters, "Path": "/" + parameters["Path"].strip("/") + "/"}
        return real(self, operation, parameters)

    BaseClient._make_api_call = call
    utilities._process_lambda = process
    utilities.get_role_name = role


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    name = item.nodeid.replace("tests/", "", 1).replace(" ", "_")
    urllib.request.urlopen(urllib.request.Request("http://localhost:5000/test", data=name.encode())).read()
'''

ECHO_WAT = """(module (memory (export "memory") 2) (global $at (mut i32) (i32.const 1024))
  (func (export "wambda_alloc") (param i32) (result i32) (global.get $at))
  (func (export "wambda_handle") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"""


class State:
    servers, test, lacking = {}, "", collections.defaultdict(set)
    lock = threading.Lock()


def forward(url, method, path, body, headers):
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.getheaders(), content


def client(service, region):
    return boto3.client(service, endpoint_url=State.servers[region], region_name=region, aws_access_key_id="x",
                        aws_secret_access_key="x", config=Config(retries={"max_attempts": 0}))


def reset():
    """An empty account, as every test of moto expects it."""
    for region in REGIONS:
        aws = client("lambda", region)
        for mapping in aws.list_event_source_mappings()["EventSourceMappings"]:
            aws.delete_event_source_mapping(UUID=mapping["UUID"])
        for function in aws.list_functions()["Functions"]:
            aws.delete_function(FunctionName=function["FunctionName"])
        for layer in aws.list_layers()["Layers"]:
            for version in aws.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]:
                aws.delete_layer_version(LayerName=layer["LayerName"], VersionNumber=version["Version"])
        iam = client("iam", region)
        for role in iam.list_roles()["Roles"]:
            name = role["RoleName"]
            for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
                iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
                iam.delete_role_policy(RoleName=name, PolicyName=policy)
            iam.delete_role(RoleName=name)
        for user in iam.list_users()["Users"]:
            name = user["UserName"]
            for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
                iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
            for policy in iam.list_attached_user_policies(UserName=name)["AttachedPolicies"]:
                iam.detach_user_policy(UserName=name, PolicyArn=policy["PolicyArn"])
            for policy in iam.list_user_policies(UserName=name)["PolicyNames"]:
                iam.delete_user_policy(UserName=name, PolicyName=policy)
            iam.delete_user(UserName=name)
        for policy in iam.list_policies(Scope="Local")["Policies"]:
            for version in iam.list_policy_versions(PolicyArn=policy["Arn"])["Versions"]:
                if not version["IsDefaultVersion"]:
                    iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId=version["VersionId"])
            iam.delete_policy(PolicyArn=policy["Arn"])


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/test":
            State.test = body.decode()
            return self.answer(200, [], b"")
        with State.lock:
            if self.path == "/moto-api/reset":
                reset()
                return self.answer(200, [], b"{}")
            scope = re.search(r"Credential=[^/]*/\d*/([^/]*)/([^/]*)/", self.headers.get("Authorization", ""))
            region, service = scope.groups() if scope else ("us-east-1", "unsigned")
            if service not in SERVICES or region not in REGIONS:
                State.lacking[State.test].add(service if service not in SERVICES else region)
                return self.answer(501, [], b"{}")
            headers = {name: value for name, value in self.headers.items()}
            # IAM is global: every region's server has the same users and roles.
            targets = REGIONS if service in ("iam", "sts") else [region]
            answers = [forward(State.servers[t], self.command, self.path, body, headers) for t in targets]
            status, sent, content = answers[0]
            if status == 501 or b"InvalidAction" in content or b"UnknownOperation" in content:
                State.lacking[State.test].add(f"{service} {self.path if service == 'lambda' else body[:60].decode()}")
            if b"no buckets yet" in content or b"does not poll event sources" in content or re.search(rb"(?<!LATEST)(?<!versions) (is|are) not supported", content):
                State.lacking[State.test].add("a parameter that is refused")
            self.answer(status, sent, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = handle_any


def start(program, region, folder):
    data = os.path.join(folder, region)
    server = subprocess.Popen([program, "serve", "--listen", "127.0.0.1:0", "--log", "error", "--region", region,
                               "--account", ACCOUNT, "--data-dir", data], stdout=subprocess.PIPE, text=True)
    State.servers[region] = server.stdout.readline().strip().removeprefix("wambda listening on ")
    return server


def pytest(sdist, out, echo):
    plugin = os.path.join(out, "wambda_plugin.py")
    with open(plugin, "w") as file:
        file.write(PLUGIN)
    report = os.path.join(out, "report.xml")
    environment = {**os.environ, "TEST_SERVER_MODE": "true", "TEST_SERVER_MODE_ENDPOINT": f"http://localhost:{PORT}",
                   "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
                   "PYTHONPATH": out, "WAMBDA_ECHO": echo, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "wambda_plugin", "--timeout=60",
                    "-o", "addopts=", f"--junitxml={report}", "-k", KEYWORDS, *TESTS],
                   cwd=sdist, env=environment, stdout=open(os.path.join(out, "pytest.log"), "w"), stderr=subprocess.STDOUT)
    return ElementTree.parse(report)


def main():
    program, sdist, out, expected = sys.argv[1:]
    known = {test: kind for kind, test in re.findall(r"^\| moto \| (\w+) \| `([^`]*)` \|", open(expected).read(), re.M)}
    os.makedirs(out, exist_ok=True)
    import base64
    echo = base64.b64encode(ECHO_WAT.encode()).decode()
    with tempfile.TemporaryDirectory() as folder:
        servers = [start(program, region, folder) for region in REGIONS]
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            report = pytest(sdist, out, echo)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()
    passed, failed, lacking, skipped = [], {}, {}, []
    for case in report.iter("testcase"):
        # As pytest names it, without the folder of all tests.
        parts = case.get("classname").removeprefix("tests.").split(".")
        module = "/".join(part for part in parts if not part.startswith("Test"))
        inside = [part for part in parts if part.startswith("Test")]
        name = "::".join([f"{module}.py", *inside, case.get("name")]).replace(" ", "_")
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if case.find("skipped") is not None:
            skipped.append(name)
        elif wrong is None:
            passed.append(name)
        elif State.lacking.get(name):
            lacking[name] = sorted(State.lacking[name])
        else:
            failed[name] = (wrong.get("message") or "").splitlines()[:1]
    aside = [name for name in failed if known.get(name) == "moto"]
    counted = len(passed) + len(failed) - len(aside)
    share = len(passed) / max(counted, 1)
    json.dump({"passed": passed, "failed": failed, "lacking": lacking, "skipped": skipped},
              open(os.path.join(out, "result.json"), "w"), indent=1)
    print(f"moto: {len(passed)} of {counted} pass ({share:.1%}); {len(aside)} are about moto; "
          f"{len(lacking)} need what is not there; {len(skipped)} skipped")
    unknown = {name: why for name, why in failed.items() if name not in known}
    gone = [name for name in known if name not in failed]
    for name, why in unknown.items():
        print("unexpected failure:", name, *why)
    for name in gone:
        print("listed as a failure, and is none:", name)
    if unknown or gone or share < 0.95 or counted < 60:
        sys.exit(1)


main()
