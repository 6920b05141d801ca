"""The figures on paper, with matplotlib: one function per figure, from its contents to a ``Figure``.

Lines and shades are told apart by lightness, so that a grey print says the same. Figures are made without pyplot, which
would keep them all and ask for a screen; settings hold for these figures alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from marlin.policy.figures.contents import Arrivals, Costs, Savings, Sites
from marlin.policy.figures.labels import place_labels
from marlin.policy.figures.world import LAND, equal_earth
from marlin.simulator.physics import FloatArray

INK: Final = "#12355b"
PALE: Final = "#8f9aa6"
FAINT: Final = "#e7e9ec"
GREY: Final = "#5b6470"

WIDTH_IN: Final = 7.2
_POWER_DOWNS: Final = {
    "None": "no power-down",
    "IdlePState": "idle P-state",
    "Sleep": "sleep",
    "ScaleToZero": "scale to zero",
}
_MOST_PANELS: Final = 6
_LARGEST_PT: Final = 36.0
"""Radius of a circle that stands for all requests, points."""

_STYLE: Final[Any] = {
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "marlin",
}


@contextmanager
def style() -> Iterator[None]:
    """How figures look and are written; holds while one is drawn or saved."""
    with mpl.rc_context():
        mpl.rcParams.update(_STYLE)
        yield


@style()
def draw_arrivals(content: Arrivals, about: str) -> Figure:
    """Requests per epoch, a panel for each pool; of many pools the smallest share the last panel."""
    names, requests = _few(content.pools, content.requests)
    figure = _figure("Requests that arrived in each epoch of 15 minutes", about, height_in=1.0 + 1.25 * len(names))
    panels = cast("list[Axes]", list(np.atleast_1d(figure.subplots(len(names), 1, sharex=True))))
    edges = _edges(content.start_times)
    for axes, name, counts in zip(panels, names, requests.T, strict=True):
        axes.stairs(counts, edges, fill=True, color=INK, linewidth=0)
        axes.set_title(f"{name}: {counts.sum():,.0f} in all")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    _time_axis(panels[-1], content.start_times)
    return figure


@style()
def draw_costs(content: Costs, planner: str, about: str) -> Figure:
    """The four metrics over time, one above the other."""
    figure = _figure("What each epoch cost", about, height_in=6.4)
    panels = cast("list[Axes]", list(figure.subplots(4, 1, sharex=True)))
    titles = ("Time to first token, mean, s", "Carbon, kgCO2eq", "Water, L", "Cost, USD")
    edges = _edges(content.start_times)
    for i, (axes, title, scale) in enumerate(zip(panels, titles, (1.0, 1e-3, 1.0, 1.0), strict=True)):
        if content.baseline is not None:
            values = content.baseline[:, i] * scale
            axes.stairs(values, edges, baseline=None, color=PALE, linewidth=1.2, label="capacity-proportional")
        axes.stairs(content.metrics[:, i] * scale, edges, baseline=None, color=INK, linewidth=1.3, label=planner)
        axes.set_title(title)
        if content.change is not None:
            axes.set_title(f"{_change(float(content.change[i]))} in all", loc="right", color=INK)
        if axes.dataLim.ymin >= 0.0:
            axes.set_ylim(bottom=0.0)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if content.baseline is not None:
        _legend(figure, panels[0])
    _time_axis(panels[-1], content.start_times)
    return figure


@style()
def draw_sites(content: Sites, about: str) -> Figure:
    """A map of how much each site served and how clean it was, and the shares over time beneath."""
    rows = len(content.names)
    figure = _figure("Where requests were served", about, height_in=4.2 + 0.17 * rows)
    upper, lower = cast("tuple[Axes, Axes]", tuple(figure.subplots(2, 1, height_ratios=[3.0, 0.6 + 0.14 * rows])))
    places, radii = _map(figure, upper, content)
    edges = _edges(content.start_times)
    image = lower.pcolormesh(
        edges, np.arange(rows + 1), content.share_by_epoch.T, cmap="Greys", vmin=0.0, rasterized=True
    )
    lower.set_yticks(np.arange(rows) + 0.5, content.names)
    lower.invert_yaxis()
    lower.tick_params(axis="y", length=0)
    lower.set_title("Share of the requests served in each epoch; sites from west to east")
    bar = figure.colorbar(image, ax=lower, pad=0.015, aspect=12)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.outline.set_linewidth(0.4)
    _time_axis(lower, content.start_times)
    _label_sites(figure, upper, content, places, radii)
    return figure


@style()
def draw_savings(content: Savings, planner: str, about: str) -> Figure:
    """Each metric under each way of powering down, as a part of what it is without; a panel per metric."""
    rows = len(content.power_downs)
    against = "itself without" if content.routing is None else "capacity-proportional under the same"
    note = f"Bars: part of {content.reference} without power-down. Numbers: {planner} against {against} power-down."
    figure = _figure("What routing and powering down save", f"{note}\n{about}", height_in=1.5 + 0.5 * rows)
    panels = cast("list[Axes]", list(figure.subplots(1, 4, sharey=True)))
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(wspace=0.08)
    thick = 0.8 if content.baseline is None else 0.38
    for i, (axes, title) in enumerate(zip(panels, ("TTFT", "Carbon", "Water", "Cost"), strict=True)):
        at = np.arange(rows) + (0.0 if content.baseline is None else thick / 2)
        if content.baseline is not None:
            levels = 1.0 + np.nan_to_num(content.baseline[:, i], nan=-1.0)
            axes.barh(at - thick, levels, thick, color=PALE, label="capacity-proportional")
        levels = 1.0 + np.nan_to_num(content.together[:, i], nan=-1.0)
        axes.barh(at, levels, thick, color=INK, label=planner)
        shown = content.together if content.routing is None else content.routing
        for y, level, change in zip(at, levels, shown[:, i], strict=True):
            axes.annotate(
                _change(float(change)),
                (level, y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
        axes.axvline(1.0, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set_title(title)
        axes.set_xlim(0.0, 1.42 * max(1.0, *axes.dataLim.intervalx))
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    names = [_POWER_DOWNS.get(name, name) for name in content.power_downs]
    served = [f"{np.floor(share * 1e3) / 1e3:.1%} served" for share in content.served_share]
    panels[0].set_yticks(np.arange(rows), [f"{name}\n{share}" for name, share in zip(names, served, strict=True)])
    panels[0].invert_yaxis()
    if content.baseline is not None:
        _legend(figure, panels[0])
    return figure


def _figure(title: str, about: str, *, height_in: float) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color="#1b2430")
    figure.supxlabel(about, x=0.012, ha="left", fontsize=7, color=GREY)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the title."""
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles, names, loc="upper right", bbox_to_anchor=(0.995, 1.0), ncols=2, frameon=False, handlelength=1.6
    )
    legend.set_in_layout(False)


def _map(figure: Figure, axes: Axes, content: Sites) -> tuple[FloatArray, FloatArray]:
    """Draws land and circles; returns their places (D, 2) on the map, and radii (D,) in points."""
    axes.set_axis_off()
    axes.set_aspect("equal")
    outlines = [np.column_stack(_on_map(points)) for points in LAND.values()]
    axes.add_collection(PolyCollection(outlines, facecolor=FAINT, edgecolor="none", zorder=0))
    for latitude in (-30, 0, 30, 60):
        line = np.linspace(-175, 180, 90)
        axes.plot(*equal_earth(line, np.full_like(line, latitude)), color="#d5d9de", linewidth=0.4, zorder=0.5)
    axes.set_xlim(*_on_map([(-170, 0), (180, 0)])[0])
    axes.set_ylim(*_on_map([(0, -56), (0, 76)])[1])
    x, y = _on_map([(longitude, latitude) for latitude, longitude in content.places])
    radii = _LARGEST_PT * np.sqrt(content.share)  # points
    ceiling = max(100.0, 100.0 * np.ceil(float(content.carbon_gco2_per_kwh.max()) / 100.0))
    dots = axes.scatter(
        x,
        y,
        s=np.maximum(2.0 * radii, 2.0) ** 2,
        c=content.carbon_gco2_per_kwh,
        cmap="cividis_r",
        vmin=0.0,
        vmax=ceiling,
        edgecolor="#1b2430",
        linewidth=0.6,
        alpha=0.95,
        zorder=2,
    )
    axes.set_title("Circle: share of all requests served")
    bar = figure.colorbar(dots, ax=axes, pad=0.015, aspect=22, shrink=0.9)
    bar.set_label("emitted, gCO2eq/kWh")
    bar.outline.set_linewidth(0.4)
    return np.column_stack([x, y]), radii


def _label_sites(figure: Figure, axes: Axes, content: Sites, places: FloatArray, radii: FloatArray) -> None:
    """Names and shares beside the circles, once everything else has its place."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_points = 72.0 / figure.dpi
    centres = [(float(a), float(b)) for a, b in axes.transData.transform(places) * to_points]
    texts = [f"{name}  {share:.0%}" for name, share in zip(content.names, content.share, strict=True)]
    font_pt = 7.5 if len(texts) <= 12 else 6.0
    frame = axes.get_window_extent()
    within = tuple(float(edge) * to_points for edge in (frame.x0, frame.y0, frame.x1, frame.y1))
    sizes = [(0.62 * font_pt * len(text), 1.25 * font_pt) for text in texts]
    middles = place_labels(centres, radii.tolist(), sizes, cast("tuple[float, float, float, float]", within))
    for i, (text, centre, middle) in enumerate(zip(texts, centres, middles, strict=True)):
        gaps = [math.dist(centre, other) - radii[i] - radii[k] for k, other in enumerate(centres) if k != i]
        # Where circles overlap, a line says whose name it is.
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#1b2430", "shrinkA": 1.0, "shrinkB": 0.0}
        axes.annotate(
            text,
            centre,
            xycoords="figure points",
            xytext=middle,
            textcoords="figure points",
            ha="center",
            va="center",
            fontsize=font_pt,
            color="#1b2430",
            zorder=3,
            annotation_clip=False,
            arrowprops=line if min(gaps, default=0.0) < 0 else None,
        ).set_in_layout(False)


def _on_map(places: Sequence[tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
    longitude, latitude = np.array(places, dtype=np.float64).T
    return equal_earth(longitude, latitude)


def _edges(start_times: Sequence[datetime]) -> FloatArray:
    """(E + 1,) where epochs begin and the last ends, in matplotlib's days."""
    length = start_times[1] - start_times[0] if len(start_times) > 1 else timedelta(minutes=15)
    return np.asarray(date2num([*start_times, start_times[-1] + length]))  # type: ignore[no-untyped-call]


def _time_axis(axes: Axes, start_times: Sequence[datetime]) -> None:
    edges = _edges(start_times)
    axes.set_xlim(edges[0], edges[-1])
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(  # type: ignore[no-untyped-call]
            locator,
            formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M"],
            zero_formats=["", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
            show_offset=False,
        )
    )
    axes.set_xlabel(f"UTC, from {start_times[0]:%Y-%m-%d}", loc="right")


def _few(names: Sequence[str], values: FloatArray) -> tuple[list[str], FloatArray]:
    """The largest columns, and the rest in one."""
    if len(names) <= _MOST_PANELS:
        return list(names), values
    order = np.argsort(-values.sum(axis=0), kind="stable")
    first, rest = order[: _MOST_PANELS - 1], order[_MOST_PANELS - 1 :]
    columns = np.column_stack([values[:, first], values[:, rest].sum(axis=1)])
    return [*(names[v] for v in first), f"{len(rest)} other pools"], columns


def _short(value: float) -> str:
    """1234567 as 1.23 M: four signs say as much on an axis."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _change(value: float) -> str:
    return "no ratio" if np.isnan(value) else f"{value:+.1%}".replace("-", "\u2212")
