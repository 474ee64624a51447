"""Spans and metrics through the OpenTelemetry API. They are no-ops until the application configures the SDK.

    spans    ragself.search, ragself.add, ragself.adapt
    metrics  ragself.search.duration (s, by version), ragself.search.errors, ragself.passes (by decision)

No attribute contains a text, a query or a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.trace import Status, StatusCode

_NAME = "ragself"

_tracer = trace.get_tracer(_NAME)
_meter = metrics.get_meter(_NAME)

duration = _meter.create_histogram("ragself.search.duration", "s", "Duration of a search")
errors = _meter.create_counter("ragself.search.errors", "1", "Failed searches, except those with invalid arguments")
passes = _meter.create_counter("ragself.passes", "1", "Completed passes, by decision")


@contextmanager
def span(name: str) -> Iterator[None]:
    """Open a span for the block. On an error it records the type, not the message, which may quote a text."""
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as current:
        try:
            yield
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
