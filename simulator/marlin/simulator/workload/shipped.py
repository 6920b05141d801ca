"""The traces that the package brings: a week of BurstGPT, and the six days of Azure 2024."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from marlin.simulator import tables
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.facts import fact
from marlin.simulator.workload.sizes import mean_pair, sizes_from_totals
from marlin.simulator.workload.trace import S_PER_HOUR, Trace

BURSTGPT_CLASSES: Final = ("conversation", "api")


@cache
def shipped_week() -> Trace:
    """Seven local days of BurstGPT, trace days 17 to 23: six whole days UTC."""
    hours = tables.rows("burstgpt_week_hourly.csv")
    totals = np.array([float(row["mean_tokens_per_request"]) for row in tables.rows("burstgpt_week_daily.csv")])
    return Trace(
        name="the shipped week",
        classes=BURSTGPT_CLASSES,
        counts=np.array([[int(row[f"{name}_requests"]) for name in BURSTGPT_CLASSES] for row in hours]),
        period_s=S_PER_HOUR,
        mean_tokens=sizes_from_totals(totals),
        large_share=burstgpt_large_shares(),
        utc_offset_h=int(fact("trace_utc_offset_h")),
    )


@cache
def shipped_azure_2024() -> Trace:
    """Six days of the Azure conversation service, May 2024, hours UTC: smooth days, two hundred times as busy.

    The hourly counts come without token sizes: those of the 2023 conversation trace stand in (assumption).
    """
    hours = tables.rows("azure2024_hourly.csv")
    counts = np.array([[int(row["requests"])] for row in hours])
    return Trace(
        name="azure2024",
        classes=("conversation",),
        counts=counts,
        period_s=S_PER_HOUR,
        mean_tokens=np.tile(mean_pair(), (len(counts) // 24, 1)),
        large_share=total_large_share(1),
    )


def burstgpt_large_shares() -> FloatArray:
    """Share of the larger model (2,) among conversation and among api requests; assumption, see the facts' ``how``."""
    return np.array([fact("conversation_share_large"), fact("api_share_large")])


def total_large_share(classes: int) -> FloatArray:
    """The share of the larger model (C,) for traces that do not tell: BurstGPT's over all requests (assumption)."""
    return np.full(classes, fact("total_share_large"))
