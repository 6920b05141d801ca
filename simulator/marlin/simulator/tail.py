"""How the time to first token is spread around its mean: the chance that a request waits longer than a time.

At a replica a request finds either nothing to do and is read at once, or a batch that decodes: then it waits for the
rest of the step under way (anything up to one step), perhaps for prompts before it (with the chance that the replica
is reading, exponential with the mean of ``load_curves``), its prompt is read, and the batch's next step ends. Prompts
have the shipped lengths. The network is added by whoever asks, by asking about a shorter time.

Compared with every request simulated in docs/explanation/validation.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from marlin.simulator.load_curves import LoadCurves, TokenSizes, load_curves
from marlin.simulator.physics import FloatArray
from marlin.simulator.replica import ReplicaModel

TIMES_S: Final = np.geomspace(0.002, 200.0, 97)
"""(T,) times at which the chance is worked out; between them it is linear in the logarithm."""

_PROMPTS: Final = 20
"""Groups of prompts by length."""
_TINY: Final = 1e-12


@lru_cache(maxsize=4096)
def exceedance(model: ReplicaModel, sizes: TokenSizes, arrival_scv: float) -> FloatArray:
    """Chance that the first token takes longer than each of ``TIMES_S``, without network, at each knot: (K, T).

    Always by our reading of equation (3); the paper's is a mean that has no distribution.
    """
    curves = load_curves(model, sizes, arrival_scv)
    prompts, _ = sizes.sample()
    groups = np.sort(model.prefill_s(prompts)).reshape(_PROMPTS, -1).mean(axis=1)  # (P,)
    return _exceedance(curves, groups)


def interpolate(table: FloatArray, times_s: FloatArray) -> FloatArray:
    """A table (K, T) over ``TIMES_S`` at other times (...): (K, ...); 1 before the first and 0 after the last."""
    position = (np.log(np.maximum(times_s, _TINY)) - np.log(TIMES_S[0])) / np.log(TIMES_S[1] / TIMES_S[0])
    low = np.clip(np.floor(position).astype(np.int64), 0, len(TIMES_S) - 2)
    part = np.clip(position - low, 0.0, 1.0)
    values = table[..., low] * (1.0 - part) + table[..., low + 1] * part
    return np.asarray(np.where(position < 0, 1.0, np.where(position > len(TIMES_S) - 1, 0.0, values)))


def _exceedance(curves: LoadCurves, groups: FloatArray) -> FloatArray:
    left = TIMES_S[None, :] - groups[:, None]  # (P, T) time left beside the reading of the prompt
    at_once = (left < 0).mean(axis=0)  # (T,)
    # Busy: uniform over one to two steps, and with chance `reading` an exponential wait on top.
    step_s = curves.step_s[:, None, None]  # (K, 1, 1)
    waiting = np.clip(curves.reading, _TINY, 1.0)[:, None, None]
    mean_s = np.maximum(curves.wait_s[:, None, None] / waiting, 1e-6)
    uniform = np.clip((left - step_s) / step_s, 0.0, 1.0)  # (K, P, T) chance that the steps are over
    late = np.maximum(left - 2.0 * step_s, 0.0)
    early = np.maximum(left - step_s, 0.0)
    both = uniform - mean_s / step_s * (np.exp(-late / mean_s) - np.exp(-early / mean_s))
    done = ((1.0 - waiting) * uniform + waiting * np.clip(both, 0.0, 1.0)).mean(axis=1)  # (K, T)
    alone = curves.alone[:, None]
    return np.asarray(alone * at_once + (1.0 - alone) * (1.0 - done))
