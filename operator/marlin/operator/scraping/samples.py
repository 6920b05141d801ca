"""A page of metrics, or a Prometheus' answer, as plain samples: pure.

Whoever counts something with them need not know which of the two they came from.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from marlin.operator.signals.http import SignalError

MOST_SERIES: Final = 20_000
"""Series that an answer may have: a policy's 64 pools on a few hundred engines each."""


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


def of_page(exposition: bytes, prefix: str) -> list[Sample]:
    """The samples of a page whose names begin with ``prefix``; the other lines are not looked at.

    Raises:
        SignalError: it is not in Prometheus' format.
    """
    try:
        lines = [line for line in exposition.decode().splitlines() if line.startswith(prefix)]
        families = text_string_to_metric_families("\n".join(lines) + "\n")
        return [Sample(s.name, s.labels, s.value) for family in families for s in family.samples]
    except (ValueError, KeyError):
        raise SignalError("the page is not in Prometheus' format") from None


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one server exposed, as a Prometheus has it."""

    samples: tuple[Sample, ...]
    at_s: float
    """When the newest of them was scraped, Unix time, s."""


def of_query(body: bytes, by: tuple[str, ...]) -> dict[str, Scrape]:
    """The newest sample of each series of an answer, by who exposed them: the values of the labels ``by``, joined.

    Raises:
        SignalError: it is no answer with ranges of samples.
    """
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    at_s: defaultdict[str, float] = defaultdict(float)
    try:
        document: Any = json.loads(body)
        if document["status"] != "success":
            raise SignalError(f"Prometheus says {str(document.get('errorType', 'error'))[:64]}")
        if document["data"]["resultType"] != "matrix":
            raise SignalError("Prometheus answered with no ranges of samples")
        series = document["data"]["result"]
        if len(series) > MOST_SERIES:
            raise SignalError(f"Prometheus answered with {len(series)} series, more than {MOST_SERIES}: add matchers")
        for one in series:
            labels, (time_s, text) = one["metric"], one["values"][-1]
            if not math.isfinite(value := float(text)):
                continue
            who = "/".join(str(labels.get(label, "")) for label in by)
            samples[who].append(Sample(str(labels.get("__name__", "")), labels, value))
            at_s[who] = max(at_s[who], float(time_s))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise SignalError("the answer is not that of a Prometheus") from None
    return {who: Scrape(tuple(found), at_s[who]) for who, found in samples.items()}
