"""Spans and metrics through OpenTelemetry's API: nothing happens until an application configures its SDK.

    spans    ragself.search, ragself.add, ragself.adapt
    metrics  ragself.search.duration (s, by version), ragself.search.errors, ragself.passes (by decision)

No attribute holds a text, a query or a path.
"""

from __future__ import annotations

from opentelemetry import metrics, trace

_NAME = "ragself"

tracer = trace.get_tracer(_NAME)
_meter = metrics.get_meter(_NAME)

duration = _meter.create_histogram("ragself.search.duration", "s", "Time of a search")
errors = _meter.create_counter("ragself.search.errors", "1", "Searches that failed, wrong arguments aside")
passes = _meter.create_counter("ragself.passes", "1", "Passes that came to their end, by decision")
