"""What Gymnasium and PettingZoo ask of an environment, and that all of its forms are one and the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test
from tasks import plain_task, study, task

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch
from marlin.simulator.environments.action import Intent
from marlin.simulator.environments.chance import any_preference
from marlin.simulator.environments.gymnasium_env import ID, FleetEnv
from marlin.simulator.environments.parallel_env import AGENTS, FleetParallelEnv
from marlin.simulator.environments.task import make_task
from marlin.simulator.environments.vector_env import FleetVectorEnv
from marlin.simulator.scenario import scenario_documents

EPOCHS = 96


def actions(env: FleetVectorEnv, seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, env.action_space.shape or ()).astype(np.float32)


def random_actions(env: FleetEnv, count: int, seed: int = 0) -> Any:
    shape = (count, *(env.action_space.shape or ()))
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_gymnasium_accepts_the_environment() -> None:
    env = gymnasium.make(ID, scenario="demo-3")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("dispatch", list(Dispatch))
def test_gymnasium_accepts_both_ways_of_dispatch_with_pools_that_sleep(dispatch: Dispatch) -> None:
    check_env(FleetEnv(task(sleeps=True, dispatch=dispatch), any_preference), skip_render_check=True)


def test_pettingzoo_accepts_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    parallel_api_test(FleetParallelEnv(plain_task()), num_cycles=EPOCHS + 4)
    assert "Passed" in capsys.readouterr().out


def test_gymnasium_makes_the_vector_environment_by_name() -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point", scenario="demo-3")
    observations, _ = envs.reset(seed=1)
    assert observations.shape == (2, *(envs.single_observation_space.shape or ()))
    envs.close()


def test_a_vector_of_lanes_is_as_many_single_environments_bit_for_bit() -> None:
    lanes = 5
    envs = FleetVectorEnv(plain_task(), lanes, any_preference)
    singles = [FleetEnv(plain_task(), any_preference) for _ in range(lanes)]
    observed, info = envs.reset(seed=3)
    alone = [env.reset(seed=3 + i) for i, env in enumerate(singles)]
    assert np.array_equal(observed, [o for o, _ in alone])
    assert info["study"].tolist() == [i["study"] for _, i in alone]
    assert len(set(info["study"])) == 2, "lanes of both studies, whose fleets differ"
    for step in range(EPOCHS + 20):
        chosen = actions(envs, step)
        observed, rewards, terminations, truncations, info = envs.step(chosen)
        for i, env in enumerate(singles):
            if step == EPOCHS:  # the step after the last one resets
                one, one_info = env.reset()
                reward, terminated, truncated = 0.0, False, False
            else:
                one, reward, terminated, truncated, one_info = env.step(chosen[i])
            assert np.array_equal(observed[i], one)
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            for name, value in one_info.items():
                assert np.array_equal(info[name][i], value), name
                assert info[f"_{name}"].all()


def test_the_same_seed_is_the_same_episode_and_another_seed_another() -> None:
    env = FleetEnv(plain_task(), any_preference)

    def episode(seed: int) -> list[Any]:
        first, info = env.reset(seed=seed)
        return [first, info["study"], *(env.step(a)[:2] for a in random_actions(env, 5))]

    def equal(one: list[Any], other: list[Any]) -> bool:
        same = np.array_equal(one[0], other[0]) and one[1] == other[1]
        return same and all(
            np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(one[2:], other[2:], strict=True)
        )

    assert equal(episode(11), episode(11))
    assert not equal(episode(11), episode(12))


def test_a_reset_says_what_repeats_its_episode() -> None:
    env = FleetEnv(plain_task())
    env.reset(seed=4)
    first, info = env.reset()
    again, _ = FleetEnv(plain_task()).reset(seed=info["seed"], options={"study": info["study"]})
    assert np.array_equal(first, again)


def test_what_an_option_fixes_changes_nothing_else() -> None:
    env = FleetEnv(plain_task(), any_preference)
    _, free = env.reset(seed=4)
    following = env.reset()[1]
    _, fixed = env.reset(seed=4, options={"study": 1 - free["study"], "preference": [1, 0, 0, 3]})
    assert fixed["study"] == 1 - free["study"]
    assert env.reset()[1] == following


def test_an_episode_is_cut_off_and_does_not_end() -> None:
    env = FleetEnv(plain_task())
    env.reset(seed=0)
    ends = [env.step(a)[2:4] for a in random_actions(env, EPOCHS)]
    assert ends == [(False, False)] * (EPOCHS - 1) + [(False, True)]
    with pytest.raises(ValueError, match="reset before the next step"):
        env.step(random_actions(env, 1)[0])


def test_equal_proposals_are_blended_to_the_plan_of_one() -> None:
    single, four = FleetEnv(task(sleeps=True)), FleetParallelEnv(task(sleeps=True))
    observed, _ = single.reset(seed=2)
    for_all, _ = four.reset(seed=2)
    for action in random_actions(single, 6):
        observed, reward, _, _, info = single.step(action)
        for_all, rewards, _, _, infos = four.step(dict.fromkeys(AGENTS, action))
        assert all(np.allclose(for_all[agent], observed, atol=1e-6) for agent in AGENTS)
        assert sum(rewards.values()) / 4 == pytest.approx(reward)
        assert list(rewards.values()) == pytest.approx(info["rewards"])
        assert infos["water"]["metrics"] == pytest.approx(info["metrics"])


def test_each_agent_has_its_part_in_the_blend() -> None:
    four = FleetParallelEnv(task())
    action = np.ones(task().action.size, dtype=np.float32)
    action[0] = -1.0
    outcomes = []
    for odd in (None, *AGENTS):
        four.reset(seed=2)
        proposals = {agent: action if agent == odd else 0 * action for agent in AGENTS}
        outcomes.append(four.step(proposals)[4]["ttft"]["metrics"].tolist())
    assert outcomes[0] not in outcomes[1:]
    assert outcomes[1:] == [pytest.approx(outcomes[1])] * 4


def test_a_vector_with_a_blend_is_as_many_parallel_environments() -> None:
    def second(proposals: Intent, observations: Any) -> Intent:
        return Intent(proposals.shares[1], proposals.fill[1], proposals.margin[1])

    envs = FleetVectorEnv(plain_task(), 3, blend=second)
    singles = [FleetParallelEnv(plain_task(), blend=second) for _ in range(3)]
    envs.reset(seed=8)
    for i, env in enumerate(singles):
        env.reset(seed=8 + i)
    for step in range(3):
        chosen = actions(envs, step)  # (3, 4, size)
        observed, _, _, _, info = envs.step(chosen)
        for i, env in enumerate(singles):
            alone, rewards, _, _, _ = env.step(dict(zip(AGENTS, chosen[i], strict=True)))
            assert np.array_equal(alone["cost"], observed[i])
            assert list(rewards.values()) == info["rewards"][i].tolist()


def test_the_preference_is_observed_and_weighs_the_reward() -> None:
    env = FleetEnv(plain_task())
    observed, _ = env.reset(seed=1, options={"preference": [0, 3, 0, 1]})
    assert observed[-4:].tolist() == [0.0, 0.75, 0.0, 0.25]
    _, reward, _, _, info = env.step(random_actions(env, 1)[0])
    assert reward == pytest.approx(0.75 * info["rewards"][1] + 0.25 * info["rewards"][3])


def test_a_transition_can_be_relabelled_with_another_preference() -> None:
    env, weights = FleetEnv(plain_task()), np.array([0.1, 0.2, 0.3, 0.4])
    action = random_actions(env, 1)[0]
    env.reset(seed=1)
    info = env.step(action)[4]
    env.reset(seed=1, options={"preference": weights})
    assert info["rewards"] @ weights == pytest.approx(env.step(action)[1])


def test_lanes_can_be_the_same_day_under_as_many_preferences() -> None:
    envs = FleetVectorEnv(plain_task(), 4)
    observed, info = envs.reset(seed=[5] * 4, options={"study": [0, 0, 0, 1], "preference": np.eye(4)})
    assert info["study"].tolist() == [0, 0, 0, 1]
    assert np.array_equal(observed[:, -4:], np.eye(4))
    assert np.array_equal(observed[0, :-4], observed[1, :-4])
    _, rewards, _, _, info = envs.step(np.zeros(envs.action_space.shape or (), dtype=np.float32))
    assert rewards == pytest.approx(np.diag(info["rewards"]))
    with pytest.raises(ValueError, match="preference: 4 lanes need one or as many, not 3"):
        envs.reset(options={"preference": np.ones((3, 4))})
    with pytest.raises(InputError, match="preference"):
        envs.reset(options={"preference": [1, 2]})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_refused(bad: float) -> None:
    env, envs, four = FleetEnv(plain_task()), FleetVectorEnv(plain_task(), 2), FleetParallelEnv(plain_task())
    for each in (env, envs, four):
        each.reset(seed=0)
    action = np.zeros(plain_task().action.size, dtype=np.float32)
    action[3] = bad
    with pytest.raises(ValueError, match="look for a NaN"):
        env.step(action)
    with pytest.raises(ValueError, match="look for a NaN"):
        envs.step(np.stack([0 * np.nan_to_num(action), action]))
    with pytest.raises(ValueError, match="look for a NaN"):
        four.step(dict.fromkeys(AGENTS, np.zeros_like(action)) | {"water": action})


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    env, envs, four = FleetEnv(plain_task()), FleetVectorEnv(plain_task(), 2), FleetParallelEnv(plain_task())
    size = plain_task().action.size
    for each in (env, envs, four):
        with pytest.raises(ValueError, match="reset before"):
            each.step({} if each is four else np.zeros(size))  # type: ignore[arg-type]
        each.reset(seed=0)
    with pytest.raises(ValueError, match=f"an action has {size} numbers, not 3"):
        env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match=rf"actions must be \(2, {size}\)"):
        envs.step(np.zeros((3, size), dtype=np.float32))
    with pytest.raises(ValueError, match="carbon, cost did not"):
        four.step(dict.fromkeys(("ttft", "water"), np.zeros(size, dtype=np.float32)))
    with pytest.raises(ValueError, match="2 lanes need as many seeds"):
        envs.reset(seed=[1])
    with pytest.raises(InputError, match="0 to 1"):
        env.reset(options={"study": 2})
    for weights in ([1, 1], [-1, 1, 1, 1], [0, 0, 0, 0], "green", [np.nan, 1, 1, 1]):
        with pytest.raises(InputError, match="preference"):
            env.reset(options={"preference": weights})
    with pytest.raises(InputError, match="at least one study"):
        make_task([])
    other = replace(study(), builder=replace(study().builder, documents=scenario_documents("paper-4")))
    with pytest.raises(InputError, match="2 pools x 3 sites, 96 epochs x 2 pools x 4 sites"):
        make_task([study(), other])
