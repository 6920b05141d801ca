"""One decision maker over the twin, as Gymnasium sees it. Importing this registers ``marlin/Fleet-v0``.

The reward is the four agents' rewards weighted by the episode's preference. An episode is cut off after the last epoch
(``truncated``), because a fleet does not end at midnight: what is observed then is what the next epoch would begin
with. The day's last queue has run out by then, and has been paid for.
"""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marlin.simulator.environments.chance import Preference, choose, equal_preference
from marlin.simulator.environments.observation import LIMIT
from marlin.simulator.environments.task import Lanes, Task, TaskSettings, information, make_task
from marlin.simulator.experiment import Study
from marlin.simulator.fleet import Builder
from marlin.simulator.fluid import Form
from marlin.simulator.physics import FloatArray
from marlin.simulator.scenario import scenario_documents

Observation = NDArray[np.float32]
Action = NDArray[np.float32]

ID: Final = "marlin/Fleet-v0"


def observation_space(task: Task) -> spaces.Box[np.float32]:
    """(F,) numbers; docs/reference/environments.md names them."""
    return spaces.Box(-LIMIT, LIMIT, (task.observation_size,), np.float32)


def action_space(task: Task, agents: int | None = None) -> spaces.Box[np.float32]:
    """(size,) numbers between -1 and 1, or (agents, size)."""
    shape = (task.action.size,) if agents is None else (agents, task.action.size)
    return spaces.Box(-1.0, 1.0, shape, np.float32)


class FleetEnv(gymnasium.Env[Observation, Action]):
    """One epoch is one step; an action is a plan."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 Gymnasium declares it so

    def __init__(self, task: Task, preference: Preference = equal_preference) -> None:
        """An environment.

        Args:
            task: the studies to act in.
            preference: draws whose weights an episode has. Default: all metrics alike.
        """
        self.task = task
        self.preference = preference
        self.observation_space = observation_space(task)
        self.action_space = action_space(task)
        self._lanes: Lanes | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode.

        Args:
            seed: of this episode, as a study's; the episodes after it follow from it.
            options: may hold ``study`` and ``preference``; see ``chance``.

        Returns:
            The first observation, and the study's position and seed: what repeats the episode.

        Raises:
            InputError: an option is not valid, or the day cannot be scaled to the load asked for.
        """
        super().reset(seed=seed)
        chosen = choose(self.task, self.np_random, self.preference, seed, options)
        self._lanes = self.task.begin(self.task.draw([(chosen.study, chosen.seed)]), chosen.preference[None])
        return self.task.observe(self._lanes)[0], {"study": chosen.study, "seed": chosen.seed}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carries the plan out.

        Raises:
            ValueError: the action has the wrong size or is not finite, or the episode is over.
        """
        if self._lanes is None:
            raise ValueError("reset before the first step")
        intent = self.task.propose(self._lanes, np.asarray(action)[None])
        self._lanes, done = self.task.step(self._lanes, intent)
        info = of_lane(information(done), 0)
        return self.task.observe(self._lanes)[0], float(done.scalar[0]), False, self._lanes.is_over, info


def of_lane(information: dict[str, FloatArray], lane: int) -> dict[str, Any]:
    """One lane's information: vectors as copies, numbers as floats."""
    return {k: v[lane].copy() if v.ndim > 1 else float(v[lane]) for k, v in information.items()}


def built_in_task(
    scenario: str = "8x12", *, days: int = 1, first_day: int = 0, load: str = "peak95", form: str = "numpy"
) -> Task:
    """A task on a built-in fleet, by name: what ``gymnasium.make`` takes.

    Raises:
        InputError: there is no such fleet or day, or the load is not known.
    """
    study = Study(Builder(scenario_documents(scenario)), days=days, first_day=first_day, load=load)
    return make_task([study], TaskSettings(form=Form(form)))


def fleet_env(**choices: Any) -> FleetEnv:
    """The environment behind ``gymnasium.make("marlin/Fleet-v0", scenario="8x12")``; see ``built_in_task``."""
    return FleetEnv(built_in_task(**choices))


if ID not in gymnasium.registry:
    gymnasium.register(
        ID,
        entry_point=fleet_env,
        vector_entry_point="marlin.simulator.environments.vector_env:fleet_vector_env",
    )
