"""Asynchronous invocations with boto3: Event, FunctionEventInvokeConfig, destinations, dead letters,
CloudWatch's metrics of them."""

import datetime
import json
import time
import urllib.request

from aws import URL, client, refused

aws = client("lambda")


def get(path):
    with urllib.request.urlopen(URL + path) as answer:
        return json.load(answer)


def ended(id):
    for _ in range(1000):
        known = get(f"/v1/invocations/{id}")
        if "ended" in known:
            return known
        time.sleep(0.01)
    raise AssertionError(known)


def send(name, event, **more):
    answer = aws.invoke(
        FunctionName=name, InvocationType="Event", Payload=json.dumps(event).encode(), **more
    )
    assert answer["StatusCode"] == 202, answer
    assert answer["Payload"].read() == b"" and "FunctionError" not in answer
    return answer["ResponseMetadata"]["RequestId"]


known = ended(send("echo", {"a": 1}))
assert known["status"] == "succeeded" and known["result"] == {"a": 1}, known
refused("ResourceNotFoundException", 404, lambda: send("nobody", {}))
refused("InvalidRequestContentException", 400, lambda: aws.invoke(
    FunctionName="echo", InvocationType="Event", Payload=b"{"))
refused("RequestTooLargeException", 413, lambda: send("echo", "x" * (1 << 20)))
refused("ValidationException", 400, lambda: aws.invoke_with_response_stream(
    FunctionName="echo", InvocationType="Event"))

# the configuration: put replaces, update merges
ARN = "arn:aws:lambda:us-east-1:000000000000:function:guest"
QUEUE = "arn:aws:sqs:us-east-1:000000000000:failed"
refused("ResourceNotFoundException", 404, lambda: aws.get_function_event_invoke_config(FunctionName="guest"))
refused("ResourceNotFoundException", 404, lambda: aws.update_function_event_invoke_config(
    FunctionName="guest", MaximumRetryAttempts=1))
refused("InvalidParameterValueException", 400, lambda: aws.put_function_event_invoke_config(FunctionName="guest"))
put = aws.put_function_event_invoke_config(
    FunctionName="guest", MaximumRetryAttempts=1, MaximumEventAgeInSeconds=60)
assert put["FunctionArn"] == ARN + ":$LATEST", put
assert put["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {}}, put
assert isinstance(put["LastModified"], datetime.datetime)
update = aws.update_function_event_invoke_config(
    FunctionName="guest", DestinationConfig={"OnFailure": {"Destination": QUEUE}})
assert update["MaximumRetryAttempts"] == 1 and update["MaximumEventAgeInSeconds"] == 60, update
assert update["DestinationConfig"]["OnFailure"]["Destination"] == QUEUE
got = aws.get_function_event_invoke_config(FunctionName="guest")
assert got["DestinationConfig"] == update["DestinationConfig"]
for wrong in (
    {"MaximumRetryAttempts": 3},
    {"MaximumRetryAttempts": -1},
    {"MaximumEventAgeInSeconds": 59},
    {"MaximumEventAgeInSeconds": 21601},
):
    refused("ValidationException", 400,
            lambda: aws.put_function_event_invoke_config(FunctionName="guest", **wrong))
refused("InvalidParameterValueException", 400, lambda: aws.put_function_event_invoke_config(
    FunctionName="guest", DestinationConfig={"OnSuccess": {"Destination": ARN}}))
refused("InvalidParameterValueException", 400, lambda: aws.put_function_event_invoke_config(
    FunctionName="guest",
    DestinationConfig={"OnSuccess": {"Destination": "arn:aws:sns:us-east-1:000000000000:t"}}))

# one of them per qualifier
version = aws.publish_version(FunctionName="guest")["Version"]
aws.create_alias(FunctionName="guest", Name="live", FunctionVersion=version)
for qualifier in (version, "live"):
    made = aws.put_function_event_invoke_config(
        FunctionName="guest", Qualifier=qualifier, MaximumRetryAttempts=0)
    assert made["FunctionArn"] == f"{ARN}:{qualifier}"
refused("ResourceNotFoundException", 404, lambda: aws.put_function_event_invoke_config(
    FunctionName="guest", Qualifier="7", MaximumRetryAttempts=0))
listed = aws.list_function_event_invoke_configs(FunctionName="guest")["FunctionEventInvokeConfigs"]
assert len(listed) == 3, listed
page = aws.list_function_event_invoke_configs(FunctionName="guest", MaxItems=2)
assert len(page["FunctionEventInvokeConfigs"]) == 2 and page["NextMarker"]

assert len(ended(send("guest", {"do": "error"}))["attempts"]) == 2
known = ended(send("guest", {"do": "error"}, Qualifier="live"))
assert len(known["attempts"]) == 1 and known["qualifier"] == "live", known
assert known["attempts"][0]["version"] == version
records = [json.loads(m["body"]) for m in get("/v1/queues/failed/messages")["messages"]]
assert [r["requestContext"]["approximateInvokeCount"] for r in records] == [2], records
assert records[0]["requestContext"]["functionArn"] == ARN + ":$LATEST"
assert records[0]["responseContext"] == {
    "statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
# the alias has no destination: its letter is in its own queue
assert [m["reason"] for m in get("/v1/queues/dead:guest:live/messages")["messages"]] == ["RetriesExhausted"]

aws.delete_function_event_invoke_config(FunctionName="guest")
refused("ResourceNotFoundException", 404, lambda: aws.get_function_event_invoke_config(FunctionName="guest"))
refused("ResourceNotFoundException", 404, lambda: aws.delete_function_event_invoke_config(FunctionName="guest"))
aws.delete_alias(FunctionName="guest", Name="live")
left = aws.list_function_event_invoke_configs(FunctionName="guest")["FunctionEventInvokeConfigs"]
assert [c["FunctionArn"] for c in left] == [f"{ARN}:{version}"], left

# a dead-letter queue gets the event itself
DEAD = "arn:aws:sqs:us-east-1:000000000000:letters"
refused("InvalidParameterValueException", 400, lambda: aws.update_function_configuration(
    FunctionName="guest", DeadLetterConfig={"TargetArn": "arn:aws:sns:us-east-1:000000000000:t"}))
aws.update_function_configuration(FunctionName="guest", DeadLetterConfig={"TargetArn": DEAD})
assert aws.get_function_configuration(FunctionName="guest")["DeadLetterConfig"] == {"TargetArn": DEAD}
aws.put_function_event_invoke_config(FunctionName="guest", MaximumRetryAttempts=0)
ended(send("guest", {"do": "panic"}))
letter = get("/v1/queues/letters/messages")["messages"][0]
assert json.loads(letter["body"]) == {"do": "panic"}, letter

# no concurrency: nothing runs, and the letter says so
aws.put_function_concurrency(FunctionName="guest", ReservedConcurrentExecutions=0)
known = ended(send("guest", {"do": "count"}))
assert known["reason"] == "ZeroReservedConcurrency" and known["attempts"] == [], known
aws.delete_function_concurrency(FunctionName="guest")

# what CloudWatch says
cloudwatch = client("cloudwatch")
now = datetime.datetime.now(datetime.timezone.utc)


def total(metric, statistic="Sum"):
    points = cloudwatch.get_metric_statistics(
        Namespace="AWS/Lambda", MetricName=metric, Period=3600, Statistics=[statistic],
        Dimensions=[{"Name": "FunctionName", "Value": "guest"}],
        StartTime=now - datetime.timedelta(hours=1), EndTime=now + datetime.timedelta(hours=1),
    )["Datapoints"]
    return sum(point[statistic] for point in points)


for _ in range(300):
    if total("AsyncEventsReceived") == 4 and total("AsyncEventsDropped") == 4:
        break
    time.sleep(0.01)
assert total("AsyncEventsReceived") == 4, total("AsyncEventsReceived")
assert total("AsyncEventsDropped") == 4, total("AsyncEventsDropped")
assert total("AsyncEventAge", "SampleCount") == 4
