"""The transport problem: goods at some places, wanted at others, moved at the least cost.

A linear program for HiGHS, by its own small Python package: SciPy holds the same solver, but takes thirteen times as
long to load and five times the memory (275 ms and 51 MB), and the operator needs nothing else of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marlin.api.errors import MarlinError
from marlin.simulator.physics import FloatArray

if TYPE_CHECKING:
    from highspy import Highs


def least_cost_flow(
    cost: FloatArray,  # (R, D) of one unit from here to there
    supply: FloatArray,  # (R,) positive
    demand: FloatArray,  # (D,) positive, of the same sum
) -> FloatArray:
    """Flow (R, D) that is not negative, takes all of the supply, meets all of the demand, and costs least.

    Balanced to 1e-7 of a unit.

    Raises:
        MarlinError: highspy is not installed.
    """
    solver = quiet_solver()
    import highspy  # noqa: PLC0415 it is there, as the line before said

    origins, sites = cost.shape
    # The last site's equation follows from all the others, and would only make them depend on each other's rounding.
    amounts = np.concatenate([supply, demand[:-1]])
    ends = np.full((origins, sites, 2), -1)
    ends[..., 0] = np.arange(origins)[:, None]
    ends[:, :-1, 1] = origins + np.arange(sites - 1)
    rows = ends[ends >= 0]  # of each column in turn
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = cost.size, len(amounts)
    program.col_cost_ = cost.reshape(-1)
    program.col_lower_, program.col_upper_ = np.zeros(cost.size), np.full(cost.size, np.inf)
    program.row_lower_ = program.row_upper_ = amounts
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = np.concatenate([[0], (ends >= 0).sum(axis=2).reshape(-1).cumsum()])
    program.a_matrix_.index_, program.a_matrix_.value_ = rows, np.ones(len(rows))
    solver.passModel(program)
    solver.run()
    status = solver.getModelStatus()
    # Supply and demand have one sum, so that it always has a solution.
    assert status == highspy.HighsModelStatus.kOptimal, solver.modelStatusToString(status)
    found: FloatArray = np.array(solver.getSolution().col_value, dtype=np.float64)
    return np.maximum(found.reshape(origins, sites), 0.0)


def quiet_solver() -> Highs:
    """A solver that prints nothing and starts no threads.

    Raises:
        MarlinError: highspy is not installed.
    """
    try:
        from highspy import Highs  # noqa: PLC0415 whoever asks for no rows of origins does without
    except ModuleNotFoundError as error:
        raise MarlinError(f"origin-aware dispatch needs {error.name}: pip install 'marlin[demo]'") from error

    class Quiet(Highs):
        """Its callbacks are left out: setting them up prints a banner before anybody can say not to."""

        def enableCallbacks(self) -> None:  # noqa: N802 its name
            self.silent()
            self.setOptionValue("threads", 1)

    solver: Highs = Quiet()  # type: ignore[no-untyped-call]
    return solver
