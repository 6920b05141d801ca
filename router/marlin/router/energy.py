"""How much energy a token takes at a backend now: it follows the requests that the backend holds.

The table says what a token takes at moderate load, and by what that is to be multiplied when a backend holds so many
requests (``view.Backend``): replicas that are hardly used draw nearly as much as full ones, and few tokens bear it.
``plane`` looks at what each backend holds once a second, whoever sent it, and keeps the mean of the last minute.

One request more or less is chance: of few requests the mean has to be long. A step is not: where what is held lies
further from the mean than chance explains, the mean begins anew, so that it follows a new plan within seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

LOOK_S: Final = 1.0
"""Between two looks."""

WINDOW: Final = 60
"""Looks that the mean goes back."""

STEP: Final = 4.0
"""A change of more than so many standard deviations is no chance. Requests that come and go by themselves vary by the
square root of their mean (M/G/infinity); one is added, because of none the deviation would be none."""


class HeldMean:
    """The mean of what a backend holds.

    Attributes:
        value: requests.
    """

    __slots__ = ("_looks", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._looks = 0

    def add(self, held: float) -> None:
        """Takes a look into account.

        Args:
            held: requests there now.
        """
        off = held - self.value
        if self._looks == 0 or off * off > STEP * STEP * (self.value + 1.0):
            self.value, self._looks = held, 1
            return
        self._looks = min(self._looks + 1, WINDOW)
        self.value += off / self._looks


def factor_at(in_flight: Sequence[float], factor: Sequence[float], held: float) -> float:
    """What a token takes over the table's figure, when a backend holds ``held`` requests.

    Args:
        in_flight: (N,) requests, growing and positive; empty: the table's figure holds at every load.
        factor: (N,) positive, at each of them; read on logarithmic scales between, constant before and after.
        held: requests there.
    """
    if not in_flight:
        return 1.0
    after = bisect_right(in_flight, held)
    if after == 0:
        return factor[0]
    if after == len(in_flight):
        return factor[-1]
    low, high = in_flight[after - 1], in_flight[after]
    along = math.log(held / low) / math.log(high / low)
    return math.exp(math.log(factor[after - 1]) * (1.0 - along) + math.log(factor[after]) * along)
