"""Parse metrics with the parsers of Prometheus' own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Values = dict[tuple[str, str], float]
"""Samples by name and the value of their first label, which is empty if there is none."""


def parse_openmetrics(text: str) -> list[Metric]:
    """Parse the OpenMetrics text format; raises ValueError."""
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def parse_prometheus(text: str) -> list[Metric]:
    """Parse Prometheus' older text format; raises ValueError."""
    return list(parser.text_string_to_metric_families(text))


def values(text: str) -> Values:
    """Return the samples of a text in the OpenMetrics format."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in parse_openmetrics(text)
        for sample in family.samples
    }
