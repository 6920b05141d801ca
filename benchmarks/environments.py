"""``environments.*``: how fast a policy can learn in the twin, on ``paper-8`` with the fluid engine's Numba form.

Steps are timed with actions drawn beforehand, resets apart from them: a reset draws a day's requests and runs
capacity-proportional routing over it, for rewards. ``vector.day_s`` is both: what 256 days of experience cost. Seconds
are one core's processor time, because elsewhere than on an idle machine elapsed time says more about the neighbours;
each figure is the best of several rounds.

    python benchmarks/environments.py    prints every figure
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from figures import Figure, Group

FLEET: Final = "paper-8"
LANES: Final = 256
ROUNDS: Final = 7

FIGURES: Final = (
    Figure("environments.single.steps_per_s", "1/s", "one environment on one core, Numba, resets apart"),
    Figure("environments.single.numpy_steps_per_s", "1/s", "the same with the NumPy form"),
    Figure("environments.single.reset_ms", "ms", "one environment: a day drawn, and its measure simulated"),
    Figure("environments.vector.lane_steps_per_s", "1/s", "256 lanes together on one core, Numba, resets apart"),
    Figure("environments.vector.reset_s", "s", "256 lanes reset together"),
    Figure("environments.vector.day_s", "s", "256 days of experience, reset included"),
)


def measure() -> Mapping[str, float]:
    """Every figure; under a minute."""
    import numba  # noqa: PLC0415

    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return _figures()
    finally:
        numba.set_num_threads(threads)


def _figures() -> Mapping[str, float]:
    from marlin.simulator.environments.gymnasium_env import FleetEnv, built_in_task  # noqa: PLC0415 not what is timed
    from marlin.simulator.environments.vector_env import FleetVectorEnv  # noqa: PLC0415

    task = built_in_task(FLEET, form="numba")
    single = _best(FleetEnv(task))
    numpy_form = _best(FleetEnv(built_in_task(FLEET, form="numpy")))
    vector = _best(FleetVectorEnv(task, LANES))
    epochs = len(task.courses[0])
    return {
        "environments.single.steps_per_s": epochs / single.day_s,
        "environments.single.numpy_steps_per_s": epochs / numpy_form.day_s,
        "environments.single.reset_ms": 1000 * single.reset_s,
        "environments.vector.lane_steps_per_s": LANES * epochs / vector.day_s,
        "environments.vector.reset_s": vector.reset_s,
        "environments.vector.day_s": vector.reset_s + vector.day_s,
    }


@dataclass(frozen=True, slots=True)
class _Times:
    reset_s: float
    day_s: float


def _best(env: Any) -> _Times:
    """Shortest times of a reset and of the day after it; the first round, which may compile, does not count."""
    rng = np.random.default_rng(0)
    reset_s, day_s = [], []
    for seed in range(ROUNDS + 1):
        started_s = time.process_time()
        env.reset(seed=seed)
        reset_s.append(time.process_time() - started_s)
        epochs = len(env.task.courses[0])
        actions = rng.uniform(-1, 1, (epochs, *env.action_space.shape)).astype(np.float32)
        started_s = time.process_time()
        for action in actions:
            env.step(action)
        day_s.append(time.process_time() - started_s)
    return _Times(min(reset_s[1:]), min(day_s[1:]))


GROUP: Final = Group(name="environments", figures=FIGURES, measure=measure)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name} {value:.6g}")
