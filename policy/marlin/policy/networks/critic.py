"""What an intent is worth to each agent, and where that worth grows.

A critic sees an intent (``environments.action``): what four agents propose can be blended there, and phase 2 climbs on
the derivative. Of an intent a row shows its share, the utilisation that the share leads to if the forecast comes true
(which means the same on a fleet of four sites and of sixty), fill and margin. The worth of a fleet is read off two
means of its rows: one by capacity, one by where the requests go.

What no intent has a part in is worked out once for a situation (``Critics.of``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from marlin.policy.networks.parameters import ACTION_FEATURES, TWINS, Parameters
from marlin.policy.networks.rows import Rows
from marlin.simulator.environments.action import Intent
from marlin.simulator.physics import FloatArray

MOST_LOAD: Final = 3.0


@dataclass(frozen=True, slots=True)
class Second:
    """What the way back needs of the second layer; B intents, each for a fleet."""

    by: FloatArray  # (Q, B, 2, V x D) what the two means weigh each row by; Q is 1, or K
    of_model: FloatArray  # (K, B, V, P) after tanh
    mixed: FloatArray  # (K, B, V, D, H) after relu
    worth: FloatArray  # (K, B)


@dataclass(frozen=True, slots=True)
class Back:
    """Derivatives of worth by what the second layer gets, of some of the networks: L of the K."""

    mixed: FloatArray  # (L, B, V, D, H) by what comes of the row itself
    pooled: FloatArray  # (L, B, V, P) by what the pools get, before tanh
    share: FloatArray  # (L, B, V, D) by the share, where the head weighs rows by it


@dataclass(frozen=True, slots=True)
class Layers:
    """The weights from the second layer on, networks in front: K of them, agents times twins."""

    of_model: FloatArray  # (K, P, H)
    of_fleet: FloatArray  # (K, P, H)
    bias: FloatArray  # (K, 1, H)
    head: FloatArray  # (K, 2, H) of the mean by capacity, and of that by share
    head_bias: FloatArray  # (K, 1)

    def forward(self, rows: Rows, shares: FloatArray, mixed: FloatArray, pooled: FloatArray) -> Second:
        """From what the second layer gets to worth.

        Args:
            rows: N fleets.
            shares: (Q, M, N, V, D) of M intents for each fleet; B = M x N. Q is 1, or K where each network is asked
                about intents of its own. Of closed sites 0.
            mixed: (K, B, V, D, H) what comes of each row itself; written over.
            pooled: (K, B, V, P) what the pools get.
        """
        count, models, sites = mixed.shape[1:4]
        demand = np.broadcast_to(rows.demand, shares.shape[1:4]).reshape(count, models)
        of_model = np.tanh(pooled)
        of_fleet = (demand[:, None] @ of_model)[:, :, 0]  # (K, B, P)
        of_others = of_model @ self.of_model[:, None]  # (K, B, V, H)
        of_others += (of_fleet @ self.of_fleet + self.bias)[:, :, None]
        mixed += of_others[..., None, :]
        _rectify(mixed)
        by = np.empty((*shares.shape[:3], 2, models, sites), dtype=mixed.dtype)
        by[..., 0, :, :], by[..., 1, :, :] = rows.weight, shares
        by *= rows.demand[:, None, :, None]
        by = by.reshape(len(shares), count, 2, models * sites)
        means = by @ mixed.reshape(len(mixed), count, models * sites, -1)  # (K, B, 2, H)
        return Second(by, of_model, mixed, (means * self.head[:, None]).sum(axis=(2, 3)) + self.head_bias)

    def back(self, rows: Rows, there: Second, heard: NDArray[np.intp]) -> Back:
        """The way back of the networks ``heard`` (L,), after one intent for each fleet (M = 1) that all were asked."""
        mixed, head, demand = there.mixed[heard], self.head[heard], rows.demand
        back = (there.by.swapaxes(2, 3) @ head[:, None]).reshape(mixed.shape)
        back *= mixed > 0
        over_sites = back.sum(axis=3)  # (L, B, V, H)
        to_fleet = over_sites.sum(axis=2) @ self.of_fleet[heard].swapaxes(1, 2)  # (L, B, P)
        to_model = over_sites @ self.of_model[heard].swapaxes(1, 2)[:, None]  # (L, B, V, P)
        to_model += demand[..., None] * to_fleet[:, :, None]
        to_model *= 1.0 - there.of_model[heard] ** 2
        of_share = head[:, 1, :, None]  # (L, H, 1)
        share = (mixed.reshape(len(mixed), -1, mixed.shape[-1]) @ of_share).reshape(mixed.shape[:-1])
        return Back(back, to_model, share * demand[..., None])


@dataclass(frozen=True, slots=True)
class Critics:
    """Critics in the situation of N fleets. All that is given in single precision is evaluated in it."""

    rows: Rows
    of_state: FloatArray  # (K, N, V, D, H) what the first layer makes of fleet and preference
    action: FloatArray  # (K, 4, H) what it makes of an action
    pool: FloatArray  # (K, H, P)
    mix: FloatArray  # (K, H, H)
    layers: Layers

    @classmethod
    def of(cls, parameters: Parameters, rows: Rows, preference: FloatArray) -> Self:
        """Prepares for N fleets.

        Args:
            parameters: with the names and shapes of ``critic_shapes``.
            rows: the fleets.
            preference: (agents, N, 4) the weights of the metrics that each agent goes by.
        """
        p: dict[str, FloatArray] = {
            name.removeprefix("critic."): np.asarray(value)  # in the precision that they are in
            for name, value in parameters.items()
            if name.startswith("critic.")
        }
        first = rows.features.shape[-1]  # what comes after it is the action's
        weight = p["row.weight"]
        of_rows = rows.features.reshape(1, -1, first) @ weight[:, :first] + p["row.bias"]
        of_preference = np.repeat(preference, TWINS, axis=0) @ p["row.of_preference"]  # (K, N, H)
        return cls(
            rows=rows,
            of_state=of_rows.reshape(len(weight), *rows.shape, -1) + of_preference[:, :, None, None],
            action=weight[:, first:],
            pool=p["pool.weight"],
            mix=p["mix.weight"],
            layers=Layers(
                of_model=p["mix.of_model"],
                of_fleet=p["mix.of_fleet"],
                bias=p["mix.bias"],
                head=np.concatenate([p["head.of_mean"], p["head.of_share"]], axis=2).swapaxes(1, 2),
                head_bias=p["head.bias"][..., 0],
            ),
        )

    def worth(self, intent: Intent) -> FloatArray:
        """(M, N, agents) worth of M intents for each fleet (M, N, V, D): the lesser of the twins, as in training."""
        found = by_twin(self._forward(action_features(intent, self.rows)[None])[1].worth).min(axis=1)  # (agents, B)
        return np.asarray(found.reshape(len(found), *intent.shares.shape[:2]).transpose(1, 2, 0))

    def own_worth(self, intent: Intent) -> FloatArray:
        """(N, agents) what each agent's own intent (agents, N, V, D) is worth to it: no network is asked about more."""
        features = np.repeat(action_features(intent, self.rows), TWINS, axis=0)  # (K, N, V, D, 4)
        return np.asarray(by_twin(self._forward(features[:, None])[1].worth).min(axis=1).T)

    def worth_and_derivatives(self, intent: Intent) -> tuple[FloatArray, Intent]:
        """Worth (N, agents) of one intent for each fleet (N, V, D), and its derivatives (agents, N, V, D)."""
        one = Intent(intent.shares[None], intent.fill[None], intent.margin[None])
        row, there = self._forward(action_features(one, self.rows)[None])
        each = by_twin(there.worth)  # (agents, TWINS, N)
        agents, fleets = np.indices((len(each), each.shape[2]))
        speaks = TWINS * agents + each.argmin(axis=1)  # (agents, N) of the K
        heard, place = np.unique(speaks, return_inverse=True)  # of one fleet half of them: the other twins are silent
        slopes = self._slopes(row, there, heard)[place.reshape(speaks.shape), fleets]  # (agents, N, V, D, 4)
        return np.asarray(each.min(axis=1).T), by_intent(slopes, intent, self.rows)

    def _slopes(self, row: FloatArray, there: Second, heard: NDArray[np.intp]) -> FloatArray:
        """Derivatives (L, N, V, D, 4) of the networks ``heard`` (L,) by what they see of an action."""
        back = self.layers.back(self.rows, there, heard)
        row, of_rows = row[heard], back.mixed.reshape(len(heard), -1, row.shape[-1])
        to_row: FloatArray = np.empty_like(of_rows)
        for i, k in enumerate(heard):
            # Not in one product, because picking (L, H, H) weights out would copy them; and the transposed product,
            # because it reads them as they lie, which takes half the time.
            to_row[i] = (self.mix[k] @ of_rows[i].T).T
        to_row = to_row.reshape(row.shape)
        to_row += self.rows.weight[..., None] * (back.pooled @ self.pool[heard].swapaxes(1, 2)[:, None])[..., None, :]
        to_row *= row > 0
        slopes = (to_row.reshape(of_rows.shape) @ self.action[heard].swapaxes(1, 2)).reshape(*row.shape[:-1], -1)
        slopes[..., 0] += back.share
        return np.asarray(slopes)

    def _forward(self, features: FloatArray) -> tuple[FloatArray, Second]:
        """Rows after the first layer, (K, B, V, D, H), and the second one, of what networks see of M intents.

        Args:
            features: (Q, M, N, V, D, 4); B = M x N. Q is 1, or K where each network is asked about intents of its own.
        """
        rows, weight = self.rows, self.rows.weight
        many, hidden = len(self.mix), self.mix.shape[2]
        row = (features.reshape(len(features), -1, ACTION_FEATURES) @ self.action).reshape(
            many, *features.shape[1:5], hidden
        )
        row += self.of_state[:, None]
        _rectify(row)
        pooled = (weight[..., None, :] @ row)[..., 0, :].reshape(many, -1, hidden) @ self.pool  # (K, B V, P)
        row = row.reshape(many, -1, *row.shape[3:])  # (K, B, V, D, H)
        mixed = (row.reshape(many, -1, hidden) @ self.mix).reshape(row.shape)
        return row, self.layers.forward(rows, features[..., 0], mixed, pooled.reshape(*row.shape[:3], -1))


def _rectify(values: FloatArray) -> None:
    """Relu in place; a third less time than NumPy's maximum takes."""
    values *= values > 0


def action_features(intent: Intent, rows: Rows) -> FloatArray:
    """What critics see of intents (..., N, V, D) in a row: (..., N, V, D, 4)."""
    shares = intent.shares * rows.mask
    load = np.minimum(shares * rows.load, MOST_LOAD)
    return np.stack([shares, load, intent.fill * rows.mask, (intent.margin - 1.0) * rows.mask], axis=-1)


def by_intent(slopes: FloatArray, intent: Intent, rows: Rows) -> Intent:
    """Derivatives by what critics see of intents (..., N, V, D, 4) as those by the intents, parts (..., N, V, D)."""
    share, load, fill, margin = np.moveaxis(slopes, -1, 0)
    is_inside = intent.shares * rows.load < MOST_LOAD
    parts = (share + load * rows.load * is_inside, fill, margin)
    return Intent(*(part * rows.mask for part in parts))


def by_twin(worth: FloatArray) -> FloatArray:
    """(K, B) to (agents, TWINS, B). Only the lesser twin speaks; where both agree the first one does."""
    return worth.reshape(-1, TWINS, worth.shape[-1])


def worth(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> FloatArray:
    """(N, agents) worth of one intent for each of N fleets.

    Args:
        parameters: with the names and shapes of ``critic_shapes``.
        rows: the fleets.
        intent: parts of shape (N, V, D).
        preference: (agents, N, 4) the weights of the metrics that each agent goes by.
    """
    one = Intent(intent.shares[None], intent.fill[None], intent.margin[None])
    return np.asarray(Critics.of(parameters, rows, preference).worth(one)[0])


def derivatives(parameters: Parameters, rows: Rows, intent: Intent, preference: FloatArray) -> Intent:
    """Derivatives of each agent's worth at N intents; parts of shape (agents, N, V, D). Arguments as of ``worth``."""
    return Critics.of(parameters, rows, preference).worth_and_derivatives(intent)[1]
