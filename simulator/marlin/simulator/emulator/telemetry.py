"""Counters, gauges and histograms of one server, and their Prometheus text.

Plain numbers, because a batch of 200 streams gives hundreds of thousands of observations a second and most of them
are alike: ``Histogram.observe`` takes a count. A collector hands them to prometheus_client, which writes the text,
``_created`` gauges included. Gauges are asked for when they are scraped.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from marlin.simulator.emulator.families import CACHE_CONFIG, FAMILIES, TOKEN_DECADES, Family, token_decades

Labels = tuple[str, ...]

BLOCK_TOKENS: Final = 16
"""Tokens of a block of KV memory, as vLLM on a GPU; only shown, not computed with."""


@dataclass(slots=True)
class Histogram:
    """Observations in buckets."""

    bounds: tuple[float, ...]
    counts: list[float] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0.0] * (len(self.bounds) + 1)

    def observe(self, value: float, count: int = 1) -> None:
        """Adds ``count`` observations of ``value``."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


@dataclass(slots=True)
class _Child:
    created_s: float
    value: float = 0.0
    observations: float = 0.0
    histogram: Histogram | None = None


@dataclass(slots=True)
class Telemetry:
    """All metrics of one server."""

    model: str
    max_model_len: int
    clock: Callable[[], float] = time.time
    """Unix time, s: for the ``_created`` gauges."""
    gauges: dict[tuple[str, Labels], Callable[[], float]] = field(default_factory=dict)
    """(family, labels) to what is asked at each scrape."""
    info: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine to the labels of its cache configuration."""
    _children: dict[str, dict[Labels, _Child]] = field(default_factory=dict)
    _families: dict[str, Family] = field(default_factory=lambda: {family.name: family for family in FAMILIES})

    def add_engine(self, engine: str, kv_capacity_tokens: int) -> None:
        """Shows the families of one engine from now on, at zero."""
        for family in FAMILIES:
            if family.labels is not None or family.name == "vllm:cache_config_info":
                continue
            for value in family.split[1] if family.split else (None,):
                extra = () if value is None else (value,)
                self._child(family.name, (engine, *extra) if family.per_engine else extra)
        self.gauges["vllm:engine_sleep_state", (engine, "awake")] = lambda: 1.0
        self.info[engine] = {
            **CACHE_CONFIG,
            "engine": engine,
            "block_size": str(BLOCK_TOKENS),
            "effective_attention_block_size": str(BLOCK_TOKENS),
            "num_gpu_blocks": str(kv_capacity_tokens // BLOCK_TOKENS),
            "kv_cache_size_tokens": str(kv_capacity_tokens // BLOCK_TOKENS * BLOCK_TOKENS),
            "kv_cache_max_concurrency": str(round(kv_capacity_tokens / self.max_model_len, 2)),
            "kv_cache_memory_bytes": "None",
        }

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Adds to a counter. Labels of the engine's families: engine, then the further one."""
        self._child(name, labels).value += by

    def observe(self, name: str, value: float, *labels: str, count: int = 1) -> None:
        """Adds observations to a histogram or summary."""
        child = self._child(name, labels)
        if child.histogram is not None:
            child.histogram.observe(value, count)
        else:
            child.value += value * count
            child.observations += count

    def text(self) -> bytes:
        """The exposition text, as vLLM's ``GET /metrics``."""
        registry = CollectorRegistry()
        GCCollector(registry)
        PlatformCollector(registry)
        ProcessCollector(registry=registry)
        registry.register(_Exposition(self))
        return generate_latest(registry)

    def metrics(self) -> Iterator[Metric]:
        """The families as prometheus_client wants them."""
        for family in FAMILIES:
            if family.name == "vllm:cache_config_info":
                metric = Metric(family.name, family.help, "gauge")
                for labels in self.info.values():
                    metric.add_sample(family.name, dict(labels), 1.0)
                yield metric
                continue
            children = self._children.get(family.name)
            if children:
                yield self._metric(family, children)

    def _metric(self, family: Family, children: Mapping[Labels, _Child]) -> Metric:
        base = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        metric = Metric(base, family.help, family.kind)
        for values, child in children.items():
            labels = self._labels(family, values)
            if family.kind == "gauge":
                ask = self.gauges.get((family.name, values))
                metric.add_sample(base, labels, ask() if ask else child.value)
                continue
            if child.histogram is not None:
                bounds = [str(bound) for bound in child.histogram.bounds] + ["+Inf"]
                cumulative = list(accumulate(child.histogram.counts))
                for bound, count in zip(bounds, cumulative, strict=True):
                    metric.add_sample(base + "_bucket", {**labels, "le": bound}, count)
                metric.add_sample(base + "_count", labels, cumulative[-1])
                metric.add_sample(base + "_sum", labels, child.histogram.total)
            elif family.kind == "summary":
                metric.add_sample(base + "_count", labels, child.observations)
                metric.add_sample(base + "_sum", labels, child.value)
            else:
                metric.add_sample(base + "_total", labels, child.value)
            metric.add_sample(base + "_created", labels, child.created_s)
        return metric

    def _labels(self, family: Family, values: Labels) -> dict[str, str]:
        if family.labels is not None:
            return dict(zip(family.labels, values, strict=True))
        names: Labels = ("engine",) if family.per_engine else ()
        if family.split:
            names += (family.split[0],)
        return {**dict(zip(names, values, strict=True)), "model_name": self.model}

    def _child(self, name: str, labels: Labels) -> _Child:
        children = self._children.setdefault(name, {})
        child = children.get(labels)
        if child is None:
            family = self._families[name]
            child = children[labels] = _Child(self.clock())
            if family.kind == "histogram":
                bounds = token_decades(self.max_model_len) if family.buckets == TOKEN_DECADES else family.buckets
                child.histogram = Histogram(tuple(float(bound) for bound in bounds))
        return child


class _Exposition(Collector):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        """All families."""
        return self._telemetry.metrics()

    def describe(self) -> list[Metric]:
        """Nothing: the registry is made anew for each scrape."""
        return []
