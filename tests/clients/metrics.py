"""`/metrics` through the parser of the Prometheus client: valid, complete, bounded."""

import os
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(os.environ["WAMBDA_URL"] + "/metrics") as response:
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4"), response.headers
    text = response.read().decode()

families = {family.name: family for family in text_string_to_metric_families(text)}
series = set()
for family in families.values():
    assert family.documentation, family.name
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in series, f"{key} twice"
        series.add(key)

# Counters lose their `_total` in the parser.
for name in [
    "wambda_invocations", "wambda_invocation_duration_seconds", "wambda_queue_wait_seconds", "wambda_init_seconds",
    "wambda_starts", "wambda_instances", "wambda_desired_instances", "wambda_scale_decisions", "wambda_queue_depth",
    "wambda_queue_oldest_seconds", "wambda_throttles", "wambda_kills", "wambda_cpu_seconds",
    "wambda_memory_peak_bytes", "wambda_compile_seconds", "wambda_pool_slots", "wambda_http_requests",
    "wambda_host_panics", "wambda_stuck_polls", "wambda_poll_seconds", "wambda_long_polls", "wambda_build_info", "process_resident_memory_bytes", "process_cpu_seconds",
    "process_open_fds", "wambda_async_events", "wambda_dead_letters", "wambda_destination_failures",
    "wambda_held_bytes", "wambda_held_limit_bytes",
    "wambda_damaged_records",
]:
    assert name in families and families[name].samples, f"{name} is not there"


def value(name, **labels):
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0


for outcome in ["error", "timeout", "trap", "memory"]:
    assert value("wambda_invocations_total", function="guest", outcome=outcome) >= 1, outcome
for reason in ["timeout", "trap", "memory"]:
    assert value("wambda_kills_total", function="guest", reason=reason) == 1, reason
assert value("wambda_invocations_total", function="hello", outcome="success") == 1
assert value("wambda_invocation_duration_seconds_count", function="hello") == 1
assert value("wambda_throttles_total", function="guest", reason="queue_count") >= 1
assert value("wambda_desired_instances", function="hello") >= 1
assert value("wambda_compile_seconds_count") == 2
assert value("wambda_async_events_total", function="guest", outcome="received") == 1
assert value("wambda_async_events_total", function="guest", outcome="dead") == 1
assert value("wambda_dead_letters_total", function="guest") == 1
assert value("wambda_destination_failures_total", function="guest") == 1
assert value("wambda_queue_depth", queue="dead:guest") == 1
assert value("wambda_host_panics_total") == 0
assert value("wambda_damaged_records_total", store="queues") == 0
assert value("wambda_http_requests_total", surface="native", code="504") == 1
assert len(series) < 400, len(series)
