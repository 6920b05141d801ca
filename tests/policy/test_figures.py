"""``--plot``: what figures show is what the results say, and the files are whole."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import StepPatch
from matplotlib.path import Path as Outline

from marlin.api.cli import marlin
from marlin.api.metrics import METRIC_NAMES
from marlin.policy.figures import FigureFolder, Recording, arrivals, costs, savings, sites
from marlin.policy.figures.drawing import draw_arrivals, draw_costs, draw_savings, draw_sites
from marlin.policy.figures.labels import place_labels
from marlin.policy.figures.world import LAND, equal_earth
from marlin.policy.simulating import Experiment, prepare
from marlin.simulator.experiment import Summary
from marlin.simulator.scenario_file import Scenario
from marlin.simulator.tables import rows

SCENARIO = {
    "base": "demo-3",
    "datacenters": ["de-lu", "us-cal-ciso"],
    "pools": ["llama-2-7b"],
    "planner": "merit-order",
    "scheme": "min-carbon",
}
pytestmark = pytest.mark.timeout(400)  # runs and drawings take some seconds of a core, which may be busy

NAMES = ("arrivals", "costs", "savings", "sites")


@dataclass(frozen=True)
class Shown:
    """One call of the command, and the same experiment recorded."""

    folder: Path
    experiment: Experiment
    ran: tuple[Recording, Summary]
    against: tuple[Recording, Summary]

    def table(self, name: str = "") -> list[dict[str, str]]:
        return list(csv.DictReader((self.folder / f"run{name}.csv").read_text().splitlines()))


def simulate(folder: Path, *arguments: str) -> str:
    file = folder / "scenario.json"
    file.write_text(json.dumps({"scenario": SCENARIO}))
    result = CliRunner().invoke(marlin, ["simulate", "--quiet", "--scenario", str(file), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("figures")
    simulate(folder, "--out", str(folder / "run.csv"), "--detail", "--plot", str(folder / "new" / "figures"))
    experiment = prepare(Scenario.model_validate(SCENARIO))
    assert experiment.baseline is not None
    ran, against = Recording(), Recording()
    return Shown(
        folder,
        experiment,
        (ran, experiment.run(experiment.planner, [ran])),
        (against, experiment.run(experiment.baseline, [against])),
    )


def column(table: Sequence[dict[str, str]], name: str, **where: str) -> list[float]:
    chosen = [row for row in table if row["is_run_out"] == "False" and all(row[k] == v for k, v in where.items())]
    return [float(row[name]) for row in chosen]


def steps(axes: Axes) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(patch.get_data()[0]) for patch in axes.patches if isinstance(patch, StepPatch)]


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_every_figure_is_there_twice_and_none_is_an_empty_picture(shown: Shown) -> None:
    folder = shown.folder / "new" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    )
    for name in NAMES:
        picture = imread(folder / f"{name}.png")
        assert picture.shape[1] >= 1400
        assert 0.02 < float((picture[..., :3].min(axis=2) < 0.95).mean()) < 0.6
        assert len(np.unique((picture[::4, ::4, :3] * 15).astype(int) @ (256, 16, 1))) > 8
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")


def test_arrivals_are_those_of_the_pools_table_and_are_what_is_drawn(shown: Shown) -> None:
    content = arrivals(shown.ran[0], ["llama-2-7b"])
    assert content.requests[:, 0].tolist() == column(shown.table(".pools"), "arrived", pool="llama-2-7b")
    (drawn,) = steps(panels(draw_arrivals(content, "about"))[0])
    assert drawn.tolist() == content.requests[:, 0].tolist()


def test_many_pools_are_drawn_with_the_smallest_in_one_panel_and_none_lost() -> None:
    recording = Recording()
    from_here = prepare(Scenario.model_validate(SCENARIO))
    from_here.run(from_here.planner, [recording])
    requests = np.arange(96 * 9, dtype=float).reshape(96, 9)
    content = arrivals(recording, [f"pool-{i}" for i in range(9)])
    figure = draw_arrivals(type(content)(content.start_times, content.pools, requests), "about")
    assert len(panels(figure)) == 6
    assert sum(steps(axes)[0].sum() for axes in panels(figure)) == requests.sum()


def test_costs_are_those_of_the_epochs_table_and_the_change_is_the_summary_s(shown: Shown) -> None:
    content = costs(*shown.ran, shown.against)
    table = shown.table(".epochs")
    for i, name in enumerate(METRIC_NAMES):
        served = np.array(column(table, "served")) > 0
        np.testing.assert_allclose(content.metrics[served, i], np.array(column(table, name))[served], rtol=1e-8)
    assert np.isnan(content.metrics[np.array(column(table, "served")) == 0, 0]).all()
    assert content.change is not None
    ours, theirs = shown.ran[1], shown.against[1]
    assert content.change.tolist() == pytest.approx([getattr(ours, m) / getattr(theirs, m) - 1 for m in METRIC_NAMES])
    figure = draw_costs(content, "merit-order", "about")
    assert content.baseline is not None
    for i, (axes, scale) in enumerate(zip(panels(figure), (1.0, 1e-3, 1.0, 1.0), strict=True)):
        theirs_drawn, ours_drawn = steps(axes)
        np.testing.assert_allclose(ours_drawn, content.metrics[:, i] * scale)
        np.testing.assert_allclose(theirs_drawn, content.baseline[:, i] * scale)
        assert axes.get_title("right").startswith(f"{content.change[i]:+.1%}".replace("-", "\u2212"))


def test_sites_are_those_of_the_sites_table_with_circles_as_large_as_their_shares(shown: Shown) -> None:
    content = sites(shown.ran[0], shown.experiment.study.builder.places())
    assert content.names == ["us-cal-ciso", "de-lu"]  # from west to east, whatever the fleet's order
    table = shown.table()
    served = np.array([sum(column(table, "served", datacenter=name)) for name in content.names])
    np.testing.assert_allclose(content.share, served / served.sum(), rtol=1e-6)
    for d, name in enumerate(content.names):
        here = {what: np.array(column(table, what, datacenter=name)) for what in ("share_served", "served")}
        any_served = ~np.isnan(content.share_by_epoch[:, d])
        np.testing.assert_allclose(content.share_by_epoch[any_served, d], here["share_served"][any_served], rtol=1e-6)
        emitted, used = (sum(column(table, what, datacenter=name)) for what in ("carbon_gco2", "energy_kwh"))
        assert content.carbon_gco2_per_kwh[d] == pytest.approx(emitted / used, rel=1e-6)
    upper, lower = panels(draw_sites(content, "about"))
    (dots,) = (artist for artist in upper.collections if isinstance(artist, PathCollection))
    np.testing.assert_allclose(dots.get_sizes() / dots.get_sizes().sum(), content.share, rtol=1e-6)
    assert np.asarray(dots.get_array()).tolist() == content.carbon_gco2_per_kwh.tolist()
    assert [text.get_text().split("  ")[0] for text in upper.texts] == list(content.names)
    assert [label.get_text() for label in lower.get_yticklabels()] == list(content.names)


def test_savings_are_those_of_runs_with_that_power_down(shown: Shown, tmp_path: Path) -> None:
    experiment, ways = shown.experiment, ("None", "Sleep")
    found = {way: json.loads(simulate(tmp_path, "--power-down", way, "--json")) for way in ways}
    runs = {way: _summary(found[way]) for way in ways}
    bases = {way: _summary(found[way]["baseline"]) for way in ways}
    content = savings("merit-order", runs, bases, "None")
    assert experiment.power_down == "None"
    for p, way in enumerate(ways):
        for i, metric in enumerate(METRIC_NAMES):
            assert content.routing is not None
            assert content.routing[p, i] == pytest.approx(found[way]["change"][metric])
            assert content.together[p, i] == pytest.approx(found[way][metric] / found["None"]["baseline"][metric] - 1)
        assert content.served_share[p] == min(found[way]["served_share"], found[way]["baseline"]["served_share"])
    figure = draw_savings(content, "merit-order", "about")
    carbon = panels(figure)[1]
    assert content.baseline is not None
    widths = [bar.get_width() for bar in carbon.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([*(1 + content.baseline[:, 1]), *(1 + content.together[:, 1])])
    assert "served" in panels(figure)[0].get_yticklabels()[1].get_text()


def _summary(found: dict[str, Any]) -> Summary:
    return Summary(**{name: found[name] for name in Summary.__dataclass_fields__})


def test_alone_the_planner_is_compared_with_itself_without_power_down(shown: Shown) -> None:
    runs = {"None": shown.against[1], "Sleep": shown.ran[1]}
    content = savings("capacity-proportional", runs, None, "None")
    assert (content.routing, content.baseline, content.reference) == (None, None, "capacity-proportional")
    assert content.together[0].tolist() == [0.0] * 4
    assert len(panels(draw_savings(content, "capacity-proportional", "about"))) == 4


def test_the_same_figure_gives_the_same_bytes_and_replaces_the_old_one(shown: Shown, tmp_path: Path) -> None:
    content = sites(shown.ran[0], shown.experiment.study.builder.places())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sites.png").write_text("old")
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert FigureFolder(folder).write({"sites": draw_sites(content, "about")}) == [folder / "sites.png"]
    for name in ("sites.png", "sites.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["sites.png", "sites.svg"]


def test_a_disk_that_fills_up_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the write fails in the system, as it would there."""
    (tmp_path / "sites.png").write_text("old")
    done = python(
        "from pathlib import Path\nfrom matplotlib.figure import Figure\n"
        "from marlin.policy.figures import FigureFolder\n"
        "from marlin.api.errors import MarlinError\n"
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        f"try: FigureFolder(Path({str(tmp_path)!r})).write({{'sites': Figure()}})\n"
        "except MarlinError as error: print(error)\n"
    )
    assert done.stdout == f"{tmp_path}: figures cannot be written: File too large\n", done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("sites.png", "old")]


def test_a_folder_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/figures")):
        result = CliRunner().invoke(marlin, ["simulate", "--scenario", "demo-3", "--plot", str(folder)])
        assert result.exit_code == 1
        assert f"{folder}: figures cannot be written: " in result.output
        assert result.output.count("\n") == 1


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_matplotlib_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = python(
        "import sys; sys.modules['matplotlib'] = None\nfrom marlin.api.cli import main\n"
        f"main(['simulate', '--scenario', 'demo-3', '--plot', {str(tmp_path / 'figures')!r}])"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: figures need matplotlib: pip install 'marlin[sim]'\n"
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_imported_only_when_figures_are_asked_for() -> None:
    done = python(
        "import sys\nfrom marlin.api.cli import marlin\n"
        "marlin(['simulate', '--scenario', 'demo-3', '--no-compare', '--quiet'], standalone_mode=False)\n"
        "print({'matplotlib', 'polars', 'numba', 'scipy'} & set(sys.modules))"
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_the_projection_keeps_areas_and_puts_the_corners_where_published() -> None:
    step = 1e-4
    latitude = np.linspace(-85, 85, 35)
    longitude = np.linspace(-170, 170, 35)
    x, y = equal_earth(longitude, latitude)
    east, _ = equal_earth(longitude + step, latitude)
    _, north = equal_earth(longitude, latitude + step)
    area = (east - x) * (north - y)
    np.testing.assert_allclose(area, np.cos(np.radians(latitude)) * np.radians(step) ** 2, rtol=1e-4)
    x, y = equal_earth(np.array([180.0, 0.0]), np.array([0.0, 90.0]))
    assert [float(x[0]), float(y[1])] == pytest.approx([2.7066, 1.3173], abs=1e-4)


@pytest.mark.parametrize("zone", list(rows("zones.csv")), ids=lambda row: row["zone"])
def test_every_shipped_zone_is_on_land_or_within_two_degrees_of_it(zone: dict[str, str]) -> None:
    here = np.array([float(zone["longitude"]), float(zone["latitude"])])
    outlines = [np.array([*points, points[0]]) for points in LAND.values()]
    is_on_land = any(Outline(points).contains_point((float(here[0]), float(here[1]))) for points in outlines)
    nearest = min(float(np.hypot(*(_along(points) - here).T).min()) for points in outlines)
    assert is_on_land or nearest < 2.0


def _along(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    part = np.linspace(0, 1, 20)[:, None, None]
    return np.asarray((points[:-1] * (1 - part) + points[1:] * part).reshape(-1, 2))


places = st.tuples(st.floats(50, 450), st.floats(50, 250))


@given(st.lists(places, min_size=1, max_size=12), st.data())
def test_labels_stay_near_their_circles_and_within_the_map(
    centres: list[tuple[float, float]], data: st.DataObject
) -> None:
    radii = data.draw(st.lists(st.floats(0, 20), min_size=len(centres), max_size=len(centres)))
    middles = place_labels(centres, radii, [(40.0, 10.0)] * len(centres), (0.0, 0.0, 500.0, 300.0))
    for (x, y), (a, b), radius in zip(middles, centres, radii, strict=True):
        assert abs(x - a) - 20 < radius + 30
        assert abs(y - b) - 5 < radius + 30
    if len(centres) == 1:
        ((x, y),) = middles
        assert 20 <= x <= 480
        assert 5 <= y <= 295


def test_labels_of_circles_far_apart_hide_nothing() -> None:
    centres = [(100.0, 100.0), (200.0, 100.0), (300.0, 200.0)]
    middles = place_labels(centres, [10.0] * 3, [(50.0, 10.0)] * 3, (0.0, 0.0, 500.0, 300.0))
    assert middles == [(100 + 10 + 3 + 25, 100.0), (200 + 10 + 3 + 25, 100.0), (300 + 10 + 3 + 25, 200.0)]
