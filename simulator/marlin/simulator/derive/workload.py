"""Arrivals, token sizes, the hours people are awake, and what the trace says about bursts and the split of models."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Final

from marlin.simulator.derive.files import read, table
from marlin.simulator.profiles import ServingProfile, available_profiles, load_profile

# Days 17 to 23 of the trace. Among the weeks of the training days (0 to 27) in which both classes are busy, it is the
# one that a single burst dominates least (its largest hour is 10 times its mean; other weeks: up to 34) and in which
# the api class is silent in the fewest hours (27 of 168).
FIRST_DAY: Final = 17
DAYS: Final = 7
QUANTILES: Final = 20
TRACE_MODEL_SHARE_LARGE: Final = 0.104
"""Share of the trace's requests that went to the larger model (all three files; burstgpt_stats.csv)."""
PUBLISHED_MEAN_TOKENS: Final = {"prompt": 621, "output": 126}
"""Of a successful request (release notes of BurstGPT; burstgpt_stats.csv)."""
EPOCHS_PER_HOUR: Final = 4
TRAINING_DAYS: Final = 28
"""Trace days 0 to 27; what is fitted on the trace's shape sees no later day."""


def week_hourly(data: Path) -> bytes:
    """``burstgpt_week_hourly.csv``: requests per hour of the shipped week, by class; hours are the trace's local."""
    rows = (
        (int(r["day"]) - FIRST_DAY, int(r["hour"]), int(r["conversation"]), int(r["api"]))
        for r in read(data, "burstgpt/burstgpt1_hourly_counts.csv")
        if FIRST_DAY <= int(r["day"]) < FIRST_DAY + DAYS
    )
    return table(("day", "local_hour", "conversation_requests", "api_requests"), rows)


def week_daily(data: Path) -> bytes:
    """``burstgpt_week_daily.csv``: mean tokens per request, prompt and output together, of each day of the week."""
    rows = (
        (int(r["day"]) - FIRST_DAY, int(r["day"]), r["mean_tokens_per_request"])
        for r in read(data, "burstgpt/burstgpt1_daily.csv")
        if FIRST_DAY <= int(r["day"]) < FIRST_DAY + DAYS
    )
    return table(("day", "trace_day", "mean_tokens_per_request"), rows)


def token_quantiles(data: Path) -> bytes:
    """``token_quantiles.csv``: 400 equally likely (prompt, output) pairs that keep the joint shape and the means.

    The requests of the Azure 2023 conversation trace are cut into 20 equal groups by prompt length, each of these
    into 20 by output length; a pair holds the means of its group.
    """
    with (data / "azure_llm/AzureLLMInferenceTrace_conv.csv").open(encoding="utf-8", newline="") as file:
        pairs = [(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(file)]
    rows = []
    for by_prompt in _cut(sorted(pairs)):
        for group in _cut(sorted(by_prompt, key=lambda pair: (pair[1], pair[0]))):
            mean = [round(sum(pair[i] for pair in group) / len(group), 1) for i in (0, 1)]
            rows.append((mean[0], mean[1]))
    return table(("prompt_tokens", "output_tokens"), rows)


def _cut(items: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    edges = [round(i * len(items) / QUANTILES) for i in range(QUANTILES + 1)]
    return [items[a:b] for a, b in pairwise(edges)]


def azure_2024_hourly(data: Path) -> bytes:
    """``azure2024_hourly.csv``: requests per hour (UTC) of six days of the Azure conversation service, May 2024."""
    rows = read(data, "azure_llm/azure2024_conv_hourly.csv")
    dates = sorted({r["date_utc"] for r in rows})
    return table(
        ("day", "utc_hour", "requests"),
        ((dates.index(r["date_utc"]), int(r["hour_utc"]), int(r["requests"])) for r in rows),
    )


def hour_profile(data: Path) -> bytes:
    """``hour_profile.csv``: how a day's conversation requests fall on its local hours.

    People write conversation requests, programs the others. The mean of the training days' own shares, so that each
    day counts the same, however busy it was.
    """
    by_day: dict[int, list[int]] = defaultdict(lambda: [0] * 24)
    for row in read(data, "burstgpt/burstgpt1_hourly_counts.csv"):
        if int(row["day"]) < TRAINING_DAYS:
            by_day[int(row["day"])][int(row["hour"])] = int(row["conversation"])
    days = [hours for hours in by_day.values() if sum(hours)]
    return table(
        ("local_hour", "share"),
        ((h, round(sum(hours[h] / sum(hours) for hours in days) / len(days), 5)) for h in range(24)),
    )


def facts(data: Path) -> bytes:
    """``workload_facts.csv``: single numbers fitted on the trace, each with how."""
    conversation, api = large_model_shares(data)
    node_share = large_model_node_shares(data)
    rows = (
        ("epoch_concentration", round(epoch_concentration(data), 3),
         "Dirichlet parameter per 15 min epoch of the split of an hour; fitted on the minutes of days 0 to 6"),
        ("conversation_share_large", round(conversation, 3),
         "share of conversation requests for the larger model; from the first 400 rows, all conversation"),
        ("api_share_large", round(api, 3),
         "share of api requests for the larger model; what is left of the trace's 10.4 %, never below 0"),
        ("total_share_large", TRACE_MODEL_SHARE_LARGE,
         "share of all requests for the larger model, as published; for traces that do not tell"),
        *((f"mean_{part}_tokens", mean, "mean of successful requests, as published; where no day's own is known")
          for part, mean in PUBLISHED_MEAN_TOKENS.items()),
        ("large_model_node_share", round(sum(node_share.values()) / len(node_share), 3),
         "share of node-seconds that the larger model needs on trace days 0 to 27; mean of the two GPU types"),
        *((f"large_model_node_share_{gpu.split('-')[0].lower()}", round(share, 3), f"the same on {gpu}")
          for gpu, share in node_share.items()),
        ("trace_utc_offset_h", 8, "the trace's local time; assumption, its calendar is not published"),
    )  # fmt: skip
    return table(("name", "value", "how"), rows)


def large_model_shares(data: Path) -> tuple[float, float]:
    """Share of the larger model among conversation and among api requests.

    Only the total is published; the split is an assumption that agrees with it.
    """
    sample = read(data, "burstgpt/burstgpt1_first400_rows.csv")
    conversation = sum(r["Model"] == "GPT-4" for r in sample) / len(sample)
    hours = read(data, "burstgpt/burstgpt1_hourly_counts.csv")
    n_conversation = sum(int(r["conversation"]) for r in hours)
    n_api = sum(int(r["api"]) for r in hours)
    left = TRACE_MODEL_SHARE_LARGE * (n_conversation + n_api) - conversation * n_conversation
    return conversation, max(0.0, left / n_api)


def large_model_node_shares(data: Path) -> dict[str, float]:
    """Share of node-seconds that the larger model needs on the training days, by GPU type.

    A request keeps ``tensor_parallel`` GPUs busy for prefill + (T - 1) x step(b) / b seconds, b being the largest batch
    (marlin-model, section 3), at its day's mean tokens and the shipped shape around them. How many GPUs a node has
    does not matter: the smallest tensor parallelism divides all of them. The serving profiles are the shipped ones.
    """
    large = dict(zip(("conversation", "api"), large_model_shares(data), strict=True))
    requests: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])  # day to requests for the smaller, larger model
    for row in read(data, "burstgpt/burstgpt1_hourly_counts.csv"):
        for name, share in large.items():
            requests[int(row["day"])][0] += int(row[name]) * (1.0 - share)
            requests[int(row["day"])][1] += int(row[name]) * share
    pairs = list(csv.DictReader(io.StringIO(token_quantiles(data).decode())))
    shape = [(float(r["prompt_tokens"]), float(r["output_tokens"])) for r in pairs]
    sums = [sum(pair[i] for pair in shape) for i in (0, 1)]
    shares = {}
    for gpu in ("A100-80GB", "H100-80GB"):
        needed = [0.0, 0.0]  # GPU-seconds of the smaller and the larger model
        profiles = [_smallest_profile(model, gpu) for model in ("Llama-2-7b", "Llama-2-70b")]
        for row in read(data, "burstgpt/burstgpt1_daily.csv"):
            if int(row["day"]) >= TRAINING_DAYS:
                continue
            factor = float(row["mean_tokens_per_request"]) / sum(sums)
            sizes = [(p * factor * len(shape), o * factor * len(shape)) for p, o in shape]
            for v, profile in enumerate(profiles):
                needed[v] += requests[int(row["day"])][v] * _gpu_s_per_request(profile, sizes)
        shares[gpu] = needed[1] / sum(needed)
    return shares


def _smallest_profile(model: str, gpu: str) -> ServingProfile:
    return load_profile(model, gpu, min(n for m, g, n in available_profiles() if (m, g) == (model, gpu)))


def _gpu_s_per_request(profile: ServingProfile, sizes: list[tuple[float, float]]) -> float:
    """GPU-seconds of a mean request at the largest batch that memory allows."""
    outputs = [max(output, 1.0) for _, output in sizes]
    # A request met in flight holds its prompt and half of its answer; long answers are met more often.
    held = sum(o * (p + o / 2) for (p, _), o in zip(sizes, outputs, strict=True)) / sum(outputs)
    batch = profile.batch_limit(held)
    prefill_s = sum(profile.prefill_s(prompt) for prompt, _ in sizes) / len(sizes)
    steps = sum(outputs) / len(outputs) - 1.0
    return profile.tensor_parallel * (prefill_s + steps * profile.step_s(batch) / batch)


def epoch_concentration(data: Path) -> float:
    """How unevenly an hour's requests fall on its four epochs, as a Dirichlet parameter; infinity would be evenly.

    For shares p of an hour's tokens, E[sum p^2] = 1/m + (1 - 1/m) k with k = (a + 1) / (4 a + 1), where m is the
    hour's number of requests, corrected for the spread of token sizes. k is fitted by least squares over the hours.
    """
    tokens: dict[int, list[float]] = defaultdict(lambda: [0.0] * EPOCHS_PER_HOUR)
    for row in read(data, "burstgpt/burstgpt1_week1_minute_tokens.csv"):
        minute = int(row["minute"])
        tokens[minute // 60][minute % 60 // 15] += float(row["tokens_per_s"])
    sizes = [int(r["Total tokens"]) for r in read(data, "burstgpt/burstgpt1_first400_rows.csv")]
    sizes = [size for size in sizes if size > 0]
    mean = sum(sizes) / len(sizes)
    spread = 1.0 + sum((size - mean) ** 2 for size in sizes) / len(sizes) / mean**2
    above = below = 0.0
    for row in read(data, "burstgpt/burstgpt1_hourly_counts.csv"):
        hour, requests = int(row["day"]) * 24 + int(row["hour"]), int(row["all"])
        quarters = tokens.get(hour, [0.0])
        if requests < EPOCHS_PER_HOUR or not (total := sum(quarters)):
            continue
        noise = min(1.0, spread / requests)
        measured = sum((q / total) ** 2 for q in quarters)
        above += (measured - noise) * (1.0 - noise)
        below += (1.0 - noise) ** 2
    k = above / below
    return (1.0 - k) / (EPOCHS_PER_HOUR * k - 1.0)
