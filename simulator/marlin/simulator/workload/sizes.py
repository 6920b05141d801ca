"""How long requests are: one joint shape of prompt and output, and each day's means.

The shape is that of the Azure 2023 conversation requests, as 400 equally likely pairs (data/README.md); the means are
each day's own, because they vary sevenfold between days. Both engines use the same shape, so that a long prompt means
the same to both.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from marlin.simulator import tables
from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.facts import fact


def token_shape() -> FloatArray:
    """Equally likely pairs (S, 2) of prompt and output tokens, each divided by its mean; read-only."""
    pairs = _pairs()
    shape = pairs / pairs.mean(axis=0)
    shape.setflags(write=False)
    return np.asarray(shape)


def mean_pair() -> FloatArray:
    """Mean prompt and output tokens (2,) of the shipped pairs."""
    return np.asarray(_pairs().mean(axis=0))


def sizes_from_totals(total_tokens: FloatArray) -> FloatArray:
    """Mean prompt and output tokens (..., 2) where only their sum (...) is known: split as in the shipped pairs."""
    pair = mean_pair()
    return np.asarray(total_tokens[..., None] * (pair / pair.sum()))


def published_sizes() -> FloatArray:
    """Mean prompt and output tokens (2,) of successful BurstGPT requests, where no day's own are known."""
    return np.array([fact("mean_prompt_tokens"), fact("mean_output_tokens")])


@cache
def _pairs() -> FloatArray:
    rows = tables.rows("token_quantiles.csv")
    return np.array([(float(row["prompt_tokens"]), float(row["output_tokens"])) for row in rows])
