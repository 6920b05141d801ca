"""What is to be learnt: observe, propose, carry out, be rewarded, for N lanes at once, as values and pure functions.

The adapters for Gymnasium and PettingZoo say nothing that is not said here; a trainer that wants neither calls
``begin``, ``observe``, ``propose`` and ``step`` itself. Proposals may have more axes in front of the lanes' (four
agents: (4, N, size)); whoever makes them blends them to one intent per lane before the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marlin.api.history import RecordedEpoch
from marlin.api.plan import Dispatch
from marlin.simulator.environments import dynamics, observation
from marlin.simulator.environments.action import ActionLayout, Actions, Intent, intents, plans
from marlin.simulator.environments.course import Course, courses, recorded_courses
from marlin.simulator.environments.dynamics import Carried
from marlin.simulator.environments.episode import Episode, Episodes, draw, side_by_side
from marlin.simulator.environments.forecast import Forecaster, smoothed
from marlin.simulator.environments.lanes import Fleets, Happened
from marlin.simulator.environments.reward import RewardSettings, Terms, averaged, terms
from marlin.simulator.experiment import Study
from marlin.simulator.fluid import Form, Plans
from marlin.simulator.physics import FloatArray


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What may be chosen about a task."""

    dispatch: Dispatch = Dispatch.SHARES
    """How plans are carried out. The measure of rewards is shares in proportion to capacity either way."""
    reward: RewardSettings = field(default_factory=RewardSettings)
    forecaster: Forecaster = smoothed
    """What is known of an epoch's requests before it begins."""
    form: Form = Form.NUMPY
    """Which form of the fluid engine runs; ``NUMBA`` needs the extra ``[sim]``."""


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """N episodes under way."""

    episodes: Episodes
    carried: Carried
    average_gain: FloatArray  # (N, 4)
    preference: FloatArray  # (N, 4) on the simplex

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is done. Lanes have the same length, so they end together."""
        return self.carried.epoch == len(self.episodes)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of N lanes did."""

    plans: Plans
    happened: Happened
    baseline_metrics: FloatArray  # (N, 4) of capacity-proportional routing in the same epoch of its own day
    terms: Terms
    rewards: FloatArray  # (N, 4) of the agents, in the order of METRIC_NAMES
    scalar: FloatArray  # (N,) rewards weighted by the preference


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Studies to learn from; see ``make_task``."""

    courses: tuple[Course, ...]
    settings: TaskSettings
    action: ActionLayout

    @property
    def observation_size(self) -> int:
        """F."""
        return observation.size(self.action.models, self.action.sites)

    def draw(self, chosen: Sequence[tuple[int, int]]) -> tuple[Episode, ...]:
        """Episodes, each of one of the studies: the one that this study meets with this seed.

        Args:
            chosen: position of the study, and seed, of each.

        Raises:
            InputError: a day of a trace cannot be scaled to the load asked for.
        """
        pairs = [(self.courses[which], seed) for which, seed in chosen]
        return draw(pairs, self.settings.forecaster, self.settings.form)

    def begin(self, episodes: Sequence[Episode], preference: FloatArray) -> Lanes:
        """N episodes before their first epoch.

        Args:
            episodes: drawn by this task.
            preference: (N, 4) weights of the metrics, on the simplex.
        """
        beside = side_by_side(episodes)
        return Lanes(beside, dynamics.start(beside), np.zeros((len(episodes), 4)), preference)

    def observe(self, lanes: Lanes) -> NDArray[np.float32]:
        """(N, F) what is known before the next epoch; after the last one, before the epoch that would follow."""
        episodes, carried = lanes.episodes, lanes.carried
        fleets, index, allowed = _seen(lanes)
        moving = observation.moving_part(
            observation.Moving(
                carried.backlog,
                carried.awake,
                fleets.capacity_rps[index],
                allowed,
                fleets.all_replicas[index],
                fleets.patience_s[index],
                fleets.max_utilization[index],
                self.settings.dispatch,
                lanes.average_gain,
                lanes.preference,
            )
        )
        return np.concatenate([episodes.known[carried.epoch], moving], axis=1)

    def propose(self, lanes: Lanes, actions: Actions) -> Intent:
        """What actions (..., N, size) mean in the next epoch: parts of shape (..., N, V, D).

        Raises:
            ValueError: an action has the wrong size, or a number that is not finite.
        """
        fleets, index, allowed = _seen(lanes)
        demand_rps = lanes.episodes.expected[lanes.carried.epoch] / fleets.epoch_s[index][:, None]
        limit = fleets.max_utilization[index]
        return intents(self.action, actions, allowed, fleets.capacity_rps[index], demand_rps, limit)

    def step(self, lanes: Lanes, intent: Intent) -> tuple[Lanes, Step]:
        """One epoch under one intent per lane.

        Raises:
            ValueError: the episodes are over, or there are not N intents.
        """
        episodes, e = lanes.episodes, lanes.carried.epoch
        fleets, index, allowed = _seen(lanes)
        chosen = plans(intent, self.settings.dispatch, fleets, index, allowed, episodes.high[e])
        carried, happened = dynamics.step(episodes, lanes.carried, chosen, self.settings.form)
        everyone = fleets.all_replicas[episodes.real_index[e]].sum(axis=(1, 2))
        parts = terms(
            totals=happened.totals,
            baseline_totals=episodes.baseline_totals[e],
            scale=episodes.scale,
            average_gain=lanes.average_gain,
            asleep=1.0 - happened.awake.sum(axis=(1, 2)) / np.maximum(everyone, 1.0),
            late=happened.late_share,
        )
        rewards = parts.rewards(self.settings.reward)
        following = Lanes(
            episodes, carried, averaged(lanes.average_gain, parts.gain, self.settings.reward), lanes.preference
        )
        done = Step(
            plans=chosen,
            happened=happened,
            baseline_metrics=episodes.baseline_metrics[e].copy(),
            terms=parts,
            rewards=rewards,
            scalar=(rewards * lanes.preference).sum(axis=1),
        )
        return following, done


def make_task(studies: Sequence[Study], settings: TaskSettings | None = None) -> Task:
    """A task over studies of one shape; takes about half a second for each of their days.

    Args:
        studies: each episode is one of them, with a seed of its own.
        settings: default: shares, the experiment's forecast, the NumPy form.

    Raises:
        InputError: a trace has fewer days, a fleet cannot be simulated, or studies differ in epochs, pools or sites.
    """
    return _task(courses(studies), settings)


def recorded_task(histories: Sequence[Sequence[RecordedEpoch]], settings: TaskSettings | None = None) -> Task:
    """A task over epochs that were recorded: fleets, signals and requests are those of then.

    Args:
        histories: epochs that follow one another; each episode is one of them, whatever its seed.
        settings: as of ``make_task``.

    Raises:
        InputError: a fleet cannot be simulated, or histories differ in epochs, pools or sites.
    """
    return _task(recorded_courses(histories), settings)


def _task(made: tuple[Course, ...], settings: TaskSettings | None) -> Task:
    chosen = settings or TaskSettings()
    _, models, sites = made[0].shape
    return Task(made, chosen, ActionLayout(models, sites, chosen.dispatch, made[0].fleets.can_power_down))


def information(done: Step) -> dict[str, FloatArray]:
    """What a step reports beside its reward, each (N, ...): all that relabelling a transition needs, and the sums.

    Gains, trends and rewards are (N, 4), one for each agent; so are ``metrics`` and ``baseline_metrics``.
    """
    return {
        "metrics": done.happened.metrics,
        "baseline_metrics": done.baseline_metrics,
        "totals": done.happened.totals,
        "gain": done.terms.gain,
        "trend": done.terms.trend,
        "rewards": done.rewards,
        "asleep": done.terms.asleep,
        "late": done.terms.late,
        "served": done.happened.served.sum(axis=(1, 2)),
        "rejected": done.happened.rejected.sum(axis=1),
        "queued": done.happened.queued.sum(axis=1),
        "energy_kwh": done.happened.energy_kwh,
    }


def _seen(lanes: Lanes) -> tuple[Fleets, NDArray[np.int64], NDArray[np.bool_]]:
    """Fleets, index (N,) and allowed sites (N, V, D) as known before the next epoch; after the last, as before it."""
    episodes = lanes.episodes
    now = min(lanes.carried.epoch, len(episodes) - 1)
    return episodes.fleets, episodes.seen_index[now], episodes.seen_allowed[now]
