"""What a person sees of a training: every round beside a sort, and beside what could be saved at most."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tasks import study

from marlin.api.metrics import METRIC_NAMES
from marlin.api.plan import Scheme
from marlin.policy.train_cli import _watched
from marlin.policy.training import bounds
from marlin.policy.training.job import Round
from marlin.simulator.experiment import Study


def line(own: float, balanced: float) -> dict[str, Any]:
    return {key: value for name in METRIC_NAMES for key, value in
            ((f"gain_{name}", own), (f"balanced_by_{name}", balanced))}  # fmt: skip


DONE = Round(
    number=3,
    of=8,
    line=line(0.12, 0.05),
    sort=line(0.1, 0.04),
    bound=dict.fromkeys((*METRIC_NAMES, bounds.BALANCED), 0.2),
    is_best=True,
)


def test_a_round_is_told_beside_a_sort_and_the_bound() -> None:
    assert DONE.in_words() == (
        "agents save ttft +12.0% (sort +10.0%, oracle +20.0%), carbon +12.0% (sort +10.0%, oracle +20.0%), "
        "water +12.0% (sort +10.0%, oracle +20.0%), cost +12.0% (sort +10.0%, oracle +20.0%); balanced +5.0% to +5.0% "
        "(sort +4.0% to +4.0%, oracle +20.0%)"
    )
    assert "oracle" not in replace(DONE, bound={}).in_words()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if is_terminal else "0")
    monkeypatch.setenv("COLUMNS", "300")
    with _watched(8, quiet=False) as (say, watch):
        say("makes fleets")
        assert (watch is not None) is is_terminal, "without a bar the lines say it"
        if watch is not None:
            watch(DONE)
    heard = capsys.readouterr().err
    assert "makes fleets" in heard
    if is_terminal:
        assert "3/8" in heard
        assert "round 3: agents save ttft +12.0%" in heard
        assert "best so far" in heard


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with _watched(8, quiet=True) as (say, watch):
        say("makes fleets")
        assert watch is not None
        watch(DONE)
    assert capsys.readouterr().err == ""


def test_the_bound_is_of_the_judging_days_with_their_seeds_and_a_fleet_counts_as_much_as_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, Scheme]] = []

    def known(one: Study, scheme: Scheme, engine: object) -> SimpleNamespace:
        asked.append((one.seed, scheme))
        return SimpleNamespace(value=0.9 - 0.1 * one.seed - (0.3 if scheme is Scheme.MIN_COST else 0.0))

    monkeypatch.setattr(bounds, "clairvoyant", known)
    found = bounds.most_saved([[study(), study(), study()], [study()]])
    assert found["carbon_gco2"] == pytest.approx(((0.1 + 0.2 + 0.3) / 3 + 0.1) / 2)
    assert found["cost_usd"] == pytest.approx(found[bounds.BALANCED] + 0.3)
    assert {scheme for _, scheme in asked} == set(Scheme) - {Scheme.CUSTOM}
    assert sorted({seed for seed, _ in asked}) == [0, 1, 2]
