"""What the network takes when rows of origins are written to a plan's shares: of many plans at once, nearly.

A plan with rows (``origins``) has the least network time that its shares allow, and finding it is a linear program for
each plan and model: milliseconds. Whoever tries hundreds of plans asks here instead. A little entropy makes the same
transport problem smooth (Sinkhorn's scaling), and then a few products of matrices solve it for all plans at once, a
few milliseconds too dear. For judging plans, never for carrying one out.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState

_BLUR_S: Final = 0.01
"""Round trips that differ by less are told apart badly; with less more rounds are needed."""

_ROUNDS: Final = 40

_LEAST: Final = 1e-9
"""Part of a model's requests below which a site or an origin counts as having none."""


def nearby_rtt_s(twin: TwinState, shares: FloatArray) -> FloatArray:
    """(N, V, D) mean round trip of what each site gets under shares (N, V, D), each origin's requests kept near it."""
    wanted = np.maximum(shares / shares.sum(axis=2, keepdims=True), _LEAST)
    volume = np.maximum(twin.origin_share, _LEAST)  # (V, R)
    # What an origin has in common to all sites changes nothing.
    kernel = np.exp((twin.rtt_s.min(axis=1, keepdims=True) - twin.rtt_s) / _BLUR_S) + 1e-300  # (R, D)
    of_site = np.ones_like(wanted)
    of_origin = volume / (of_site @ kernel.T)
    for _ in range(_ROUNDS):
        of_site = wanted / np.maximum(of_origin @ kernel, 1e-290)
        of_origin = volume / np.maximum(of_site @ kernel.T, 1e-290)
    flow = of_origin @ kernel
    seconds = of_origin @ (kernel * twin.rtt_s)
    return np.asarray(seconds / np.maximum(flow, 1e-290))
