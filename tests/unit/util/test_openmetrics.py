"""The metrics text is valid for the parsers of Prometheus, both of the old and the new format."""

from __future__ import annotations

import pytest

from cesbrfs.util.openmetrics import (
    Family,
    Kind,
    Metric,
    by_label,
    count_and_sum,
    histogram,
    render,
    single,
)
from tests.support.metrics import parse_openmetrics, parse_prometheus

HOSTILE = 'a "quoted" \\ back\nslash'
FAMILIES = (
    Family("made_things", Kind.COUNTER, "Things made.", ("kind",)),
    Family("made_size_bytes", Kind.GAUGE, "Size."),
    Family("made_wait_seconds", Kind.HISTOGRAM, "Wait.", ("kind",)),
    Family("made_listing_seconds", Kind.SUMMARY, "Listings."),
)


def _text() -> str:
    things, size, wait, listing = FAMILIES
    return render(
        [
            by_label(things, {"b": 2, HOSTILE: 1}),
            single(size, 0.25),
            Metric(wait, histogram((0.1, 1), (3, 0, 2), 9.5, {"kind": "b"})),
            Metric(listing, count_and_sum(4, 1e-5, {})),
            Metric(size, ()),
        ]
    ).decode()


def test_openmetrics() -> None:
    """Each family has its type, help and samples; label values survive."""
    found = {family.name: family for family in parse_openmetrics(_text())}
    assert {(f.name, f.type, f.documentation) for f in found.values()} == {
        (family.name, family.kind.value, family.help) for family in FAMILIES
    }
    counted = {sample.labels["kind"]: sample.value for sample in found["made_things"].samples}
    assert counted == {"b": 2, HOSTILE: 1}
    buckets = [
        (sample.labels["le"], sample.value)
        for sample in found["made_wait_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert buckets == [("0.1", 3), ("1.0", 3), ("+Inf", 5)]
    names = {sample.name for family in found.values() for sample in family.samples}
    assert names == {name for family in FAMILIES for name in family.sample_names}


def test_prometheus() -> None:
    """The old parser finds the same samples."""
    new = parse_openmetrics(_text())
    old = parse_prometheus(_text())
    assert [
        (sample.name, sample.labels, sample.value) for family in old for sample in family.samples
    ] == [(sample.name, sample.labels, sample.value) for family in new for sample in family.samples]


def test_the_parsers_refuse_invalid_text() -> None:
    """A missing end is an error of the parser: the tests above can fail."""
    with pytest.raises(ValueError, match="EOF"):
        parse_openmetrics(_text().replace("# EOF\n", ""))
