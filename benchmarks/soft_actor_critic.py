"""MARLIN's soft actor-critic beside Stable-Baselines3's on a task that both know (docs/explanation/training.md).

    python benchmarks/soft_actor_critic.py [--steps 4000] [--seeds 10]

Pendulum-v1: swing a pendulum up and hold it; an episode of 200 steps is worth about -1200 by chance and -150 to -200 by
whoever can do it. Both learn with the same sizes, rates and batches, one update a step, from the first 100 random steps
on; what is compared is ``training.sac.learn``, the very function that trains MARLIN's agents, on plain networks of two
layers. The figures are returns of the episodes that were learnt on, chance included. That one update is the same in
both, weight by weight, a test says (tests/policy/test_soft_actor_critic_beside_a_peer.py); this says what is left to
the loop around it. Needs stable-baselines3, which ``make setup-dev`` brings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from pendulum import EPISODE, returns_of_ours, returns_of_theirs

QUARTERS: Final = 4


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Ours less theirs in the mean of seeds, and the bounds that hold 95 % of what resampled seeds say."""
    rng = np.random.default_rng(0)
    means = [rng.choice(found, (10_000, len(found))).mean(axis=1) for found in (ours, theirs)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(ours.mean() - theirs.mean()), float(low), float(high)


def main(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(arguments)
    if options.steps < QUARTERS * EPISODE or options.seeds < 2:
        parser.error(f"--steps: at least {QUARTERS * EPISODE}, an episode a quarter; --seeds: at least two")
    each = options.steps // EPISODE // QUARTERS
    learners = {"MARLIN's": returns_of_ours, "Stable-Baselines3's": returns_of_theirs}
    quarters: dict[str, list[NDArray[np.float64]]] = {name: [] for name in learners}
    print("| learner | seed | return in each quarter of the episodes |")
    print("|---|---|---|")
    for seed in range(options.seeds):
        for name, learn_it in learners.items():
            found = np.array(learn_it(options.steps, seed))[: QUARTERS * each]
            quarters[name].append(found.reshape(QUARTERS, each).mean(axis=1))
            print(f"| {name} | {seed} | {', '.join(f'{value:.0f}' for value in quarters[name][-1])} |", flush=True)
    print("| quarter | MARLIN's | Stable-Baselines3's | difference, and 95 % of resampled seeds |")
    print("|---|---|---|---|")
    ours, theirs = (np.array(found) for found in quarters.values())  # (seeds, QUARTERS)
    for q in range(QUARTERS):
        by, low, high = difference(ours[:, q], theirs[:, q])
        means = f"{ours[:, q].mean():.0f} | {theirs[:, q].mean():.0f}"
        print(f"| {q + 1} | {means} | {by:+.0f} [{low:+.0f}, {high:+.0f}] |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
