"""The paper's plain networks: what serves is what trains, derivatives are right, and another fleet is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, own_preference, some_intent, some_rows, weights_of

from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind
from marlin.policy.artifact import load
from marlin.policy.networks import kind
from marlin.policy.networks.flat import FlatCritics
from marlin.policy.networks.parameters import NetworkSettings
from marlin.policy.planners import make_planner
from marlin.policy.train_cli import train
from marlin.policy.training import kind as torch_kind
from marlin.policy.training.networks import IntentTensors, RowTensors, tensors
from marlin.simulator.environments.action import Intent
from marlin.simulator.fleet import Builder, loaded_state
from marlin.simulator.scenario import scenario_documents

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))


def flat(models: int, sites: int) -> NetworkSettings:
    return NetworkSettings(SMALL.actor_hidden, SMALL.critic_hidden, SMALL.pooled, SMALL.film_hidden, (models, sites))


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


@settings(max_examples=20)
@given(seeds, sizes)
def test_what_serves_proposes_what_trains_to_a_hundred_thousandth(seed: int, size: tuple[int, int, int]) -> None:
    rows, p = some_rows(seed, *size), weights_of(flat(*size[1:]), seed % 5)
    served = kind.propose(p, rows, own_preference(rows))
    mean, log_std = torch_kind.propose(tensors(p), RowTensors.of(rows), tensor(own_preference(rows)))
    assert served.mean.shape == (4, *rows.shape, 3)
    np.testing.assert_allclose(mean.numpy(), served.mean, atol=1e-5)
    np.testing.assert_allclose(log_std.numpy(), served.log_std, atol=1e-5)


@settings(max_examples=20)
@given(seeds, sizes)
def test_worth_and_its_derivatives_are_the_same_to_a_hundred_thousandth(seed: int, size: tuple[int, int, int]) -> None:
    rows, p = some_rows(seed, *size), weights_of(flat(*size[1:]), seed % 5)
    intent = some_intent(seed, rows)
    parts = [tensor(part)[None].requires_grad_(True) for part in (intent.shares, intent.fill, intent.margin)]
    twins = torch_kind.worth_of_twins(
        tensors(p), RowTensors.of(rows), IntentTensors(*parts), tensor(own_preference(rows))
    )
    lesser = twins.min(dim=1).values[:, 0]  # (J, N)
    critics = kind.critics_of(p, rows, own_preference(rows))
    worth, slopes = critics.worth_and_derivatives(intent)
    np.testing.assert_allclose(lesser.detach().numpy().T, worth, atol=1e-5)
    for j in range(4):
        wanted = torch.autograd.grad(lesser[j].sum(), parts, retain_graph=True)
        for slope, ours in zip(wanted, (slopes.shares, slopes.fill, slopes.margin), strict=True):
            # A rectifier at its kink may fall either way in single precision.
            off = np.abs(slope[0].numpy() - ours[j]) > 1e-5 * (1 + np.abs(ours[j]))
            assert off.mean() < 0.02


@given(seeds, sizes)
def test_many_intents_are_worth_what_each_is_worth_alone(seed: int, size: tuple[int, int, int]) -> None:
    rows, p = some_rows(seed, *size), weights_of(flat(*size[1:]))
    critics = FlatCritics.of(p, rows, own_preference(rows))
    four = [some_intent(seed + i, rows) for i in range(4)]
    together = Intent(*(np.stack([getattr(one, name) for one in four]) for name in ("shares", "fill", "margin")))
    alone = np.stack([critics.worth_and_derivatives(one)[0] for one in four])  # (M, N, agents)
    np.testing.assert_allclose(critics.worth(together), alone, rtol=1e-9)
    np.testing.assert_allclose(critics.own_worth(together), alone[range(4), :, range(4)].T, rtol=1e-9)


@given(seeds)
def test_what_is_written_of_a_closed_site_changes_nobody_s_answer(seed: int) -> None:
    rows = some_rows(seed, 2, 2, 5)
    p = weights_of(flat(2, 5))
    before = kind.propose(p, rows, own_preference(rows)).mean
    rows.features[rows.mask == 0] = np.random.default_rng(seed).uniform(-9, 9)
    np.testing.assert_array_equal(kind.propose(p, rows, own_preference(rows)).mean, before)


def test_it_is_trained_serves_its_own_fleet_and_says_that_it_knows_no_other(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    options = ("--scenario", "demo-3", "--network", "flat", "--days", "2", "--tune-days", "1", "--rounds", "1")
    done = CliRunner().invoke(train, [*options, "--lanes", "1", "--quiet", "--out", str(out)])
    assert done.exit_code == 0, done.output
    networks = json.loads((out / "card.json").read_text())["networks"]
    assert networks["fleet"] == [2, 3]
    planner = make_planner(PlannerKind.MARLIN, dispatch=Dispatch.ORDERED, artifact=out)
    day = datetime(2023, 6, 15, tzinfo=UTC)
    own = planner.decide(loaded_state(Builder(scenario_documents("demo-3")), day, 0.5))
    assert own.record is not None
    assert "negotiated" in own.record["rung"]
    other = planner.decide(loaded_state(Builder(scenario_documents("paper-8")), day, 0.5))
    assert other.record is not None
    assert "of 2 models and 3 sites" in json.dumps(other.record)
    assert other.plan.pools


def test_several_fleets_are_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    options = ("--scenario", "demo-3", "--scenario", "paper-4", "--network", "flat", "--days", "2", "--tune-days", "1")
    done = CliRunner().invoke(train, [*options, "--quiet", "--out", str(tmp_path / "policy")])
    assert done.exit_code != 0
    assert "flat network knows one fleet" in str(done.exception)
    assert not (tmp_path / "policy").exists()


def test_a_card_that_names_another_fleet_than_its_weights_have_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    options = ("--scenario", "demo-3", "--network", "flat", "--days", "2", "--tune-days", "1", "--rounds", "1")
    assert CliRunner().invoke(train, [*options, "--lanes", "1", "--quiet", "--out", str(out)]).exit_code == 0
    card = json.loads((out / "card.json").read_text())
    card["networks"]["fleet"] = [1, 4]
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"actor\.flat\.weight"):
        load(out)
