"""Render metrics in the OpenMetrics text format. Pure.

Prometheus' older text format is read by the same programs and differs in two points. It has no
``# EOF``, which is a comment there, and its counters have no type: in OpenMetrics the family
``x`` has the samples ``x_total``. Format: https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Kind(StrEnum):
    """The type of a metric family."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


_SUFFIXES: Final[Mapping[Kind, Sequence[str]]] = {
    Kind.COUNTER: ("_total",),
    Kind.GAUGE: ("",),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
    Kind.SUMMARY: ("_count", "_sum"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: name (a counter's without ``_total``), type, help, label names."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names of its samples, as queries use them."""
        return tuple(self.name + suffix for suffix in _SUFFIXES[self.kind])


class Sample(NamedTuple):
    """A value with its label values; `suffix` is what the sample's name adds to the family's."""

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""


class Metric(NamedTuple):
    """A family with its samples."""

    family: Family
    samples: Sequence[Sample]


def single(family: Family, value: float, **labels: str) -> Metric:
    """Return a counter or gauge with one sample."""
    return Metric(family, (Sample(value, labels, _SUFFIXES[family.kind][0]),))


def by_label(family: Family, values: Mapping[str, float]) -> Metric:
    """Return a counter or gauge with one sample per value of its only label, sorted."""
    (label,) = family.labels
    suffix = _SUFFIXES[family.kind][0]
    return Metric(
        family, tuple(Sample(values[name], {label: name}, suffix) for name in sorted(values))
    )


def count_and_sum(count: int, total: float, labels: Mapping[str, str]) -> Sequence[Sample]:
    """Return the samples ``_count`` and ``_sum`` of a summary or histogram."""
    return (Sample(count, labels, "_count"), Sample(total, labels, "_sum"))


def histogram(
    bounds: Sequence[float], counts: Sequence[int], total: float, labels: Mapping[str, str]
) -> Sequence[Sample]:
    """Return the samples of a histogram.

    `counts` are the observations in each bucket, not cumulative: one more than there are `bounds`.
    """
    samples: list[Sample] = []
    cumulative = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        cumulative += count
        samples.append(Sample(cumulative, {**labels, "le": _number(float(bound))}, "_bucket"))
    return (*samples, *count_and_sum(cumulative, total, labels))


def render(metrics: Iterable[Metric]) -> bytes:
    """Return the metrics as text; families without samples are left out."""
    lines: list[str] = []
    for family, samples in metrics:
        if not samples:
            continue
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for value, labels, suffix in samples:
            pairs = (f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels.items())
            shown = ",".join(pairs)
            lines.append(f"{family.name}{suffix}{f'{{{shown}}}' if shown else ''} {_number(value)}")
    return "\n".join([*lines, "# EOF", ""]).encode()


def _number(value: float) -> str:
    """Return a number in canonical form: ``3``, ``0.25``, ``+Inf``."""
    if value == float("inf"):
        return "+Inf"
    return repr(value)
