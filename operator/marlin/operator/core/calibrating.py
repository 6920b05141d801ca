"""How fast a pool's replicas are taken to be: as stated, as fitted, or not known yet.

A fit is in the pool's status, so that a restart forgets nothing: it holds until there is a newer one. A pool of which
nothing is known is planned by capacity and costs nobody else a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from marlin.api.pool import FittedProfile, Profile
from marlin.operator.core.observed import ObservedPool
from marlin.operator.engines.fitting import Fit

ASSUMED: Final = Profile(prefill_tokens_per_second="5000", decode_tokens_per_second="1000", max_batch=64)
"""For the capacity of a pool of which nothing is known: says how its sites compare, and nothing of their speed."""

_UNTIL_THEN: Final = "planned by capacity until then"


@dataclass(frozen=True, slots=True)
class EngineSight:
    """What is known of a pool's engines."""

    fit: Fit | None = None
    reason: str = ""
    """Why there is no fit: of the condition ProfileCalibrated."""
    message: str = ""
    running: Mapping[str, float] = field(default_factory=dict)
    """Site to requests that its engines work on."""
    waiting: Mapping[str, float] = field(default_factory=dict)
    is_whole: bool = False
    """Whether all engines were read last time: only then ``running`` and ``waiting`` hold."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How fast a pool's replicas are taken to be."""

    holds: bool
    reason: str
    message: str
    fitted: FittedProfile | None = None
    """In use, where the spec states nothing."""


def calibration_of(pool: ObservedPool, sight: EngineSight | None) -> Calibration:
    """What holds for a readable pool.

    Args:
        pool: the pool, as stated, with its last status.
        sight: what is known of its engines; None: they are not read.
    """
    assert pool.model is not None
    if pool.model.spec.profile is not None:
        return Calibration(True, "Stated", "spec.profile is used as it is")
    before = pool.status.fitted_profile if pool.status is not None else None
    if sight is not None and sight.fit is not None:
        return _fitted(_profile_of(sight.fit))
    if sight is not None and sight.reason == "PoorFit":
        kept = "the last fit stays in use" if before is not None else _UNTIL_THEN
        return Calibration(False, "PoorFit", f"{sight.message}; {kept}; or state spec.profile", before)
    if before is not None:
        return _fitted(before)
    if sight is not None and sight.reason:
        return Calibration(False, sight.reason, f"{sight.message}; {_UNTIL_THEN}")
    said = "state spec.profile, or let a MarlinPolicy with spec.observation.engines read its engines"
    return Calibration(False, "NotObserved", f"{said}; {_UNTIL_THEN}")


def pool_as_calibrated(pool: ObservedPool, calibration: Calibration) -> ObservedPool:
    """The pool with its fitted profile written in, where it states none."""
    if pool.model is None or calibration.fitted is None or pool.model.spec.profile is not None:
        return pool
    spec = pool.model.spec.model_copy(update={"profile": _as_stated(calibration.fitted)})
    return replace(pool, model=pool.model.model_copy(update={"spec": spec}))


def _fitted(fitted: FittedProfile) -> Calibration:
    seen = f", for mean batches up to {fitted.observed_batch}" if fitted.observed_batch is not None else ""
    off = f", {fitted.residual_percent} % off" if fitted.residual_percent is not None else ""
    return Calibration(True, "Calibrated", f"fitted from {fitted.samples} windows of vLLM's metrics{off}{seen}", fitted)


def _profile_of(fit: Fit) -> FittedProfile:
    return FittedProfile(
        prefill_tokens_per_second=f"{fit.prefill_tokens_per_s:.1f}",
        decode_tokens_per_second=f"{fit.decode_tokens_per_s:.1f}",
        single_stream_tokens_per_second=f"{fit.single_stream_tokens_per_s:.2f}",
        max_batch=fit.max_batch,
        kv_capacity_tokens=fit.kv_capacity_tokens,
        samples=fit.samples,
        residual_percent=f"{100 * fit.residual:.1f}",
        observed_batch=f"{fit.most_batch:.1f}",
    )


def _as_stated(fitted: FittedProfile) -> Profile:
    return Profile(
        prefill_tokens_per_second=fitted.prefill_tokens_per_second,
        decode_tokens_per_second=fitted.decode_tokens_per_second,
        single_stream_tokens_per_second=fitted.single_stream_tokens_per_second,
        max_batch=fitted.max_batch,
        kv_capacity_tokens=fitted.kv_capacity_tokens,
    )
