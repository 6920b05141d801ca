"""A router's counters as it exposes them, and what came in between two readings: pure.

A counter that fell was started anew, so that all it shows is new. A router that was not seen before gives a first
reading and no arrivals: what it counted before is of no known time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from marlin.operator.scraping.samples import Sample, of_page
from marlin.operator.signals.http import SignalError

PREFIX: Final = "marlin_router_"

_READ: Final = (
    "requests_total",
    "requests_without_estimate_total",
    "tokens_total",
    "in_flight",
    "ttft_seconds_count",
    "ttft_seconds_sum",
)
NAMES: Final = tuple(f"{PREFIX}{name}" for name in _READ)
"""All that is read."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one router by pool, or what was added to them."""

    requests: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    """Requests whose tokens are known."""
    prompt_tokens: Mapping[str, float] = field(default_factory=dict)
    output_tokens: Mapping[str, float] = field(default_factory=dict)
    first_tokens: Mapping[str, float] = field(default_factory=dict)
    """Event streams whose first token was timed."""
    first_token_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds until then, all of them together."""

    def plus(self, other: Counts) -> Counts:
        """The sum."""
        return Counts(
            *(
                {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {*a, *b}}
                for a, b in zip(self.parts(), other.parts(), strict=True)
            )
        )

    def times(self, factor: float) -> Counts:
        """A part of them."""
        return Counts(*({name: value * factor for name, value in part.items()} for part in self.parts()))

    def parts(self) -> tuple[Mapping[str, float], ...]:
        """All of them, in order."""
        return (
            self.requests,
            self.measured,
            self.prompt_tokens,
            self.output_tokens,
            self.first_tokens,
            self.first_token_s,
        )


@dataclass(frozen=True, slots=True)
class RouterPage:
    """What a router's /metrics page says."""

    counts: Counts
    in_flight: Mapping[tuple[str, str], float]
    """(pool, site) to requests there now."""


def page_of(exposition: bytes) -> RouterPage:
    """What a router's /metrics page says.

    Raises:
        SignalError: it is not such a page.
    """
    return page_of_samples(of_page(exposition, PREFIX))


def page_of_samples(samples: Iterable[Sample]) -> RouterPage:
    """The same, of samples.

    Raises:
        SignalError: they are not of a router.
    """
    requests: defaultdict[str, float] = defaultdict(float)
    answered: defaultdict[str, float] = defaultdict(float)
    unknown: defaultdict[str, float] = defaultdict(float)
    tokens: dict[str, defaultdict[str, float]] = {"prompt": defaultdict(float), "output": defaultdict(float)}
    timed: defaultdict[str, float] = defaultdict(float)
    timed_s: defaultdict[str, float] = defaultdict(float)
    in_flight: defaultdict[tuple[str, str], float] = defaultdict(float)
    is_router = False
    for sample in samples:
        is_router |= sample.name.startswith(PREFIX)
        pool = sample.labels.get("pool", "")
        match sample.name.removeprefix(PREFIX):
            case "requests_total":
                requests[pool] += sample.value
                answered[pool] += sample.value if sample.labels.get("code", "").startswith("2") else 0.0
            case "requests_without_estimate_total" if sample.labels.get("reason") == "no_usage":
                unknown[pool] += sample.value
            case "tokens_total" if sample.labels.get("kind") in tokens:
                tokens[sample.labels["kind"]][pool] += sample.value
            case "in_flight":
                in_flight[pool, sample.labels.get("datacenter", "")] += max(0.0, sample.value)
            case "ttft_seconds_count":
                timed[pool] += sample.value
            case "ttft_seconds_sum":
                timed_s[pool] += sample.value
    if not is_router:
        raise SignalError("the page is not that of a MARLIN router's admin port")
    measured = {pool: max(0.0, answered[pool] - unknown[pool]) for pool in answered}
    by_kind = (dict(tokens["prompt"]), dict(tokens["output"]))
    return RouterPage(Counts(dict(requests), measured, *by_kind, dict(timed), dict(timed_s)), dict(in_flight))


def increase(now: Counts, before: Counts) -> Counts:
    """What was added since ``before``."""
    return Counts(
        *(
            {name: value - old if value >= (old := was.get(name, 0.0)) else value for name, value in part.items()}
            for part, was in zip(now.parts(), before.parts(), strict=True)
        )
    )
