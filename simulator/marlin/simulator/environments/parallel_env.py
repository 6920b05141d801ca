"""The paper's four agents over the twin, as PettingZoo sees them: each proposes a plan, a blend of them is carried out.

All agents observe the same; agent j is rewarded for its own metric. How proposals become one plan is a function that
is passed in: the mean by default, the game of phase 2 later.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from marlin.simulator.environments.action import Blend, equal_blend
from marlin.simulator.environments.chance import Preference, choose, equal_preference
from marlin.simulator.environments.gymnasium_env import action_space, observation_space, of_lane
from marlin.simulator.environments.task import Lanes, Task, information

AGENTS: Final = ("ttft", "carbon", "water", "cost")
"""In the order of METRIC_NAMES."""

_Array = NDArray[np.float32]


class FleetParallelEnv(ParallelEnv[str, _Array, _Array]):  # type: ignore[misc] # PettingZoo has no types
    """One epoch is one step; an action is a proposal."""

    metadata: dict[str, Any] = {"name": "marlin_fleet_v0", "render_modes": []}  # noqa: RUF012 PettingZoo's own way

    def __init__(self, task: Task, preference: Preference = equal_preference, blend: Blend = equal_blend) -> None:
        """An environment.

        Args:
            task: the studies to act in.
            preference: draws whose weights an episode has; agents see them. Default: all metrics alike.
            blend: makes one plan of the proposals. Default: their mean.
        """
        self.task = task
        self.preference = preference
        self.blend = blend
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        self.observation_spaces = {agent: observation_space(task) for agent in AGENTS}
        self.action_spaces = {agent: action_space(task) for agent in AGENTS}
        self._rng: np.random.Generator | None = None
        self._lanes: Lanes | None = None

    def observation_space(self, agent: str) -> spaces.Box[np.float32]:
        """The same for all agents."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Box[np.float32]:
        """The same for all agents."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, _Array], dict[str, dict[str, Any]]]:
        """A new episode; arguments as in ``FleetEnv.reset``.

        Raises:
            InputError: an option is not valid, or the day cannot be scaled to the load asked for.
        """
        if self._rng is None or seed is not None:
            self._rng = seeding.np_random(seed)[0]
        chosen = choose(self.task, self._rng, self.preference, seed, options)
        self._lanes = self.task.begin(self.task.draw([(chosen.study, chosen.seed)]), chosen.preference[None])
        self.agents = list(AGENTS)
        return self._observations(), {agent: {"study": chosen.study, "seed": chosen.seed} for agent in AGENTS}

    def step(
        self, actions: dict[str, _Array]
    ) -> tuple[dict[str, _Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Carries the blend of the proposals out.

        Raises:
            ValueError: an agent proposes nothing, a proposal has the wrong size or is not finite, or no episode is
                under way.
        """
        if self._lanes is None or not self.agents:
            raise ValueError("the episode is over or has not begun: reset before the next step")
        if missing := [agent for agent in AGENTS if agent not in actions]:
            raise ValueError(f"every agent must propose: {', '.join(missing)} did not")
        proposals = self.task.propose(self._lanes, np.stack([actions[agent] for agent in AGENTS])[:, None])
        intent = self.blend(proposals, self.task.observe(self._lanes))
        self._lanes, done = self.task.step(self._lanes, intent)
        report = information(done)
        over = self._lanes.is_over
        if over:
            self.agents = []
        return (
            self._observations(),
            {agent: float(done.rewards[0, j]) for j, agent in enumerate(AGENTS)},
            dict.fromkeys(AGENTS, False),
            dict.fromkeys(AGENTS, over),
            {agent: of_lane(report, 0) for agent in AGENTS},
        )

    def state(self) -> _Array:
        """What all agents together observe, which is what each does.

        Raises:
            ValueError: there is no episode.
        """
        if self._lanes is None:
            raise ValueError("reset before asking for the state")
        observed: _Array = self.task.observe(self._lanes)[0]
        return observed

    def _observations(self) -> dict[str, _Array]:
        observed = self.state()
        return {agent: observed.copy() for agent in AGENTS}
