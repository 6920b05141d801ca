"""Critics on the blends of a few intents: what phase 2 asks, for a part of what asking them one by one takes.

All that a negotiation looks at are blends of the same four proposals, and before its rectifiers the first layer is
linear. So a unit of it that is on, or off, in a row at all four proposals is so at every blend of them and is there the
blend of what it is at the four: what it passes on is worked out once for each proposal, and then blended. Only units
that switch between the proposals are looked at anew, and they are few, because an intent is four of forty numbers that
a unit sees. A unit of the second layer whose bound says that no blend turns it on is left out.

What comes out is what ``Critics`` says, to rounding; a test holds both together. Where the one feature that is not
linear (a load above ``MOST_LOAD``) is beyond its kink, ``of`` has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlin.policy.networks.critic import MOST_LOAD, Critics, Layers, Second, action_features, by_twin
from marlin.policy.networks.parameters import ACTION_FEATURES, TWINS
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

Units = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Switching:
    """Units of the first layer that are not the same way at all intents: S for each network, some of them padding."""

    before: FloatArray  # (K, I, C, S) before their rectifiers; C is V x D, the rows
    after: FloatArray  # (K, I, C, S) after them
    mix: FloatArray  # (K, S, H) what they pass on
    pool: FloatArray  # (K, S, P)

    def most_lost(self) -> FloatArray:
        """(K, C, S) how far a unit at any blend may be below the blend of what it is at the intents. Never above it.

        Where the blend of inputs is on, the difference is the blend of the parts that are off, elsewhere that of the
        parts that are on; either way at most the largest of both.
        """
        return np.asarray(np.minimum(self.after.max(axis=1), np.maximum(-self.before, 0.0).max(axis=1)))


@dataclass(frozen=True, slots=True)
class Hull:
    """K critics, agents times twins, on the blends of I intents for one fleet of V models and D sites."""

    rows: Rows
    layers: Layers
    """Of the H units of the second layer that some blend may turn on."""
    shares: FloatArray  # (I, V, D)
    mixed: FloatArray  # (K, I, C x H) what the second layer gets of each row at each intent
    pooled: FloatArray  # (K, I, V x P) what the pools get
    switching: _Switching

    @classmethod
    def of(cls, critics: Critics, intents: Intent) -> Self | None:
        """Prepares for blends. None: they reach beyond where the features are linear.

        Args:
            critics: in the situation of one fleet (N = 1).
            intents: what is blended, parts of shape (I, V, D).
        """
        rows = critics.rows
        if (intents.shares * rows.load > MOST_LOAD).any():
            return None
        features = action_features(intents, rows)  # (I, V, D, 4)
        size, models, sites = features.shape[:3]
        cells, (many, _, hidden) = models * sites, critics.mix.shape
        seen = features.reshape(-1, ACTION_FEATURES)
        of_state = critics.of_state.reshape(many, 1, cells, hidden)
        row = (seen @ critics.action).reshape(many, size, cells, hidden)
        row += of_state
        is_on: NDArray[np.bool_] = row > 0
        switches = np.any(np.any(is_on, axis=1) & ~np.all(is_on, axis=1), axis=1)  # (K, H)
        np.maximum(row, 0.0, out=row)
        over_sites = (rows.weight[0][:, None] @ row.reshape(many, size, models, sites, hidden))[..., 0, :]
        mixed = (row.reshape(many, -1, hidden) @ critics.mix).reshape(row.shape)
        pooled = (over_sites.reshape(many, -1, hidden) @ critics.pool).reshape(many, size, models, -1)

        units, of = _first(switches), np.arange(many)[:, None]
        before = (seen @ _of(critics.action, units)).reshape(many, size, cells, -1)
        before += _of(of_state, units)
        switching = _Switching(before, np.maximum(before, 0.0), critics.mix[of, units], critics.pool[of, units])
        kept = _first(_may_be_on(critics, mixed, pooled, switching))
        p = critics.layers
        return cls(
            rows=rows,
            layers=Layers(
                _of(p.of_model, kept), _of(p.of_fleet, kept), _of(p.bias, kept), _of(p.head, kept), p.head_bias
            ),
            shares=features[..., 0],
            mixed=_of(mixed, kept).reshape(many, size, -1),
            pooled=pooled.reshape(many, size, -1),
            switching=replace(switching, mix=_of(switching.mix, kept)),
        )

    def worth(self, weights: FloatArray) -> FloatArray:
        """(M, agents) worth of M blends by weights (M, I) on the simplex: the lesser of the twins."""
        return np.asarray(by_twin(self._at(weights)[1].worth).min(axis=1).T)

    def worth_and_slopes(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Worth (agents,) of one blend by weights (I,), and derivatives (agents, I) up to a constant for each agent.

        Weights add up to one, so that a constant means nothing: the state's part is blended as well.
        """
        is_on, there = self._at(weights[None])
        s, many = self.switching, len(self.mixed)
        back = self.layers.back(self.rows, there)
        to_mixed = back.mixed.reshape(many, is_on.shape[2], -1)  # (K, C, H)
        to_more = to_mixed @ s.mix.swapaxes(1, 2)  # (K, C, S)
        of_pools = self.rows.weight[0][..., None] * (back.pooled[:, 0] @ s.pool.swapaxes(1, 2))[:, :, None]
        to_more += of_pools.reshape(to_more.shape)
        flat = (many, len(self.shares), -1)
        found = self.mixed @ to_mixed.reshape(many, -1, 1)  # (K, I, 1)
        found += self.pooled @ back.pooled.reshape(many, -1, 1)
        found += self.shares.reshape(1, len(self.shares), -1) @ back.share.reshape(many, -1, 1)
        found += s.before.reshape(flat) @ (to_more * is_on[:, 0]).reshape(many, -1, 1)
        found -= s.after.reshape(flat) @ to_more.reshape(many, -1, 1)
        each = by_twin(there.worth)[..., 0]  # (agents, TWINS)
        speaks = each.argmin(axis=1)
        return np.asarray(each.min(axis=1)), np.asarray(found[TWINS * np.arange(len(speaks)) + speaks, :, 0])

    def _at(self, weights: FloatArray) -> tuple[NDArray[np.bool_], Second]:
        """Where the switching units are on (K, M, C, S) at M blends, and the rest of the way."""
        s, rows = self.switching, self.rows
        by = np.asarray(weights, dtype=self.mixed.dtype)  # (M, I)
        many, size, cells, _ = s.before.shape
        each = (len(by), *rows.mask.shape[1:])  # M, V, D
        before, after = (
            (by @ part.reshape(many, size, -1)).reshape(many, len(by), cells, -1) for part in (s.before, s.after)
        )
        is_on = before > 0
        more = before * is_on - after  # (K, M, C, S) than the blend of what they were
        mixed = (more.reshape(many, len(by) * cells, -1) @ s.mix).reshape(many, *each, -1)
        mixed += (by @ self.mixed).reshape(mixed.shape)
        over_sites = (rows.weight[0][:, None] @ more.reshape(many, *each, -1))[..., 0, :]  # (K, M, V, S)
        pooled = (over_sites.reshape(many, -1, over_sites.shape[-1]) @ s.pool).reshape(many, *each[:2], -1)
        pooled += (by @ self.pooled).reshape(pooled.shape)
        shares = np.tensordot(by, self.shares, axes=1)[:, None]  # (M, N, V, D)
        return is_on, self.layers.forward(rows, shares, mixed, pooled)


def _first(marked: NDArray[np.bool_]) -> Units:
    """Positions of what is marked (K, H), as many for each network (K, S): others make up for what one lacks."""
    return np.argsort(~marked, axis=1, kind="stable")[:, : max(int(marked.sum(axis=1).max()), 1)]


def _of(values: FloatArray, units: Units) -> FloatArray:
    """The values (K, ..., H) of some units (K, S) of each network: (K, ..., S)."""
    return np.stack([np.take(one, kept, axis=-1) for one, kept in zip(values, units, strict=True)])


def _may_be_on(critics: Critics, mixed: FloatArray, pooled: FloatArray, switching: _Switching) -> NDArray[np.bool_]:
    """(K, H) units of the second layer that a blend may turn on in some row: whose upper bound is above 0.

    Args:
        critics: in the situation of one fleet.
        mixed: (K, I, C, H) what the second layer gets of each row at each intent.
        pooled: (K, I, V, P) what the pools get.
        switching: what is not the blend of what it is at the intents.
    """
    p, rows = critics.layers, critics.rows
    lost = switching.most_lost()
    models, sites = rows.mask.shape[1:]
    lost_over_sites = (rows.weight[0][:, None] @ lost.reshape(len(lost), models, sites, -1))[:, :, 0]  # (K, V, S)
    high = np.tanh(pooled.max(axis=1) + lost_over_sites @ np.maximum(-switching.pool, 0.0))  # (K, V, P)
    low = np.tanh(pooled.min(axis=1) - lost_over_sites @ np.maximum(switching.pool, 0.0))
    of_others = p.bias + _most(high, low, p.of_model) + _most(rows.demand @ high, rows.demand @ low, p.of_fleet)
    most = mixed.max(axis=1) + lost @ np.maximum(-switching.mix, 0.0)  # (K, C, H)
    most = most.reshape(len(lost), models, sites, -1) + of_others[:, :, None]
    return np.asarray(np.any(most > 0, axis=(1, 2)))


def _most(high: FloatArray, low: FloatArray, weight: FloatArray) -> FloatArray:
    """The most that numbers between ``low`` and ``high`` (K, B, P) may come to through weights (K, P, H): (K, B, H)."""
    return np.asarray(high @ np.maximum(weight, 0.0) + low @ np.minimum(weight, 0.0))
