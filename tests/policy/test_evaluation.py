"""Scoring MARLIN beside its yardsticks: on which days, of which draws, with which intervals."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import small_artifact
from click.testing import CliRunner
from rich.console import Console

from marlin.api.cli import marlin
from marlin.api.errors import InputError
from marlin.api.plan import Dispatch, PlannerKind, Scheme
from marlin.policy import yardsticks
from marlin.policy.evaluation import claim, scoring
from marlin.policy.evaluation.claim import judged
from marlin.policy.evaluation.days import AZURE, BURSTGPT, SHIPPED, Split, chosen, split_of
from marlin.policy.evaluation.frameworks import ACTOR, BASELINE, BEST_OF, CLAIRVOYANT, LIMITED, MARLIN, SIMPLE, Leaning
from marlin.policy.evaluation.report import overview, tables
from marlin.policy.evaluation.scoring import Chosen, Question, Score, Unit
from marlin.policy.evaluation.statistics import lines
from marlin.policy.evaluation.work import Evaluation
from marlin.policy.in_order import InOrder
from marlin.policy.origins import OriginAware, as_evaluated
from marlin.policy.planner import Planner
from marlin.policy.planners import make_planner
from marlin.simulator.workload.shipped import shipped_azure_2024, shipped_week
from marlin.simulator.workload.trace import Trace


def score(framework: str, value: float, seed: int = 0, artifact: str = "", day: int = 35) -> Score:
    return Score(
        cell="mean56, None, ordered",
        scheme="balanced",
        framework=framework,
        artifact=artifact,
        day=day,
        date="2023-11-16",
        seed=seed,
        value=value,
        ttft_s=0.2,
        carbon_gco2=1.0,
        water_l=1.0,
        cost_usd=1.0,
        served_share=1.0,
        late_share=0.0,
        awake_share=1.0,
        forecast_error=0.1,
        held_share=0.0,
    )


# --- days ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [BURSTGPT, SHIPPED, AZURE])
def test_no_day_and_no_date_is_both_chosen_on_and_reported(split: Split) -> None:
    tune, report = chosen(split.tune, None, None), chosen(split.report, None, split.report.weeks)
    assert not {p.day for p in tune} & {p.day for p in report}
    assert not {p.start for p in tune} & {p.start for p in report}
    assert not set(split.train.all_days) & set(split.report.all_days)


@pytest.mark.parametrize(("split", "trace"), [(SHIPPED, shipped_week()), (AZURE, shipped_azure_2024())])
def test_every_day_that_is_agreed_on_is_there_and_the_last_is_reported(split: Split, trace: Trace) -> None:
    days = [*split.train.all_days, *split.tune.all_days, *split.report.all_days]
    assert min(days) == 0
    assert max(days) == split.report.all_days[-1] == trace.days - 1


def test_every_report_day_is_paired_with_six_dates_a_week_apart_all_before_the_year_ends() -> None:
    pairs = chosen(BURSTGPT.report, None, 6)
    assert len(pairs) == len(set(pairs)) == 36
    of_first = [p.start for p in pairs if p.day == 35]
    assert {b - a for a, b in pairwise(of_first)} == {timedelta(days=7)}
    assert f"{of_first[0]:%m-%d}" == "11-16"
    assert max(p.start for p in pairs).year == 2023
    assert max(p.day for p in pairs) < 42 - 1, "42 local days hold one whole day UTC less"


@pytest.mark.parametrize(
    ("wanted", "weeks", "message"),
    [
        ("34", None, "34 is not within 35 to 40; the other days are for learning or for choosing"),
        ("28-36", None, "is not within 35 to 40"),
        ("41-35", None, "is not within 35 to 40"),
        ("noon", None, "'noon' is not a day such as 36"),
        (None, 7, "--weeks: 7 is not between 1 and 6"),
    ],
)
def test_other_days_are_not_reported_on(wanted: str | None, weeks: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(BURSTGPT.report, wanted, weeks)


def test_a_trace_without_agreed_days_is_refused() -> None:
    assert split_of("burstgpt", has_data=True) is BURSTGPT
    with pytest.raises(InputError, match="agreed for burstgpt and azure2024 only"):
        split_of("mmpp:burst_ratio=20", has_data=False)


# --- statistics ----------------------------------------------------------------------------------------------------


def test_shares_are_of_what_could_be_saved_and_of_what_the_simple_policy_leaves() -> None:
    found = {
        line.framework: line
        for line in lines([score(BASELINE, 1.0), score(SIMPLE, 0.9), score(MARLIN, 0.85), score(CLAIRVOYANT, 0.8)])
    }
    assert found[MARLIN].captured.value == pytest.approx(0.75)
    assert found[MARLIN].recovered.value == pytest.approx(0.5)
    assert found[MARLIN].against_simple.value == pytest.approx(0.85 / 0.9 - 1.0)
    assert found[BASELINE].recovered.value == pytest.approx(-1.0)
    assert found[MARLIN].captured.low is None, "one draw says nothing about others"


def test_intervals_pair_what_met_the_same_requests() -> None:
    """Draws differ much, the two frameworks on one draw by exactly a hundredth: the difference is certain."""
    rng = np.random.default_rng(0)
    scores = []
    for seed, level in enumerate(rng.uniform(0.8, 0.95, 12)):
        scores += [score(BASELINE, 1.0, seed), score(SIMPLE, level, seed), score(CLAIRVOYANT, 0.7, seed)]
        scores += [score(MARLIN, 0.99 * level, seed, "a")]
    found = {line.framework: line for line in lines(scores)}
    assert found[MARLIN].against_simple.low == pytest.approx(-0.01)
    assert found[MARLIN].against_simple.high == pytest.approx(-0.01)
    width = (found[SIMPLE].value.high or 0.0) - (found[SIMPLE].value.low or 0.0)
    assert 0.02 < width < 0.08
    assert found == {line.framework: line for line in lines(scores)}, "the same scores have the same intervals"


def test_several_policies_are_resampled_too_and_yardsticks_stand_beside_each() -> None:
    scores = []
    for seed in range(3):
        scores += [score(BASELINE, 1.0, seed), score(SIMPLE, 0.9, seed), score(CLAIRVOYANT, 0.7, seed)]
        scores += [score(MARLIN, 0.8, seed, "a"), score(MARLIN, 0.9, seed, "b")]
    found = {line.framework: line for line in lines(scores)}
    assert found[MARLIN].value.value == pytest.approx(0.85)
    assert (found[MARLIN].value.low, found[MARLIN].value.high) != (0.85, 0.85)
    assert found[SIMPLE].value.low == pytest.approx(0.9)
    assert found[SIMPLE].value.high == pytest.approx(0.9)


def test_policies_that_do_alike_make_no_interval_narrower() -> None:
    """What a surge in a draw does to all of them is one surge, however many they are."""
    levels = np.random.default_rng(1).uniform(0.8, 0.95, 6)

    def width_of(policies: str) -> float:
        scores = []
        for seed, level in enumerate(levels):
            scores += [score(BASELINE, 1.0, seed), score(SIMPLE, 0.9, seed), score(CLAIRVOYANT, 0.7, seed)]
            scores += [score(MARLIN, level, seed, policy) for policy in policies]
        value = next(line.value for line in lines(scores) if line.framework == MARLIN)
        return (value.high or 0.0) - (value.low or 0.0)

    assert width_of("abcdefghij") == pytest.approx(width_of("a"))


def test_cells_have_lines_of_their_own_and_stand_side_by_side() -> None:
    scores = []
    for cell, ours, bound in (("mean30, None, ordered", 0.85, 0.8999), ("mean30, Sleep, ordered", 0.95, 0.8)):
        row = [score(BASELINE, 1.0), score(SIMPLE, 0.9), score(MARLIN, ours), score(CLAIRVOYANT, bound)]
        scores += [replace(one, cell=cell) for one in row]
    found = lines(scores)
    assert [(one.cell, one.value.value) for one in found if one.framework == MARLIN] == [
        ("mean30, None, ordered", 0.85),
        ("mean30, Sleep, ordered", 0.95),
    ]
    by_capacity = make_planner(PlannerKind.CAPACITY_PROPORTIONAL)
    chosen = {(one.cell, one.scheme): Chosen("a sort", 0.9, by_capacity) for one in found}
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(overview(found, chosen, is_terminal=False))
    rows = [row.strip("| ").split("|") for row in console.export_text().splitlines() if "mean30" in row]
    headings = [part for part in tables(found, chosen, is_terminal=False) if isinstance(part, str)]
    assert headings == [
        f"balanced (mean30, {how}, ordered); best simple policy on the tuning days: a sort (0.9000 there)"
        for how in ("None", "Sleep")
    ] + ["marlin everywhere"]
    told = [[cell.strip() for cell in row] for row in rows]
    assert [(row[4], row[5], row[8]) for row in told] == [
        ("0.8500", "-5.56%", "no room"),
        ("0.9500", "+5.56%", "-50%"),
    ]


# --- the command ---------------------------------------------------------------------------------------------------


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(marlin, ["evaluate", "--quiet", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_following_billions_of_requests_is_warned_of_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluation, "run", lambda *_, **__: ([], {}))
    arguments = ["evaluate", "--quiet", "--json", "--scheme", "balanced", "--engine", "request-level"]
    runner = CliRunner()
    assert "follows each of about 1," in runner.invoke(marlin, arguments).stderr
    assert "warning" not in runner.invoke(marlin, [*arguments, "--scenario", "8x12"]).stderr


@pytest.mark.timeout(300)
def test_a_day_is_scored_for_everybody_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four simple policies to choose from instead of two dozen: which one is best is the yardsticks' test.
    monkeypatch.setattr(yardsticks, "FILLS", yardsticks.FILLS[:1])
    monkeypatch.setattr(yardsticks, "QUANTILES", yardsticks.QUANTILES[:1])
    small_artifact(tmp_path / "policy")
    arguments = ["--artifact", str(tmp_path / "policy"), "--scenario", "demo-3", "--days", "5", "--seeds", "1"]
    where = ["--out", str(tmp_path / "scores.csv"), "--plot", str(tmp_path / "figures")]
    found: dict[str, Any] = json.loads(
        run(*arguments, *where, "--scheme", "min-carbon", "--load", "mean30", "--best-of", "1", "--json")
    )
    by_name = {line["framework"]: line for line in found["lines"]}
    assert list(by_name) == [
        BASELINE,
        "merit order",
        "forecast-limited oracle",
        SIMPLE,
        "actor alone",
        "random, best of 1",
        "actor, best of 1",
        "consensus",
        "best blend",
        "marlin, no guard",
        MARLIN,
        CLAIRVOYANT,
    ]
    assert by_name[BASELINE]["value"]["value"] == pytest.approx(1.0)
    assert by_name[CLAIRVOYANT]["value"]["value"] - 1e-3 < by_name["merit order"]["value"]["value"] < 0.9
    assert by_name[CLAIRVOYANT]["captured"]["value"] == pytest.approx(1.0)
    assert by_name[MARLIN]["held_share"] > 0.5 > by_name["marlin, no guard"]["held_share"] == 0.0
    assert by_name[MARLIN]["value"]["value"] < by_name["marlin, no guard"]["value"]["value"]
    assert found["cells"][0]["tuned_on"] == [3]
    assert found["cells"][0]["days"] == [5]
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["framework"] for row in rows] == list(by_name)
    assert {row["artifact"] != "" for row in rows if row["framework"] == MARLIN} == {True}
    assert (tmp_path / "figures" / "captured.png").stat().st_size > 1000


@pytest.mark.timeout(300)
def test_an_evaluation_that_is_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardsticks, "FILLS", yardsticks.FILLS[:1])
    monkeypatch.setattr(yardsticks, "QUANTILES", yardsticks.QUANTILES[:1])
    monkeypatch.setattr(yardsticks, "BASELINES", yardsticks.BASELINES[:1])
    small_artifact(tmp_path / "policy")
    arguments = ["--artifact", str(tmp_path / "policy"), "--scenario", "demo-3", "--seeds", "1", "--brief", "--json"]
    arguments += ["--scheme", "balanced", "--load", "mean30", "--keep", str(tmp_path / "done")]
    whole = run(*arguments)
    asked: list[str] = []

    def watched(name: str) -> None:
        true = getattr(scoring, name)

        def asks(*given: Any, **named: Any) -> Any:
            asked.append(name)
            return true(*given, **named)

        monkeypatch.setattr(scoring, name, asks)

    for name in ("best_simple_policy", "_simulated", "clairvoyant"):
        watched(name)
    assert run(*arguments) == whole
    assert asked == [], "all of it was kept"
    (day,) = [file for file in (tmp_path / "done").iterdir() if CLAIRVOYANT in file.read_text()]
    day.write_text(day.read_text()[:-30])  # killed while it wrote the last line
    assert run(*arguments) == whole
    assert asked == ["clairvoyant"]


def question(folder: Path, dispatch: Dispatch) -> Question:
    scenario = (("base", "demo-3"), ("load", "mean30"))
    return Question(scenario, (None,), dispatch, (1,), only=(BASELINE, SIMPLE), keep=folder / "done")


def test_a_static_order_that_was_chosen_under_shares_is_kept_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"best-static, fill {fill}, quantile {quantile}" for fill, quantile in product((0.95,), (0.0, 1.0))]
    every = yardsticks.simple_policies

    def static_ones(*given: Any, **named: Any) -> Any:
        return [(name, planner) for name, planner in every(*given, **named) if name in names]

    monkeypatch.setattr(yardsticks, "simple_policies", static_ones)
    arguments = (question(tmp_path, Dispatch.SHARES), Leaning(Scheme.BALANCED), SHIPPED.train, SHIPPED.tune)
    train, tune = (replace(part, days=1) for part in arguments[2:])
    first = scoring.best_of_simple(*arguments[:2], train, tune)
    monkeypatch.setattr(scoring, "best_simple_policy", None)
    assert scoring.best_of_simple(*arguments[:2], train, tune) == first
    assert isinstance(first.planner, OriginAware)
    assert isinstance(first.planner.inner, InOrder)
    assert first.planner.inner.static


def test_what_was_kept_before_everybody_had_rows_under_shares_is_done_anew_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = chosen(SHIPPED.report, None, None)[0]
    nearest = make_planner(PlannerKind.NEAREST, dispatch=Dispatch.SHARES)
    simulated: list[str] = []
    true = scoring._simulated

    def watched(*given: Any) -> Any:
        simulated.append(given[1].kind.option)
        return true(*given)

    monkeypatch.setattr(scoring, "_simulated", watched)
    monkeypatch.setattr(scoring, "_everyone", lambda *_: [("", BASELINE, measure()), ("", SIMPLE, nearest)])
    for dispatch, again in ((Dispatch.ORDERED, []), (Dispatch.SHARES, ["capacity-proportional", "nearest"])):
        asked = question(tmp_path, dispatch)
        unit = Unit(Leaning(Scheme.BALANCED), pair, 0, Chosen("nearest", 0.9, nearest))
        with monkeypatch.context() as before:
            before.setattr(Question, "carried_out", property(lambda asked: asked.dispatch))
            scoring.scores(asked, unit)
        simulated.clear()
        scoring.scores(asked, unit)
        assert simulated == again, dispatch


def test_capacity_proportional_as_the_best_simple_policy_is_not_taken_for_the_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was chosen under shares it has rows of origins, which the measure has not."""
    monkeypatch.setattr(scoring, "clairvoyant", lambda *_: pytest.fail("not asked for"))
    best = as_evaluated(measure(), Dispatch.SHARES)
    monkeypatch.setattr(scoring, "_everyone", lambda *_: [("", BASELINE, measure()), ("", SIMPLE, best)])
    pair = chosen(SHIPPED.report, None, None)[0]
    unit = Unit(Leaning(Scheme.MIN_TTFT), pair, 0, Chosen(BASELINE, 0.9, best))
    found = {one.framework: one.value for one in scoring.scores(question(tmp_path, Dispatch.SHARES), unit)}
    assert found[BASELINE] == pytest.approx(1.0)
    assert found[SIMPLE] < 0.95


def measure() -> Planner:
    return make_planner(PlannerKind.CAPACITY_PROPORTIONAL, dispatch=Dispatch.SHARES)


def test_loads_and_kinds_of_power_down_are_evaluated_each_with_each() -> None:
    from marlin.policy.evaluate_cli import _cells

    given: dict[str, Any] = {
        "loads": ("mean30", "peak95"),
        "power_downs": ("None", "Sleep"),
        "dispatches": (),
        "seeds": 2,
        "brief": True,
        "schemes": ("balanced",),
        "weights": (),
        "random_weights": 0,
    }
    found = _cells(given)
    assert [(one["load"], one["power_down"], one["dispatch"]) for _, one in found] == [
        ("mean30", "None", "ordered"),
        ("mean30", "Sleep", "ordered"),
        ("peak95", "None", "ordered"),
        ("peak95", "Sleep", "ordered"),
    ]
    assert {one["only"] for _, one in found} == {(BASELINE, SIMPLE, MARLIN, CLAIRVOYANT)}
    assert {leaning.name for leanings, _ in found for leaning in leanings} == {"balanced"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--days", "3"], "3 is not within 5 to 5"),
        (["--best-of", "many"], "--best-of: 'many' is not numbers"),
        (["--scheme", "min-carbn"], "scheme 'min-carbn' is not known"),
        (["--scenario", "paper-9"], "base: 'paper-9' is not known"),
        (["--trace", "wiki"], "agreed for burstgpt and azure2024 only"),
        (["--out", "scores.txt"], "must end in .parquet or .csv"),
        (["--claim", "--load", "mean30"], "--claim: decides itself about --load"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_simulated(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    small_artifact(tmp_path / "policy")
    shown = run("--artifact", str(tmp_path / "policy"), *arguments, code=2)
    assert message in shown
    assert "Traceback" not in shown


def test_all_schemes_are_evaluated_where_none_is_named() -> None:
    from marlin.policy.evaluate_cli import _leanings

    assert {one.scheme for one in _leanings((), ())} == set(Scheme) - {Scheme.CUSTOM}
    assert [one.name for one in _leanings(("balanced",), ("carbon=1,cost=3",))] == ["balanced", "0,0.25,0,0.75"]


def test_random_weights_are_on_the_simplex_and_the_same_each_time() -> None:
    from marlin.policy.evaluate_cli import _leanings

    drawn = _leanings((), (), 10)
    assert drawn == _leanings((), (), 10)
    assert len({one.name for one in drawn}) == 10
    assert all(sum(one.all_weights) == pytest.approx(1.0) and min(one.all_weights) >= 0 for one in drawn)


# --- the claim -----------------------------------------------------------------------------------------------------


def in_a_cell(
    cell: str, scheme: str, ours: float, *, draws: int, spread: float = 0.0, late: float = 0.0
) -> list[Score]:
    """Everybody in a cell; MARLIN at ``ours``, differing from draw to draw by ``spread``."""
    found = []
    for seed in range(draws):
        mine = ours + spread * (-1) ** seed
        row = [score(BASELINE, 1.0, seed), score(SIMPLE, 0.9, seed), score(MARLIN, mine, seed, "a")]
        row += [score(LIMITED, 0.91, seed), score(ACTOR, 0.92, seed, "a"), score(CLAIRVOYANT, 0.8, seed)]
        row[2] = replace(row[2], late_share=late)
        found += [replace(one, cell=cell, scheme=scheme) for one in row]
    return found


def verdicts(*cells: list[Score]) -> dict[str, str]:
    return {one.line: one.verdict.value for one in judged([one for cell in cells for one in cell])}


NOT_WORSE = "weighted: nowhere more than 1 % worse than the best simple policy"
BETTER = "weighted, in at least one of mean30, peak95 and power-down: at least 1 % better than the best simple policy"
LATE = "late requests: at most 0.1 point above the best simple policy's"


def test_a_line_holds_or_not_by_its_interval_and_is_open_on_few_draws() -> None:
    assert verdicts(in_a_cell("mean56, None, ordered", "balanced", 0.9, draws=4))[NOT_WORSE] == "too few draws"
    assert verdicts(in_a_cell("mean56, None, ordered", "balanced", 0.9, draws=5))[NOT_WORSE] == "holds"
    assert verdicts(in_a_cell("mean56, None, ordered", "balanced", 0.95, draws=5))[NOT_WORSE] == "does not hold"
    wide = in_a_cell("mean56, None, ordered", "balanced", 0.909, draws=6, spread=0.05)
    assert verdicts(wide)[NOT_WORSE] == "too few draws", "the interval has the limit in it"


def test_one_bad_cell_is_enough_against_everywhere_and_one_good_one_for_somewhere() -> None:
    good = in_a_cell("mean30, Sleep, ordered", "balanced", 0.85, draws=5)
    bad = in_a_cell("peak95, Sleep, ordered", "balanced", 0.95, draws=5, late=0.002)
    found = {one.line: one for one in judged([*good, *bad])}
    assert (found[NOT_WORSE].verdict.value, found[BETTER].verdict.value) == ("does not hold", "holds")
    assert found[LATE].verdict.value == "does not hold"
    worst = found[NOT_WORSE].worst
    assert worst is not None
    assert worst.cell == "peak95, Sleep, ordered"
    assert (found[NOT_WORSE].counts["holds"], found[NOT_WORSE].counts["does not hold"]) == (1, 1)
    assert verdicts(good)[NOT_WORSE] == "holds"


def test_what_no_cell_speaks_of_was_not_run_and_metrics_have_lines_of_their_own() -> None:
    single = verdicts(in_a_cell("mean56, None, ordered", "min-carbon", 0.81, draws=5))
    ordered = "carbon, water, cost, no power-down, ordered, up to mean56: within 2 % of the clairvoyant oracle"
    assert single[ordered] == "holds"
    assert single[NOT_WORSE] == single["the same at mean80: within 3 %"] == "not run"
    asleep = verdicts(in_a_cell("mean56, Sleep, ordered", "min-carbon", 0.905, draws=5))
    assert asleep["one metric elsewhere: never more than 1 % worse than the best simple policy"] == "holds"
    recovered = "one metric with power-down, where there is room: at most 90 % of the way to the clairvoyant left"
    assert asleep[recovered] == "does not hold"
    assert asleep[ordered] == "not run"


def test_every_line_of_the_claim_has_a_cell_in_which_it_is_scored() -> None:
    scores = []
    for cell in claim.cells():
        question = Question((("load", cell.load), ("powerDown", cell.power_down)), (None,), Dispatch.ORDERED, BEST_OF)
        for leaning in cell.leanings:
            for framework in cell.only:
                one = score(framework, 0.7 if framework == CLAIRVOYANT else 0.9)
                scores.append(replace(one, cell=question.cell, scheme=leaning.name))
    assert {one.verdict.value for one in judged(scores)} == {"too few draws"}


@pytest.mark.timeout(300)
def test_a_claim_is_judged_as_far_as_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardsticks, "FILLS", yardsticks.FILLS[:1])
    monkeypatch.setattr(yardsticks, "QUANTILES", yardsticks.QUANTILES[:1])
    monkeypatch.setattr(yardsticks, "BASELINES", yardsticks.BASELINES[:1])
    small = [replace(cell, scenario="demo-3") for cell in claim.cells()][:1]
    monkeypatch.setattr(claim, "cells", lambda: iter([*small, *small]))
    small_artifact(tmp_path / "policy")
    arguments = ["--claim", "--artifact", str(tmp_path / "policy"), "--seeds", "1", "--keep", str(tmp_path / "done")]
    arguments += ["--part", "tune", "--days", "4"]
    found = json.loads(run(*arguments, "--minutes", "0.0001", "--json"))
    assert [cell["days"] for cell in found["cells"]] == [[4]], "the day asked for, and the second cell was not begun"
    by_line = {one["line"]: one for one in found["claim"]}
    assert by_line[NOT_WORSE]["verdict"] == "too few draws"
    assert by_line[NOT_WORSE]["worst"]["cell"] == "mean30, None, ordered"
    assert "too few draws" in run(*arguments, "--minutes", "0.0001")
