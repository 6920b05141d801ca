"""The tables of the validation page: observations in, Markdown out, by the name under which a page asks for each.

``shipped_tables`` needs nothing but the package; ``measured_tables`` needs the full data. ``fill`` puts tables between
the marks of a page, so that text and figures stay in one file and the figures are never typed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Final

import numpy as np

from marlin.api.errors import InputError
from marlin.simulator.fitting.energy import (
    ASSUMED_LENGTHS,
    SWEPT_LENGTHS,
    EnergyPrediction,
    Lengths,
    judged,
    predict_energy,
)
from marlin.simulator.fitting.held_out import HeldOut, Left, leave_one_out
from marlin.simulator.fitting.observations import (
    EnergyObservation,
    Observation,
    PowerObservation,
    Quantity,
    bench_times,
    energies,
    power_fractions,
    shipped_times,
)
from marlin.simulator.fitting.power import PowerModel, fit_power, power_error
from marlin.simulator.fitting.roofline import Roofline, fit_roofline, relative_error

ENGINES: Final = ("vLLM", "TensorRT-LLM")
"""Of LLM-Inference-Bench; the first is the one that ML.ENERGY runs too."""
FITTED_FAMILY: Final = "Llama-2"
_ENERGY_GPU: Final = "H100-80GB"
_LONG_NAME: Final = {"Splitwise": "Splitwise, 70B", "Vidur": "Vidur kernel sums, 7B"}

Group = tuple[str, str]
"""(GPU type, engine or source): what one fit belongs to."""


def shipped_tables() -> dict[str, str]:
    """Tables that the shipped data suffice for."""
    groups = _grouped(shipped_times())
    return {
        "constants-shipped": _constants({group: fit_roofline(rows) for group, rows in groups.items()}),
        "held-out-shipped": _held_out(groups),
    }


def measured_tables(data: Path) -> dict[str, str]:
    """Tables that need the folder of full data.

    Raises:
        InputError: a file is missing, or a row cannot be read.
    """
    times = [o for engine in ENGINES for o in bench_times(data, engine)]
    fitted = _grouped(o for o in times if o.setup.model.startswith(FITTED_FAMILY))
    rooflines = {group: fit_roofline(rows) for group, rows in fitted.items()}
    powers = power_fractions(data)
    power_rows = [o for o in powers if o.setup.model.startswith(FITTED_FAMILY)]
    power = fit_power(power_rows)
    measured = energies(data)
    return {
        "constants-runs": _constants(rooflines),
        "held-out-runs": _held_out(fitted),
        "other-model": _other_model(times, rooflines),
        "power": _power(powers, power),
        "energy": _energy(rooflines[(_ENERGY_GPU, ENGINES[0])], power, measured),
        "energy-variants": _variants(rooflines, power_rows, judged(measured, "v3")),
    }


def fill(page: str, tables: Mapping[str, str]) -> str:
    """``page`` with each table between ``<!-- NAME -->`` and ``<!-- /NAME -->``; other text stays.

    Raises:
        InputError: the page asks for a table that there is not, or does not close a mark.
    """
    for name in re.findall(r"<!-- ([a-z-]+) -->", page):
        if name not in tables:
            raise InputError(f"the page asks for table {name!r}; there are {', '.join(tables)}")
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        old, closed, after = rest.partition(end)
        if not closed:
            raise InputError(f"the page opens {begin} and never closes it: add {end} ({len(old)} characters follow)")
        page = f"{before}{begin}\n\n{tables[name]}\n\n{end}{after}"
    return page


def _grouped(observations: Iterable[Observation]) -> dict[Group, list[Observation]]:
    groups: dict[Group, list[Observation]] = defaultdict(list)
    for o in observations:
        groups[(o.setup.accelerator, o.source)].append(o)
    return groups


def _constants(rooflines: Mapping[Group, Roofline]) -> str:
    """What was fitted, in units that can be compared."""
    rows = []
    for (gpu, source), roofline in rooflines.items():
        launch, weights, cached, flop, request, reduce, prefill, link = astuple(roofline)
        times = [f"{x * 1e6:.0f}" for x in (launch, request, reduce)]
        factors = [f"{x:.2f}" for x in (weights, cached, flop, prefill, link)]
        rows.append([_LONG_NAME.get(source, source), gpu, *times, *factors])
    head = (
        "engine", "GPU", "launch, us/layer", "us/request", "add up, us/layer",
        "weights x", "cache x", "decode flop x", "prefill flop x", "prefill link x",
    )  # fmt: skip
    return _table(head, rows)


def _held_out(groups: Mapping[Group, Sequence[Observation]]) -> str:
    rows = []
    for (gpu, source), observations in groups.items():
        judged_rows = [h for left in Left for h in leave_one_out(observations, left)]
        for left in Left:
            for quantity in Quantity:
                for is_edge in (False, True):
                    alike = [
                        h
                        for h in judged_rows
                        if (h.left, h.observation.quantity, h.is_edge) == (left, quantity, is_edge)
                        and h.interpolation_error is not None
                    ]
                    if alike:
                        rows.append(_held_out_row(_LONG_NAME.get(source, source), gpu, alike))
    head = ("engine", "GPU", "left out", "predicted", "where", "rows", "roofline", "interpolation")
    return _table(head, rows)


def _held_out_row(source: str, gpu: str, alike: Sequence[HeldOut]) -> list[str]:
    first = alike[0]
    return [
        source,
        gpu,
        str(first.left),
        str(first.observation.quantity),
        "beyond" if first.is_edge else "between",
        str(len(alike)),
        _spread([h.roofline_error for h in alike]),
        _spread([h.interpolation_error for h in alike if h.interpolation_error is not None]),
    ]


def _other_model(times: Sequence[Observation], rooflines: Mapping[Group, Roofline]) -> str:
    """Llama-3 times from fits on Llama-2."""
    errors: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for o in times:
        if not o.setup.model.startswith(FITTED_FAMILY):
            roofline = rooflines[(o.setup.accelerator, o.source)]
            errors[(o.source, o.setup.accelerator, o.setup.model)].append(relative_error(roofline, o))
    rows = [[*key, str(len(e)), _spread(e), f"{np.mean(e):+.0%}"] for key, e in errors.items()]
    return _table(("engine", "GPU", "model", "rows", "error", "mean"), rows)


def _power(powers: Sequence[PowerObservation], model: PowerModel) -> str:
    errors: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for o in powers:
        is_fitted = "yes" if o.setup.model.startswith(FITTED_FAMILY) else "no"
        errors[(o.source, o.setup.accelerator, o.setup.model, is_fitted)].append(power_error(model, o))
    rows = [[*key, str(len(e)), _spread(e), f"{np.mean(e):+.0%}"] for key, e in errors.items()]
    formula = (
        f"fraction of TDP = {model.floor:.2f} + {model.memory:.2f} x memory use"
        f" + {model.arithmetic:.2f} x arithmetic use, at most 1"
    )
    return f"{formula}\n\n" + _table(("source", "GPU", "model", "in the fit", "rows", "error", "mean"), rows)


def _energy(roofline: Roofline, power: PowerModel, measured: Sequence[EnergyObservation]) -> str:
    older = {(o.model, round(o.batch)): o for o in judged(measured, "v2")}
    rows = []
    for o in judged(measured, "v3"):
        p = predict_energy(roofline, power, o)
        v2 = older.get((o.model, round(o.batch)))
        rows.append(
            [
                f"{o.model} on {o.gpus}",
                f"{o.batch:.0f}",
                f"{p.energy_j_per_token:.3f}",
                f"{o.energy_j_per_token:.3f}",
                f"{p.error:+.0%}",
                f"{p.rate_error:+.0%}",
                f"{p.power_error:+.0%}",
                f"{v2.energy_j_per_token:.3f}" if v2 else "-",
                f"{v2.energy_j_per_token / o.energy_j_per_token:.2f}" if v2 else "-",
                f"{p.energy_j_per_token / v2.energy_j_per_token - 1.0:+.0%}" if v2 else "-",
            ]
        )
    head = (
        "model", "batch", "predicted, J/token", "v3, J/token", "error",
        "tokens/s", "power", "v2, J/token", "v2 over v3", "error against v2",
    )  # fmt: skip
    return _table(head, rows)


def _variants(
    rooflines: Mapping[Group, Roofline], power_rows: Sequence[PowerObservation], measured: Sequence[EnergyObservation]
) -> str:
    """The worst error against v3 for other choices than the headline's: none was chosen by it."""
    powers = {"all": power_rows}
    for source in sorted({o.source for o in power_rows}):
        powers[f"{source} only"] = [o for o in power_rows if o.source == source]
    rows = []
    for engine in ENGINES:
        for name, chosen in powers.items():
            for lengths in SWEPT_LENGTHS:
                if name != "all" and lengths != ASSUMED_LENGTHS:
                    continue
                model = fit_power(chosen)
                found = [predict_energy(rooflines[(_ENERGY_GPU, engine)], model, o, lengths) for o in measured]
                rows.append([engine, name, _lengths(lengths), *_worst_by_model(found)])
    models = sorted({o.model for o in measured})
    return _table(
        ("times from", "power from", "prompt + output", *(f"worst, {m}" for m in models), "within 30 %"), rows
    )


def _worst_by_model(found: Sequence[EnergyPrediction]) -> list[str]:
    worst = [
        max((p.error for p in found if p.observation.model == model), key=abs)
        for model in sorted({p.observation.model for p in found})
    ]
    return [*(f"{e:+.0%}" for e in worst), "yes" if max(map(abs, worst)) <= 0.30 else "no"]


def _lengths(lengths: Lengths) -> str:
    return f"{lengths.prompt:.0f} + {lengths.output:.0f}"


def _spread(errors: Sequence[float]) -> str:
    """Median, 90th percentile and worst of the absolute relative errors."""
    median, p90, worst = np.quantile(np.abs(errors), (0.5, 0.9, 1.0))
    return f"{median:.0%} / {p90:.0%} / {worst:.0%}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
