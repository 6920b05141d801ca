"""Transitions with everything that relabelling needs, in rings of fixed size.

The plans that were tried in the same epoch stay together: they met the same requests, so that what one earned more than
another is the plans' doing alone (``sac.apart``). A transition does not hold a reward but its parts, so that it
can be read again as if somebody with another preference had been there (hindsight), or another agent (cross-labelling).
Two rings, as in the paper: one for the present epochs, one that keeps a sample of all epochs before; ``mixed`` draws
from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from marlin.policy.networks.parameters import AGENTS
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.reward import RewardSettings, Terms

PRESENT: Final = 20_000
PAST: Final = 5_000
"""Transitions held (section 6); several fleets have their parts of them, or a day each. Rings count epochs, which hold
as many transitions as plans were tried in them."""
PRESENT_PART: Final = 0.3
"""Part of a batch that is drawn from the present; the rest is the past (section 6)."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Transitions:
    """N epochs of single lanes, in each of which the same M plans' outcomes are known."""

    observation: Floats  # (N, F)
    shares: Floats  # (N, M, V, D)
    fill: Floats  # (N, M, V, D)
    margin: Floats  # (N, M, V, D)
    gain: Floats  # (N, M, 4)
    trend: Floats  # (N, M, 4)
    asleep: Floats  # (N, M)
    late: Floats  # (N, M)
    following: Floats  # (N, M, F)

    @classmethod
    def of(cls, observation: Floats, tried: Sequence[tuple[Intent, Terms, Floats]]) -> Self:
        """What N lanes leave that saw ``observation`` (N, F).

        Args:
            observation: before the epoch.
            tried: M times an intent (N, V, D), what it earned, and what was seen after it (N, F).
        """
        each = [
            (intent.shares, intent.fill, intent.margin, terms.gain, terms.trend, terms.asleep, terms.late, following)
            for intent, terms, following in tried
        ]
        parts = (np.stack(part, axis=1) for part in zip(*each, strict=True))
        return cls(*(np.asarray(part, dtype=np.float32) for part in (observation, *parts)))

    def __len__(self) -> int:
        """N."""
        return len(self.observation)

    def take(self, index: NDArray[np.int64]) -> Transitions:
        """Some of them."""
        return Transitions(*(getattr(self, f.name)[index] for f in fields(self)))

    def rewards(self, preference: Floats, settings: RewardSettings) -> Floats:
        """(..., M, N) what they are worth to whoever goes by ``preference`` (..., N, 4).

        Losses are tamed: a plan that lets a queue form loses a hundred times what a good one can gain, and critics that
        have to fit such numbers know nothing of the rest.
        """
        own = (preference[..., None, :] * (tamed(self.gain) + settings.trend * tamed(self.trend))).sum(axis=-1)
        earned = own + settings.asleep * self.asleep - settings.late * self.late  # (..., N, M)
        return np.asarray(earned.swapaxes(-1, -2), dtype=np.float32)


def tamed(gain: Floats) -> Floats:
    """Gains as they are; losses beyond a mean epoch's own size grow with the logarithm. Any shape, and monotonous."""
    beyond = np.maximum(-1.0 - gain, 0.0)
    return np.asarray(np.maximum(gain, -1.0) - np.log1p(beyond), dtype=np.float32)


@dataclass(slots=True)
class Ring:
    """The last so many epochs."""

    size: int
    held: int = 0
    _next: int = 0
    _rows: dict[str, Floats] = field(default_factory=dict)

    def add(self, new: Transitions) -> None:
        """Keeps them; the oldest go."""
        where = (self._next + np.arange(len(new))) % self.size
        for f in fields(new):
            values = getattr(new, f.name)
            if f.name not in self._rows:
                self._rows[f.name] = np.zeros((self.size, *values.shape[1:]), dtype=np.float32)
            self._rows[f.name][where] = values
        self._next = int((self._next + len(new)) % self.size)
        self.held = min(self.held + len(new), self.size)

    def place(self) -> tuple[int, int]:
        """How many are held, and where the next one goes."""
        return self.held, self._next

    def rows(self) -> dict[str, Floats]:
        """All of it, by part; not a copy."""
        return self._rows

    def put(self, rows: dict[str, Floats], place: tuple[int, int]) -> None:
        """What ``rows`` and ``place`` gave, back again."""
        self._rows, (self.held, self._next) = rows, place

    def draw(self, rng: np.random.Generator, count: int) -> Transitions:
        """``count`` of those held, with repetition."""
        return Transitions(**self._rows).take(rng.integers(self.held, size=count))


@dataclass(slots=True)
class Memory:
    """The two rings."""

    present: Ring = field(default_factory=lambda: Ring(PRESENT))
    past: Ring = field(default_factory=lambda: Ring(PAST))

    def add(self, new: Transitions) -> None:
        """Into the present."""
        self.present.add(new)

    def end_of_epoch(self, rng: np.random.Generator, count: int) -> None:
        """A sample of the present joins the past (Algorithm 1, line 15)."""
        if self.present.held:
            self.past.add(self.present.draw(rng, count))

    def mixed(self, rng: np.random.Generator, count: int) -> Transitions:
        """A batch: 30 % of the present, 70 % of the past; all of the present while there is no past."""
        if not self.past.held:
            return self.present.draw(rng, count)
        parts = round(PRESENT_PART * count)
        one, other = self.present.draw(rng, parts), self.past.draw(rng, count - parts)
        return Transitions(
            *(np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(Transitions))
        )


def relabelled(rng: np.random.Generator, count: int) -> Floats:
    """(4, N, 4) preferences under which each agent reads a batch of N.

    A third as its own metric, a third as its own and anybody's mixed, a third as anybody's: another agent's too
    (hindsight and cross-labelling), so that one actor covers the simplex.
    """
    own = np.repeat(np.eye(AGENTS)[:, None], count, axis=1)
    # Corners and edges of the simplex as often as its inside: users who want one or two things are many.
    anybody = np.where(
        rng.random((AGENTS, count, 1)) < 0.5,
        rng.dirichlet(np.ones(AGENTS), (AGENTS, count)),
        rng.dirichlet(np.full(AGENTS, 0.1), (AGENTS, count)),
    )
    kind = rng.integers(3, size=(AGENTS, count, 1))
    part = np.where(kind == 1, rng.random((AGENTS, count, 1)), kind / 2.0)
    return np.asarray((1.0 - part) * own + part * anybody, dtype=np.float32)
