"""What may be done to a plan a little at a time: a model's sites, one or all, fuller, emptier, more or less awake.

Moves are arrays, and so is what they make: a decision tries a few hundred, and to make each by itself took longer than
to try them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

_Ints = NDArray[np.int64]

SHARES: Final = 0
FILL: Final = 1
MARGIN: Final = 2

ALL: Final = -1
"""Instead of a site: all of the model's."""

_FILLS_OF_ALL: Final = (-3.0, -1.5, 1.5)
_MARGINS_OF_ALL: Final = (-1.5, 1.5)
"""Powers of a step that all sites of a model are moved by."""


@dataclass(frozen=True, slots=True)
class Moves:
    """M moves. A share is multiplied and the model's shares are made to add up again; a fill is at most 1."""

    part: _Ints  # (M,) SHARES, FILL or MARGIN
    model: _Ints  # (M,)
    site: _Ints  # (M,) or ALL
    factor: FloatArray  # (M,)

    def __len__(self) -> int:
        """M."""
        return len(self.part)

    def made(self, intent: Intent, row: _Ints, rows: int) -> Intent:
        """What comes of an intent (V, D) in each of some rows: (rows, V, D).

        Args:
            intent: as it is in a row without a move.
            row: (M,) which each move is made in; of one model's moves no two share one.
            rows: how many.
        """
        shares, fill, margin = (
            np.repeat(values[None], rows, axis=0) for values in (intent.shares, intent.fill, intent.margin)
        )
        for part, values in ((FILL, fill), (MARGIN, margin)):
            one, every = (self.part == part) & (self.site != ALL), (self.part == part) & (self.site == ALL)
            values[row[one], self.model[one], self.site[one]] *= self.factor[one]
            values[row[every], self.model[every]] *= self.factor[every, None]
        moved = self.part == SHARES
        place = row[moved], self.model[moved]
        of_model = shares[place]  # (M', D)
        of_model[np.arange(len(of_model)), self.site[moved]] *= self.factor[moved]
        whole = of_model.sum(axis=1, keepdims=True)
        # A model keeps the only site it has.
        shares[place] = np.where(whole > 0, of_model / np.where(whole > 0, whole, 1.0), shares[place])
        return Intent(shares, np.minimum(fill, 1.0), margin)

    def in_turn(self, intent: Intent, chosen: _Ints) -> Iterator[Intent]:
        """What comes of an intent (V, D) with the first of some moves, the first two of them, and so on.

        As ``made`` has it, move by move: for one row the arrays of a batch take longer than the change itself.
        """
        for part, v, d, factor in zip(
            *(values[chosen].tolist() for values in (self.part, self.model, self.site, self.factor)), strict=True
        ):
            parts = [intent.shares, intent.fill, intent.margin]
            changed = parts[part].copy()
            changed[v, slice(None) if d == ALL else d] *= factor
            if part == SHARES:
                whole = changed[v].sum()
                changed[v] = changed[v] / whole if whole > 0 else intent.shares[v]
            elif part == FILL:
                changed = np.minimum(changed, 1.0)
            parts[part] = changed
            intent = Intent(*parts)
            yield intent


def all_moves(intent: Intent, allowed: NDArray[np.bool_], step: float) -> Moves:
    """All that is tried by itself, of an intent (V, D): sites that are not ``allowed`` (V, D) are left alone."""
    models = len(allowed)
    v, d = np.nonzero(allowed)
    of_all = [FILL] * len(_FILLS_OF_ALL) + [MARGIN] * len(_MARGINS_OF_ALL)
    by_all = [step**power for power in (*_FILLS_OF_ALL, *_MARGINS_OF_ALL)]
    of_one, by_one = (MARGIN, MARGIN, FILL, FILL, SHARES, SHARES), (1.0 / step, step, 1.0 / step, step, 0.0, 2.0)
    # Where nothing goes there is no share to move.
    kept = np.repeat([[True] * 4 + [False] * 2], len(v), axis=0) | (intent.shares[v, d] > 0)[:, None]  # (C, 6)
    cell, way = np.nonzero(kept)
    return Moves(
        part=np.concatenate([np.tile(of_all, models), np.array(of_one)[way]]),
        model=np.concatenate([np.repeat(np.arange(models), len(of_all)), v[cell]]),
        site=np.concatenate([np.full(models * len(of_all), ALL), d[cell]]),
        factor=np.concatenate([np.tile(by_all, models), np.array(by_one)[way]]),
    )
