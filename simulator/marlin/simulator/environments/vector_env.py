"""N copies of the environment in one call of the fluid engine, as Gymnasium's vector environments.

Lane i does what a ``FleetEnv`` reset with its seed does, bit for bit, and goes on to the same next episodes. Episodes
have one length, so that all lanes end in the same step; the step after it resets them all (Gymnasium's ``NEXT_STEP``)
and ignores its actions.

With a ``blend`` each lane takes four proposals, (4, size), as ``FleetParallelEnv`` does; the agents' rewards are
``info["rewards"]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from marlin.api.metrics import METRIC_NAMES
from marlin.simulator.environments.action import Blend
from marlin.simulator.environments.chance import Preference, choose, equal_preference
from marlin.simulator.environments.gymnasium_env import action_space, built_in_task, observation_space
from marlin.simulator.environments.task import Lanes, Task, information
from marlin.simulator.physics import FloatArray

_Bools = NDArray[np.bool_]


class FleetVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """N lanes side by side."""

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 as above

    def __init__(
        self, task: Task, num_envs: int, preference: Preference = equal_preference, blend: Blend | None = None
    ) -> None:
        """N environments.

        Args:
            task: the studies to act in.
            num_envs: N.
            preference: draws whose weights an episode has. Default: all metrics alike.
            blend: makes one plan of four agents' proposals. Default: one decision maker.

        Raises:
            ValueError: N is less than 1.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be 1 or more, not {num_envs}")
        self.task = task
        self.num_envs = num_envs
        self.preference = preference
        self.blend = blend
        self.single_observation_space = observation_space(task)
        self.single_action_space = action_space(task, None if blend is None else len(METRIC_NAMES))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] | None = None
        self._lanes: Lanes | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """N new episodes.

        Args:
            seed: of the first lane, the others counting on from it; or one for each.
            options: as in ``FleetEnv.reset``; ``study`` and ``preference`` may also be N of them, one for each lane.

        Raises:
            InputError: an option is not valid, or a day cannot be scaled to the load asked for.
            ValueError: there are not N seeds, studies or preferences.
        """
        seeds = self._seeds(seed)
        if self._generators is None:
            self._generators = [seeding.np_random()[0] for _ in seeds]
        for i, each in enumerate(seeds):
            if each is not None:
                self._generators[i] = seeding.np_random(each)[0]
        chosen = [
            choose(self.task, rng, self.preference, each, lane_options)
            for rng, each, lane_options in zip(self._generators, seeds, self._options(options), strict=True)
        ]
        episodes = self.task.draw([(c.study, c.seed) for c in chosen])
        self._lanes = self.task.begin(episodes, np.array([c.preference for c in chosen]))
        info = {"study": np.array([c.study for c in chosen]), "seed": np.array([c.seed for c in chosen])}
        return self.task.observe(self._lanes), _masked(info)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], FloatArray, _Bools, _Bools, dict[str, Any]]:
        """One epoch of every lane; after the last one, a reset.

        Args:
            actions: (N, size), or (N, 4, size) with a blend.

        Raises:
            ValueError: actions have another shape, or one is not finite.
        """
        if self._lanes is None:
            raise ValueError("reset before the first step")
        never = np.zeros(self.num_envs, dtype=np.bool_)
        if self._lanes.is_over:
            observations, info = self.reset()
            return observations, np.zeros(self.num_envs), never, never.copy(), info
        array = np.asarray(actions)
        if array.shape != self.action_space.shape:
            raise ValueError(f"actions must be {self.action_space.shape}, not {array.shape}")
        if self.blend is None:
            intent = self.task.propose(self._lanes, array)
        else:
            proposals = self.task.propose(self._lanes, array.swapaxes(0, 1))
            intent = self.blend(proposals, self.task.observe(self._lanes))
        self._lanes, done = self.task.step(self._lanes, intent)
        over = np.full(self.num_envs, self._lanes.is_over)
        return self.task.observe(self._lanes), done.scalar, never, over, _masked(information(done))

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{self.num_envs} lanes need as many seeds, not {len(seed)}")
        return list(seed)

    def _options(self, options: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The options of each lane."""
        lanes: list[dict[str, Any]] = [dict(options or {}) for _ in range(self.num_envs)]
        for name, dimensions in (("study", 0), ("preference", 1)):
            given: Any = (options or {}).get(name)
            if isinstance(given, str) or np.ndim(given) != dimensions + 1:
                continue  # one for all, or not valid, which is said where it is read
            if len(given) != self.num_envs:
                raise ValueError(f"{name}: {self.num_envs} lanes need one or as many, not {len(given)}")
            for lane, each in zip(lanes, given, strict=True):
                lane[name] = each
        return lanes


def _masked(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """With the masks that Gymnasium wants beside each entry: every lane has it."""
    return info | {f"_{name}": np.ones(len(values), dtype=np.bool_) for name, values in info.items()}


def fleet_vector_env(num_envs: int = 1, **choices: Any) -> FleetVectorEnv:
    """The environment behind ``gymnasium.make_vec("marlin/Fleet-v0", num_envs=N)``; see ``built_in_task``."""
    return FleetVectorEnv(built_in_task(**choices), num_envs)
