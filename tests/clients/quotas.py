"""How many there may be of what clients name: the last is taken, one more is refused, and nothing is lost by it."""

import json

from aws import HELLO_WASM, TRUST, client, refused, zipped

aws, iam = client("lambda"), client("iam")
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
base = {"Runtime": "provided.al2023", "Handler": "bootstrap", "Role": role, "Code": {"ZipFile": zipped(HELLO_WASM)}}


def says(text, code, call):
    message = refused(code, None, call)["Error"]["Message"]
    assert text in message, message


def tags(count):
    return {f"tag{n}": "x" for n in range(count)}


# tags
says("50, got 51", "InvalidParameterValueException", lambda: aws.create_function(FunctionName="f", Tags=tags(51), **base))
arn = aws.create_function(FunctionName="f", Tags=tags(49), **base)["FunctionArn"]
aws.get_waiter("function_active_v2").wait(FunctionName="f", WaiterConfig={"Delay": 1})
aws.tag_resource(Resource=arn, Tags={"last": "1"})
says("50, got 51", "InvalidParameterValueException", lambda: aws.tag_resource(Resource=arn, Tags={"more": "1"}))
assert len(aws.list_tags(Resource=arn)["Tags"]) == 50
pairs = [{"Key": key, "Value": value} for key, value in tags(51).items()]
iam.tag_role(RoleName="r", Tags=pairs[:50])
refused("LimitExceeded", 409, lambda: iam.tag_role(RoleName="r", Tags=pairs[50:]))
assert len(iam.list_role_tags(RoleName="r")["Tags"]) == 50

# layers
layers = []
for n in range(6):
    made = aws.publish_layer_version(LayerName=f"l{n}", Content={"ZipFile": zipped(b"x", f"{n}.txt")})
    layers.append(made["LayerVersionArn"])
says("more than 5 layers", "InvalidParameterValueException",
     lambda: aws.update_function_configuration(FunctionName="f", Layers=layers))
aws.update_function_configuration(FunctionName="f", Layers=layers[:5])
aws.get_waiter("function_updated_v2").wait(FunctionName="f", WaiterConfig={"Delay": 1})
assert len(aws.get_function_configuration(FunctionName="f")["Layers"]) == 5

# aliases
for n in range(500):
    aws.create_alias(FunctionName="f", Name=f"a{n}", FunctionVersion="$LATEST")
says("500 aliases", "AliasLimitExceededException",
     lambda: aws.create_alias(FunctionName="f", Name="more", FunctionVersion="$LATEST"))
aws.delete_alias(FunctionName="f", Name="a0")
aws.create_alias(FunctionName="f", Name="more", FunctionVersion="$LATEST")

# environment
says("exceeded the 4KB limit", "InvalidParameterValueException",
     lambda: aws.update_function_configuration(FunctionName="f", Environment={"Variables": {"AA": "x" * 4096}}))

# the function's policy
sid, error = 0, None
while error is None and sid < 200:
    sid += 1
    grant = {"FunctionName": "f", "Action": "lambda:InvokeFunction", "StatementId": f"{'s' * 80}{sid}",
             "Principal": "s3.amazonaws.com", "SourceArn": f"arn:aws:s3:::{'b' * 50}{sid}"}
    try:
        aws.add_permission(**grant)
    except aws.exceptions.PolicyLengthExceededException as refusal:
        error = refusal.response["Error"]["Message"]
policy = aws.get_policy(FunctionName="f")["Policy"]
assert "(20480)" in error and len(json.loads(policy)["Statement"]) == sid - 1 > 40, (sid, error)

# IAM's documents, policies, versions of them, keys
statement = {"Effect": "Allow", "Action": "lambda:*", "Resource": "*"}


def document(letters):
    return json.dumps({"Version": "2012-10-17", "Statement": {**statement, "Sid": "s" * letters}})


says("10240", "LimitExceeded", lambda: iam.create_policy(PolicyName="large", PolicyDocument=document(10_240)))
policies = [iam.create_policy(PolicyName=f"p{n}", PolicyDocument=document(8_000))["Policy"]["Arn"] for n in range(21)]
for arn in policies[:20]:
    iam.attach_role_policy(RoleName="r", PolicyArn=arn)
says("PoliciesPerRole: 20", "LimitExceeded", lambda: iam.attach_role_policy(RoleName="r", PolicyArn=policies[20]))
iam.attach_role_policy(RoleName="r", PolicyArn=policies[19])  # is there already
for n in range(20):
    iam.put_role_policy(RoleName="r", PolicyName=f"i{n}", PolicyDocument=document(1))
says("20 inline policies", "LimitExceeded",
     lambda: iam.put_role_policy(RoleName="r", PolicyName="more", PolicyDocument=document(1)))
iam.put_role_policy(RoleName="r", PolicyName="i0", PolicyDocument=document(2))  # replaces
for _ in range(4):
    iam.create_policy_version(PolicyArn=policies[0], PolicyDocument=document(3))
says("5 versions", "LimitExceeded", lambda: iam.create_policy_version(PolicyArn=policies[0], PolicyDocument=document(3)))
iam.create_user(UserName="u")
for _ in range(2):
    iam.create_access_key(UserName="u")
says("AccessKeysPerUser: 2", "LimitExceeded", lambda: iam.create_access_key(UserName="u"))
