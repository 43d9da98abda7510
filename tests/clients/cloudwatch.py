"""Logs and metrics of functions, as boto3 and `aws logs tail --follow` ask for them."""

import datetime
import json
import time

from aws import GUEST_WASM, TRUST, client, refused, zipped

aws, iam, logs, metrics = client("lambda"), client("iam"), client("logs"), client("cloudwatch")
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
for name in ("f", "other"):
    aws.create_function(FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap",
                        Code={"ZipFile": zipped(GUEST_WASM)}, Timeout=2)
GROUP = "/aws/lambda/f"
began = int(time.time() * 1000) - 1


def invoke(event, name="f"):
    return aws.invoke(FunctionName=name, Payload=json.dumps(event).encode())


refused("ResourceNotFoundException", 400, lambda: logs.filter_log_events(logGroupName=GROUP))
assert logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"] == []
invoke({"do": "print", "lines": 3})
group = logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"][0]
assert group["logGroupName"] == GROUP and group["arn"].endswith(f":log-group:{GROUP}:*")
streams = logs.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True)["logStreams"]
assert len(streams) == 1 and "/[$LATEST]" in streams[0]["logStreamName"], streams
stream = streams[0]["logStreamName"]
events = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True)
messages = [event["message"] for event in events["events"]]
assert messages[0].startswith("START RequestId: ") and messages[-1].startswith("REPORT RequestId: "), messages
assert messages[-2].startswith("END RequestId: ") and all(m.endswith("\n") for m in messages)
again = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, nextToken=events["nextForwardToken"])
assert again["events"] == [] and again["nextForwardToken"] == events["nextForwardToken"], "the end has the same token"
page = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, startFromHead=True, limit=2)
rest = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, nextToken=page["nextForwardToken"])
assert [e["message"] for e in page["events"] + rest["events"]] == messages
tail = logs.get_log_events(logGroupName=GROUP, logStreamName=stream, limit=2)
assert [e["message"] for e in tail["events"]] == messages[-2:]
refused("ResourceNotFoundException", 400, lambda: logs.get_log_events(logGroupName=GROUP, logStreamName="none"))
refused("InvalidParameterException", 400, lambda: logs.get_log_events(logGroupName=GROUP, logStreamName=stream, nextToken="x"))


# what `aws logs tail --follow` does: FilterLogEvents from a time on, by pages, forgetting what it has seen
def follow(rounds, act):
    seen, start, said = set(), began, []
    for number in range(rounds):
        act(number)
        for page in logs.get_paginator("filter_log_events").paginate(
                logGroupName=GROUP, startTime=start, interleaved=True, PaginationConfig={"PageSize": 2}):
            for event in page["events"]:
                if event["eventId"] not in seen:
                    seen.add(event["eventId"])
                    said.append(event["message"])
                    start = max(start, event["timestamp"])
    return said


said = follow(3, lambda number: invoke({"do": "print", "lines": number + 1}))
everything = [e["message"] for e in logs.filter_log_events(logGroupName=GROUP)["events"]]
assert said == everything and len([m for m in said if m.startswith("REPORT")]) == 4, (said, everything)
only = logs.filter_log_events(logGroupName=GROUP, filterPattern="REPORT -START")["events"]
assert len(only) == 4 and all("REPORT" in e["message"] for e in only)
refused("InvalidParameterException", 400, lambda: logs.filter_log_events(logGroupName=GROUP, filterPattern="{ $.x = 1 }"))
assert logs.filter_log_events(logGroupName=GROUP, endTime=began)["events"] == []
refused("ResourceAlreadyExistsException", 400, lambda: logs.create_log_group(logGroupName=GROUP))
logs.put_retention_policy(logGroupName=GROUP, retentionInDays=7)
refused("InvalidParameterException", 400, lambda: logs.put_retention_policy(logGroupName=GROUP, retentionInDays=8))
assert logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"][0]["retentionInDays"] == 7
logs.delete_retention_policy(logGroupName=GROUP)
refused("UnknownOperationException", 400, lambda: logs.put_log_events(logGroupName=GROUP, logStreamName="x", logEvents=[]))

# metrics
for event in [{"do": "error"}, {"do": "panic"}, {"do": "work", "ms": 100}]:
    invoke(event)
invoke({"do": "count"}, "other")
aws.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
refused("TooManyRequestsException", 429, lambda: invoke({"do": "count"}))
aws.delete_function_concurrency(FunctionName="f")
dimensions = [{"Name": "FunctionName", "Value": "f"}]
now = datetime.datetime.now(datetime.timezone.utc)
span = {"StartTime": now - datetime.timedelta(minutes=10), "EndTime": now + datetime.timedelta(minutes=1)}


def query(name, stat, dimensions=dimensions):
    return {"Id": f"{name.lower()}_{stat.lower().replace('.', '_')}", "MetricStat": {
        "Metric": {"Namespace": "AWS/Lambda", "MetricName": name, "Dimensions": dimensions}, "Period": 3600, "Stat": stat}}


queries = [query(*q) for q in [("Invocations", "Sum"), ("Errors", "Sum"), ("Errors", "Average"), ("Throttles", "Sum"),
                               ("Duration", "Maximum"), ("Duration", "p50"), ("ConcurrentExecutions", "Maximum")]]
for _ in range(50):
    found = metrics.get_metric_data(MetricDataQueries=queries, **span)["MetricDataResults"]
    got = {result["Id"]: sum(result["Values"]) for result in found}
    if got.get("invocations_sum") == 7 and got.get("throttles_sum") == 1:
        break
    time.sleep(0.1)
assert got["invocations_sum"] == 7 and got["errors_sum"] == 2 and got["throttles_sum"] == 1, got
assert abs(got["errors_average"] - 2 / 7) < 1e-6 and got["duration_maximum"] >= 100 > got["duration_p50"], got
assert 1 <= got["concurrentexecutions_maximum"] <= 7, got
assert all(r["StatusCode"] == "Complete" and len(r["Timestamps"]) == len(r["Values"]) for r in found)
total = metrics.get_metric_data(MetricDataQueries=[query("Invocations", "Sum", [])], **span)["MetricDataResults"][0]
assert sum(total["Values"]) == 8, total
points = metrics.get_metric_statistics(Namespace="AWS/Lambda", MetricName="Duration", Dimensions=dimensions, Period=60,
                                       Statistics=["SampleCount", "Average"], ExtendedStatistics=["p99"], **span)["Datapoints"]
assert sum(point["SampleCount"] for point in points) == 7 and points[0]["Unit"] == "Milliseconds", points
assert points[0]["ExtendedStatistics"]["p99"] > 0 and isinstance(points[0]["Timestamp"], datetime.datetime)
listed = metrics.list_metrics(Namespace="AWS/Lambda", Dimensions=dimensions)["Metrics"]
assert {m["MetricName"] for m in listed} >= {"Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions"}
refused("InvalidParameterValue", 400, lambda: metrics.get_metric_data(
    MetricDataQueries=[{"Id": "a", "Expression": "1+1"}], **span))
refused("InvalidParameterValue", 400, lambda: metrics.get_metric_data(MetricDataQueries=[query("Duration", "tm99")], **span))

# the end of a group
logs.delete_log_group(logGroupName=GROUP)
refused("ResourceNotFoundException", 400, lambda: logs.filter_log_events(logGroupName=GROUP))
invoke({"do": "count"})
assert logs.filter_log_events(logGroupName=GROUP)["events"]
