"""How fast an engine is, from what it did in many windows: least squares over what its counters say.

An iteration is taken to last ``base_s + per_request_s x (requests written for) + per_prompt_token_s x (prompt tokens
read in it)``: one forward pass does both. Two means of a window follow from it, and both are rows of one linear problem
for the three constants (``w``: gaps between tokens, ``r``: reading of prompts):

- time between tokens: ``base + per_request x batch + per_prompt_token x (tokens that came in meanwhile)``. While
  somebody is written for, an iteration reads what came in during the one before.
- time from admission to first token: ``per_prompt_token x (own prompt and those read with it)``, and a step of those
  that are decoding where there are any. An arrival finds as many decoding as there are in the mean over time (arrivals
  are taken to be independent of the load).

Rows are relative to what was observed, so that a slow and a fast window count the same, and weighted by how much was
counted. A fit says for which loads it was seen and how far it is off; whether it may be planned with is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from marlin.operator.engines.counting import Window
from marlin.simulator.profiles import DEFAULT_MAX_BATCH

LEAST_WINDOWS: Final = 12
LEAST_REQUESTS: Final = 100
LEAST_SPREAD: Final = 2.0
"""Largest mean batch over the smallest, without which base and slope cannot be told apart."""
MOST_RESIDUAL: Final = 0.15
"""Relative error, root of the weighted mean square, above which the model does not describe the engines."""
_FULL_WEIGHT: Final = 100.0
"""Gaps, or ten times the requests, from which a row counts in full."""
_PASSES: Final = 4

Constants = tuple[float, float, float]
"""Base, per request and per prompt token, s."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One replica, as fitted."""

    prefill_tokens_per_s: float
    base_s: float
    """One decode step without anybody, s."""
    per_request_s: float
    """What a step grows by for each request, s."""
    samples: int
    residual: float
    """Relative error, root of the weighted mean square."""
    least_batch: float
    most_batch: float
    """Mean batches that it was seen at; what lies outside is extrapolated."""
    max_batch: int
    kv_capacity_tokens: int | None = None

    @property
    def decode_tokens_per_s(self) -> float:
        """Output tokens per second at ``max_batch``."""
        return self.max_batch / (self.base_s + self.per_request_s * self.max_batch)

    @property
    def single_stream_tokens_per_s(self) -> float:
        """Output tokens per second of a lone request."""
        return 1.0 / (self.base_s + self.per_request_s)


@dataclass(frozen=True, slots=True)
class NoFit:
    """Why there is none: reason of the condition ProfileCalibrated."""

    reason: str
    message: str


def fit(windows: Sequence[Window], kv_capacity_tokens: int | None = None, most_running: float = 0.0) -> Fit | NoFit:
    """The constants of the engines that did this.

    Args:
        windows: what they did; of all of them together, because a pool's replicas are taken to be alike.
        kv_capacity_tokens: tokens that fit into one engine's cache; None: not known.
        most_running: most requests that one of them was seen to run at once.
    """
    requests = sum(one.requests for one in windows)
    if len(windows) < LEAST_WINDOWS or requests < LEAST_REQUESTS:
        return NoFit("Collecting", "its engines have answered too few requests so far to tell how fast they are")
    batches = [one.batch for one in windows]
    if max(batches) < LEAST_SPREAD * min(batches):
        return NoFit(
            "Collecting", f"load has hardly varied so far (a mean batch of {min(batches):.1f} to {max(batches):.1f})"
        )
    constants: Constants | None = None
    for _ in range(_PASSES):
        rows, observed, weights = _rows(windows, constants)
        constants = _least_squares(rows, observed, weights)
        if constants is None:
            return NoFit("PoorFit", "what its engines report does not grow with what they have to do")
    assert constants is not None
    base_s, per_request_s, per_prompt_token_s = constants
    off = (rows @ np.array(constants) - observed) / observed
    residual = math.sqrt(float((weights * off**2).sum() / weights.sum()))
    if residual > MOST_RESIDUAL:
        said = f"engines differ by {residual:.0%} from what a common speed explains: are they of one kind?"
        return NoFit("PoorFit", said)
    return Fit(
        prefill_tokens_per_s=1.0 / per_prompt_token_s,
        base_s=base_s,
        per_request_s=per_request_s,
        samples=len(windows),
        residual=residual,
        least_batch=min(batches),
        most_batch=max(batches),
        max_batch=max(DEFAULT_MAX_BATCH, math.ceil(most_running)),
        kv_capacity_tokens=kv_capacity_tokens,
    )


def _rows(windows: Sequence[Window], known: Constants | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) coefficients of base, per request and per prompt token; (N,) what was observed, s; (N,) weights.

    Args:
        windows: what was seen.
        known: constants of an earlier pass, for the length of iterations; None: all take the mean.
    """
    rows, observed, weights = [], [], []
    for one in windows:
        rows.append((1.0, _met_batch(one.batch), one.prompt_tokens_per_s * one.gap_s))
        observed.append(one.gap_s)
        weights.append(min(1.0, one.gaps / _FULL_WEIGHT))
        if one.requests <= 0 or one.prefill_s <= 0:
            continue
        busy = min(1.0, one.decoding / one.batch)
        together = one.prompt_tokens + busy * one.prompt_tokens_per_s * _met_iteration_s(one, known)
        rows.append((busy, one.decoding, together))
        observed.append(one.prefill_s)
        weights.append(min(1.0, 10.0 * one.requests / _FULL_WEIGHT))
    return np.array(rows), np.array(observed), np.array(weights)


def _met_batch(mean: float) -> float:
    """Mean batch that a token is in, from the mean over iterations: large ones hold more tokens.

    Of numbers of chance (Poisson) whose mean is ``mean`` where they are not 0: one and the mean of all.
    """
    all_ = mean
    for _ in range(20):
        all_ = mean * (1.0 - math.exp(-all_))
    return 1.0 + all_


def _met_iteration_s(one: Window, known: Constants | None) -> float:
    """Mean length of the iteration that an arrival waits for, s: long ones are met more often than short ones.

    What comes in during an iteration is read in the next. Their number is taken to be of chance (Poisson) and prompts
    to be as different as of chance (a standard deviation of their mean), so that E[d^2] / E[d] follows from the means.
    """
    if known is None or one.prompt_tokens <= 0:
        return one.gap_s
    base_s, per_request_s, per_prompt_token_s = known
    step_s = base_s + per_request_s * one.batch
    prompts = one.prompt_tokens_per_s / one.prompt_tokens * one.gap_s
    prompt_s = per_prompt_token_s * one.prompt_tokens
    mean_s = step_s + prompts * prompt_s
    return mean_s + 2.0 * prompts * prompt_s**2 / mean_s


def _least_squares(rows: np.ndarray, observed: np.ndarray, weights: np.ndarray) -> Constants | None:
    """(3,) constants; a slope that comes out negative is none. None where the others are not positive."""
    scale = np.sqrt(weights) / observed  # (N,)
    target = scale * observed
    for columns in ([0, 1, 2], [0, 2]):
        found, _, rank, _ = np.linalg.lstsq(rows[:, columns] * scale[:, None], target, rcond=None)
        if rank < len(columns):
            return None
        solved = np.zeros(3)
        solved[columns] = found
        if solved[1] >= 0:
            break
    base_s, per_request_s, per_prompt_token_s = (float(x) for x in solved)
    return (base_s, per_request_s, per_prompt_token_s) if base_s > 0 and per_prompt_token_s > 0 else None
