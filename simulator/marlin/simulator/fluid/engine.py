"""Plans in, outcomes out: the fluid engine as everybody calls it.

Nothing is free: what no site can take waits; what would wait longer than users have patience for leaves, enters the
time to first token at that patience, and is charged several times the mean of a served request, so that no plan wins by
not serving (marlin-model, section 3). In = served + queued + rejected is asserted.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from marlin.api.metrics import Metrics
from marlin.api.plan import Dispatch, PoolPlan, RoutingPlan
from marlin.api.values import SHARE_SCALE
from marlin.simulator.fluid import numpy_form
from marlin.simulator.fluid.coefficients import NEVER_S, Coefficients, Conditions, coefficients, conditions
from marlin.simulator.fluid.outcome import Buffers, FluidResult, ModelTotals, Plans, result_from
from marlin.simulator.physics import FloatArray
from marlin.simulator.twin_state import TwinState, in_proportion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from numpy.typing import NDArray

    _Number = TypeVar("_Number", np.float64, np.int64)


class Form(StrEnum):
    """Which implementation of the formulas does the work."""

    NUMPY = "numpy"
    """NumPy alone: no compiler, ready at once."""
    NUMBA = "numba"
    """Compiled; needs the extra ``[sim]``."""


def capacity_rps(twin: TwinState) -> FloatArray:
    """(V, D) requests per second each site can carry of each model, at the mean token sizes."""
    return twin.capacity_rps


def simulate(
    twin: TwinState,
    shares: FloatArray,  # (B, V, D) or (V, D)
    *,
    order: Sequence[Sequence[int]] | NDArray[np.int64] | None = None,  # V orders, or (V, D) or (B, V, D)
    cap: FloatArray | None = None,  # (V, D) or (B, V, D)
    awake: FloatArray | None = None,  # (V, D) or (B, V, D)
    by_origin: FloatArray | None = None,  # (V, R, D)
    form: Form = Form.NUMPY,
) -> FluidResult:
    """Carries plans out on the twin's requests.

    Args:
        twin: the fleet.
        shares: fractions of each model's requests; rows need not add up to one. Under ordered dispatch they only say
            how many plans there are, and which rows exist.
        order: fill these sites in turn instead of using the shares; -1, or the end of a row, ends it.
        cap: part of its capacity each site is filled to in turn. Default: the utilisation limit.
        awake: replicas kept awake where the pool can power down. Default: all.
        by_origin: where each origin's requests go, for network time; without it all origins use the row of shares.
        form: which implementation does the work.

    Raises:
        ValueError: the shapes do not fit the fleet, or a row of shares is empty.
    """
    plans = _plans(twin, shares, order=order, cap=cap, awake=awake, by_origin=by_origin)
    return _run(twin, conditions(twin), plans, form)


def simulate_epochs(twin: TwinState, epochs: Conditions, plans: Plans, form: Form = Form.NUMPY) -> FluidResult:
    """Carries B plans out on B epochs of one fleet, plan b on epoch b.

    Args:
        twin: the fleet: replicas, token sizes and settings of all the epochs.
        epochs: what differs between them.
        plans: one per epoch.
        form: which implementation does the work.

    Raises:
        ValueError: there are not as many epochs as plans.
    """
    if len(epochs) not in {1, len(plans)}:
        raise ValueError(f"{len(epochs)} epochs and {len(plans)} plans do not pair up")
    return _run(twin, epochs, plans, form)


def simulate_each(twin: TwinState, requests: FloatArray, plans: Plans) -> FluidResult:
    """Carries each of N plans out on each of S demands: (N x S) outcomes, the demands of a plan side by side.

    Args:
        twin: the fleet and its epoch; what it expects is not looked at.
        requests: (S, V) that may arrive.
        plans: what to do.
    """
    c, epochs = coefficients(twin), replace(conditions(twin), requests=requests)
    out = Buffers.empty(len(plans) * len(epochs), *c.all_replicas.shape)
    numpy_form.evaluate_each(c, epochs, plans, out)
    result = result_from(out)
    _nobody_is_lost(np.tile(requests + epochs.backlog, (len(plans), 1)), result)
    gone = result.rejected.sum(axis=1)
    if gone.any():
        result.metrics[:, 1:] += np.tile(_charges(twin, epochs), (len(plans), 1)) * gone[:, None]
    return result


def totals_by_model(twin: TwinState, requests: FloatArray, plans: Plans) -> ModelTotals:
    """What each model by itself comes to; arguments and (N x S) rows as of ``simulate_each``.

    Where plans differ in one model each, one row may try a change of every model.
    """
    c, epochs = coefficients(twin), replace(conditions(twin), requests=requests)
    totals, gone = numpy_form.of_models(c, epochs, plans)
    if gone.any():
        charges = np.tile(_charges(twin, epochs), (len(plans), 1))
        totals.footprint[:] += charges[:, None] * gone[:, :, None]
    return totals


_charged: WeakKeyDictionary[TwinState, dict[bytes, FloatArray]] = WeakKeyDictionary()


def _charges(twin: TwinState, epochs: Conditions) -> FloatArray:
    """(S, 3) gCO2, L and USD for each request that leaves, in a state's epoch under S demands; worked out once."""
    kept = _charged.setdefault(twin, {})
    demands = [row.tobytes() for row in epochs.requests]
    if new := [s for s, demand in enumerate(demands) if demand not in kept]:
        of_each = _per_request(coefficients(twin), replace(epochs, requests=epochs.requests[new]), Form.NUMPY)
        kept |= {demands[s]: twin.settings.unserved_charge_factor * row for s, row in zip(new, of_each, strict=True)}
    return np.stack([kept[demand] for demand in demands])


def step(
    twin: TwinState,
    shares: FloatArray,  # (V, D) or (1, V, D)
    *,
    order: Sequence[Sequence[int]] | NDArray[np.int64] | None = None,
    cap: FloatArray | None = None,
    awake: FloatArray | None = None,
    by_origin: FloatArray | None = None,
    form: Form = Form.NUMPY,
) -> tuple[TwinState, FluidResult]:
    """One epoch under one plan, and the fleet with what is left waiting and who is awake for the next one.

    The next epoch's requests and signals are for the caller to put in; see ``dataclasses.replace``.
    """
    result = simulate(twin, shares, order=order, cap=cap, awake=awake, by_origin=by_origin, form=form)
    return after(twin, result), result


def after(twin: TwinState, result: FluidResult) -> TwinState:
    """The fleet with the queue and the awake replicas that the first plan of ``result`` leaves."""
    return replace(twin, backlog_requests=in_proportion(twin, result.queued[0]), awake_before=result.awake[0].copy())


def plans_of(twin: TwinState, plan: RoutingPlan) -> Plans:
    """One ``RoutingPlan`` as the engine takes it, whatever its dispatch.

    The engine fills sites in turn for all pools or for none: where only some are, shares hold, which an order's weights
    are as far as the demand is known.

    Raises:
        ValueError: the plan is for other pools or datacenters.
    """
    if plan.datacenters != twin.datacenter_names or tuple(p.name for p in plan.pools) != twin.pool_names:
        raise ValueError("the plan is for another fleet")
    shares = np.array([pool.weights for pool in plan.pools], dtype=np.float64) / SHARE_SCALE
    is_ordered = all(pool.dispatch is Dispatch.ORDERED for pool in plan.pools)
    has_rows = any(pool.by_origin for pool in plan.pools)
    by_origin = np.array([_origin_rows(pool, twin) for pool in plan.pools]) if has_rows and not is_ordered else None
    everyone = twin.all_replicas
    awake = [pool.replicas or tuple(row) for pool, row in zip(plan.pools, everyone, strict=True)]
    return _plans(
        twin,
        shares,
        order=tuple(pool.order for pool in plan.pools) if is_ordered else None,
        cap=np.array([pool.cap for pool in plan.pools], dtype=np.float64) / SHARE_SCALE if is_ordered else None,
        awake=np.array(awake, dtype=np.float64) if twin.can_sleep.any() else None,
        by_origin=by_origin,
    )


def stacked(twin: TwinState, plans: Sequence[Plans]) -> Plans:
    """Plans side by side, all of one dispatch. Where some have round trips of their own, the others get the fleet's."""

    def all_of(arrays: Sequence[NDArray[_Number] | None]) -> NDArray[_Number] | None:
        there = [array for array in arrays if array is not None]
        return np.concatenate(there) if len(there) == len(arrays) else None

    rtt_s, beyond_s = [plan.rtt_s for plan in plans], [plan.beyond_s for plan in plans]
    if any(one is not None for one in rtt_s):
        usual = twin.mean_rtt_s  # (V, D)
        rtt_s = [np.repeat(usual[None], len(p), axis=0) if p.rtt_s is None else p.rtt_s for p in plans]
        to_each = np.repeat(usual[:, None], usual.shape[1], axis=1)[None]  # whichever site they were sent to
        beyond_s = [np.repeat(to_each, len(p), axis=0) if p.rtt_s is None else p.beyond_s for p in plans]
    return Plans(
        shares=np.concatenate([plan.shares for plan in plans]),
        order=all_of([plan.order for plan in plans]),
        cap=all_of([plan.cap for plan in plans]),
        awake=all_of([plan.awake for plan in plans]),
        rtt_s=all_of(rtt_s),
        beyond_s=all_of(beyond_s),
    )


def _origin_rows(pool: PoolPlan, twin: TwinState) -> FloatArray:
    """(R, D) where each origin's requests go: where everybody's do, if the plan says no more."""
    rows = pool.by_origin or (pool.weights,) * len(twin.rtt_s)
    return np.array(rows, dtype=np.float64) / SHARE_SCALE


def simulate_plan(twin: TwinState, plan: RoutingPlan, form: Form = Form.NUMPY) -> FluidResult:
    """Carries one ``RoutingPlan`` out.

    Raises:
        ValueError: the plan is for other pools or datacenters.
    """
    return _run(twin, conditions(twin), plans_of(twin, plan), form)


def estimate(twin: TwinState, plan: RoutingPlan) -> Metrics:
    """What the twin expects of one plan when the forecast comes true."""
    ttft_s, carbon_gco2, water_l, cost_usd = (float(x) for x in simulate_plan(twin, plan).metrics[0])
    return Metrics(ttft_s=ttft_s, carbon_gco2=carbon_gco2, water_l=water_l, cost_usd=cost_usd)


def awake_for(twin: TwinState, rate_rps: FloatArray, utilization: float) -> FloatArray:
    """(V, D) replicas that carry ``rate_rps`` (V, D) at ``utilization``: whole ones, least energy per request first.

    The paper's consolidation (ECO). At least one replica stays awake where there is any, so that a site that gets a
    share can answer. Where a pool cannot power down all stay awake.
    """
    needed = np.asarray(rate_rps) / utilization  # (V, D) capacity to keep awake
    awake = np.zeros_like(needed)
    left = needed
    for i in range(twin.replicas.shape[2]):
        one = np.maximum(twin.replica_rps[:, :, i], 1e-12)
        kept = np.minimum(np.ceil(left / one - 1e-9), twin.replicas[:, :, i])
        awake += kept
        left = np.maximum(left - kept * one, 0.0)
    awake = np.minimum(np.maximum(awake, 1.0), twin.all_replicas)
    return np.asarray(np.where(twin.can_sleep[:, None], awake, twin.all_replicas))


def _plans(
    twin: TwinState,
    shares: FloatArray,
    *,
    order: Sequence[Sequence[int]] | NDArray[np.int64] | None,
    cap: FloatArray | None,
    awake: FloatArray | None,
    by_origin: FloatArray | None,
) -> Plans:
    """Checked arrays with the plans' axis in front."""
    array = np.asarray(shares, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    models, sites = twin.all_replicas.shape
    if array.ndim != 3 or array.shape[1:] != (models, sites):
        raise ValueError(f"shares must be (B, {models}, {sites}), not {array.shape}")
    if not (array >= 0).all() or not (array.sum(axis=2) > 0).all():
        raise ValueError("shares must not be negative, and every row needs a positive one")
    shape = (len(array), models, sites)
    rtt_s, beyond_s = (None, None) if by_origin is None else _round_trips_s(twin, by_origin)
    return Plans(
        shares=np.ascontiguousarray(array),
        order=None if order is None else _orders(order, shape),
        cap=_each(cap, shape, "cap"),
        awake=_each(awake, shape, "awake"),
        rtt_s=None if rtt_s is None else np.broadcast_to(rtt_s, shape).copy(),
        beyond_s=None if beyond_s is None else np.broadcast_to(beyond_s, (*shape, sites)).copy(),
        by_origin=by_origin,
    )


def _orders(order: Sequence[Sequence[int]] | NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """(B, V, D) positions, short rows filled up with -1."""
    if isinstance(order, np.ndarray):
        return np.ascontiguousarray(np.broadcast_to(order, shape), dtype=np.int64)
    rows = np.full(shape[1:], -1, dtype=np.int64)
    for v, row in enumerate(order):
        rows[v, : len(row)] = row
    return np.broadcast_to(rows, shape).copy()


def _each(values: FloatArray | None, shape: tuple[int, int, int], name: str) -> FloatArray | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    if array.shape not in {shape, shape[1:]}:
        raise ValueError(f"{name} must be {shape[1:]} or {shape}, not {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array, shape))


def _round_trips_s(twin: TwinState, by_origin: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean round trips of the requests that each site is sent, when every origin has a row of its own.

    To that site, (V, D), and to each site that they may spill over to, (V, D, D).
    """
    flow = twin.origin_share[:, :, None] * by_origin  # (V, R, D)
    total = flow.sum(axis=1)
    mean = np.divide((flow * twin.rtt_s).sum(axis=1), total, out=np.zeros_like(total), where=total > 0)
    usual = twin.mean_rtt_s
    rtt_s = np.asarray(np.where(total > 0, mean, usual))
    from_each = np.where(total > 0, total, 1.0)[:, :, None]
    beyond_s = np.where(total[:, :, None] > 0, flow.transpose(0, 2, 1) @ twin.rtt_s / from_each, usual[:, None])
    return rtt_s, np.asarray(beyond_s)


def _run(twin: TwinState, now: Conditions, plans: Plans, form: Form) -> FluidResult:
    c = coefficients(twin)
    result = _evaluate(c, now, plans, form)
    _nobody_is_lost(now.requests + now.backlog, result)
    gone = result.rejected.sum(axis=1)  # (B,)
    if gone.any():
        # A served request of capacity-proportional routing is the measure, so that the charge is the same for all. Of
        # many epochs only those are looked at in which somebody left: mostly a few surges.
        left = np.flatnonzero(gone)
        of_each = _per_request(c, now if len(now) == 1 else now.take(left), form)
        result.metrics[left, 1:] += twin.settings.unserved_charge_factor * of_each * gone[left, None]
    return result


def _nobody_is_lost(came: FloatArray, result: FluidResult) -> None:
    """Whoever came (1 or B, V) is served, waits or has left."""
    total = result.served.sum(axis=2) + result.queued + result.rejected
    assert (np.abs(total - came) <= 1e-6 + 1e-9 * came).all(), "requests were lost or made up"


def _evaluate(c: Coefficients, now: Conditions, plans: Plans, form: Form) -> FluidResult:
    out = Buffers.empty(len(plans), *c.all_replicas.shape)
    if form is Form.NUMBA:
        from marlin.simulator.fluid import numba_form  # noqa: PLC0415 compiled only where it is asked for

        numba_form.evaluate(c, now, plans, out)
    else:
        numpy_form.evaluate(c, now, plans, out)
    return result_from(out)


def per_request(twin: TwinState) -> FloatArray:
    """(3,) gCO2, L and USD of a served request under capacity-proportional routing: what a charge is counted in."""
    return np.asarray(_per_request(coefficients(twin), conditions(twin), Form.NUMPY)[0])


def _per_request(c: Coefficients, now: Conditions, form: Form) -> FloatArray:
    """(N, 3) gCO2, L and USD of a served request under capacity-proportional routing."""
    patient = replace(c, patience_s=NEVER_S)
    shares = np.broadcast_to(np.maximum(now.allowed * c.capacity, 1e-12), (len(now), *c.capacity.shape)).copy()
    base = _evaluate(patient, now, Plans(shares), form)
    served = base.served.sum(axis=(1, 2))
    return np.asarray(np.abs(base.metrics[:, 1:]) / np.maximum(served, 1.0)[:, None])
