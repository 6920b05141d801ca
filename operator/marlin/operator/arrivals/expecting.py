"""What a history lets expect of the next epoch: the predictor that studies use, replayed over what was kept.

The epoch that runs while the next one is planned counts too, scaled up to its whole length, once most of it was
watched: thirty seconds before its end it is the newest that is known.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from marlin.operator.arrivals.history import History
from marlin.operator.core.fleet import Forecast
from marlin.policy.forecasting import PredictorSettings, parts_of, predict, replay
from marlin.simulator.fleet import MEAN_OUTPUT_TOKENS, MEAN_PROMPT_TOKENS

_MOST_OF_AN_EPOCH: Final = 0.7
_DAY_S: Final = 86_400.0


def forecasts(history: History, epoch: int) -> dict[str, Forecast]:
    """Pool to what is expected of it in ``epoch``; pools of which nothing is known are missing.

    Args:
        history: what was seen.
        epoch: the epoch to plan: the one that runs, or the next.
    """
    rows = {pool: list(row) for pool, row in history.requests.items()}
    last, running = history.last, history.running
    if running is not None and running.epoch < epoch and running.watched_s >= _MOST_OF_AN_EPOCH * history.epoch_s:
        seen, length = running.requests(), max((len(row) for row in rows.values()), default=0)
        scale = history.epoch_s / running.watched_s
        gap = 0 if last is None else running.epoch - 1 - last
        for pool in {*rows, *seen}:
            rows[pool] = [*rows.get(pool, [None] * length), *[None] * gap, scale * seen.get(pool, 0.0)]
        last = running.epoch
    if last is None:
        return {}
    by_start: dict[int, list[str]] = defaultdict(list)
    for pool, row in rows.items():
        known = [i for i, count in enumerate(row) if count is not None]
        if known:
            by_start[known[0]].append(pool)
    # Epochs between the last one seen and the one to plan are gaps: the predictor fills them with what it expected.
    ahead = max(0, epoch - 1 - last)
    settings = PredictorSettings(epochs_per_day=max(1, round(_DAY_S / history.epoch_s)))
    found: dict[str, Forecast] = {}
    for begin, pools in by_start.items():
        table = np.array([[np.nan if c is None else c for c in rows[pool][begin:]] for pool in pools]).T  # (T, C)
        table = np.concatenate([table, np.full((min(ahead, settings.epochs_per_day), len(pools)), np.nan)])
        learnt = replay(table, settings)
        expected, parts = predict(learnt), parts_of(learnt)
        for c, pool in enumerate(pools):
            prompt, output = history.tokens.get(pool, (MEAN_PROMPT_TOKENS, MEAN_OUTPUT_TOKENS))
            found[pool] = Forecast(
                requests=float(expected.expected[c]),
                upper_requests=max(float(expected.expected[c]), float(expected.high[c])),
                parts=tuple(float(x) for x in parts[:, c]),
                mean_prompt_tokens=prompt,
                mean_output_tokens=output,
                origin_shares=history.origins.get(pool, {}),
            )
    return found
