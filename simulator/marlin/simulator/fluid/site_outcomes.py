"""What one model does at each site, at many rates and with many awake replicas: tables for whoever optimises.

An epoch's outcome is a sum over (model, site) as long as every site gets what it can take; an optimiser that knows the
terms need not ask the engine about whole plans. The terms come from the same curves as the engine's, so that their sum
is the engine's outcome; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marlin.simulator.fluid.awake import Awake, at_load, sleepers_j
from marlin.simulator.fluid.coefficients import RPS, TINY, coefficients, conditions
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState


@dataclass(frozen=True, slots=True)
class SiteOutcomes:
    """One model at each site; N points per site, chosen by the caller."""

    it_j: FloatArray  # (D, N) IT energy of the model's replicas in the epoch: awake, asleep and waking
    ttft_s: FloatArray  # (D, N) mean time to first token, network included
    late: FloatArray  # (D, N) share of requests beyond the limit


def site_outcomes(twin: TwinState, model: int, rate_rps: FloatArray, awake: FloatArray) -> SiteOutcomes:
    """What ``rate_rps`` (D, N) does to a model's replicas of which ``awake`` (D, N) are kept awake.

    Rates beyond what the awake replicas carry are cut to it.
    """
    c, now = coefficients(twin).of_model(model), conditions(twin)
    rate = rate_rps[None, :, None]  # (V, D, 1, N), where V = 1
    kept = Awake.of(c, np.clip(awake[None, :, None], 0.0, c.all_replicas[:, :, None, None]))
    totals = kept.totals(c)
    load = np.minimum(rate / np.maximum(totals[RPS], TINY), 1.0)
    power_w, first_s, late = at_load(c, kept, totals[RPS], rate, load)
    it_j = power_w * c.epoch_s
    if c.sleeps.any():
        before = now.awake_before[0, model][None, :, None, None]
        it_j = it_j + sleepers_j(c, totals, Awake.of(c, before))
    return SiteOutcomes(it_j[0, :, 0], first_s[0, :, 0] + now.rtt_s[0, model][:, None], late[0, :, 0])


def awake_carrying(twin: TwinState, model: int, rate_rps: FloatArray) -> FloatArray:
    """(D, N) whole replicas that together have a capacity of ``rate_rps`` (D, N): least energy per request first.

    None where nothing is to be carried; all where they do not suffice, or where the model cannot power down.
    """
    c = coefficients(twin)
    everyone = np.broadcast_to(c.all_replicas[model][:, None], rate_rps.shape)
    if not c.sleeps[model]:
        return everyone.copy()
    needed = np.empty_like(rate_rps)
    for d in range(len(rate_rps)):
        needed[d] = np.interp(rate_rps[d], c.summed[model, d, :, RPS], c.before[model, d])
    return np.clip(np.ceil(needed - 1e-9), 0.0, everyone)
