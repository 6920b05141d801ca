"""What one replica does at a given load: power, batch and time to first token, as curves over its utilisation.

The fluid engine knows requests only as rates. What a rate does to a replica depends on nothing but its utilisation, so
it is worked out here once per replica model and token sizes, at a few ``KNOTS``, and the engine interpolates: that
is why a plan costs so little. Nothing is simulated; four known results of queueing theory do it:

- The replica reads prompts for a share ``rho = rate x prefill`` of its time and decodes in the rest.
- The number of requests it decodes together is a birth-death chain with death rate n / ((T - 1) x step(n)): processor
  sharing with a speed that depends on the state, which depends on the answers' lengths through their mean only.
- A round robin makes arrivals at a replica more even than chance. The chain is sharpened by their peakedness
  z = 1 + (c_a^2 - 1) x eta, where eta = E[min(T1, T2)] / E[T] (Eckberg's formula for G/G/infinity), and tilted so that
  it still carries exactly the rate.
- A prompt waits for the decode step under way, for the prompts before it (G/G/1, Kraemer and Langenbach-Belz), is read,
  and its iteration holds one more decode step of those who are decoding (see ``emulator.batching`` for the rule).

How far that is from simulating every request is measured in docs/explanation/validation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from marlin.simulator.constants import Reading
from marlin.simulator.physics import FloatArray
from marlin.simulator.replica import ReplicaModel
from marlin.simulator.workload.sizes import token_shape

KNOTS: Final = np.array([0.0, 0.015, 0.04, 0.08, 0.15, 0.25, 0.38, 0.53, 0.68, 0.82, 0.92, 1.0])
"""(K,) utilisations between which curves are linear; closer where a first request changes most."""

_MAX_TILT_STEPS: Final = 60
_TINY: Final = 1e-12
_CACHED_CURVES: Final = 4096


@dataclass(frozen=True, slots=True)
class TokenSizes:
    """Means of prompt and answer. The shape around them is the shipped one, as ``workload.requests`` draws it."""

    prompt_tokens: float
    output_tokens: float

    def sample(self) -> tuple[FloatArray, FloatArray]:
        """Equally likely prompts and outputs (S,), at least one token each."""
        shape = token_shape()  # (S, 2)
        prompts, outputs = (
            1.0 + max(mean - 1.0, 0.0) * shape[:, i] for i, mean in enumerate((self.prompt_tokens, self.output_tokens))
        )
        return prompts, outputs


@dataclass(frozen=True, slots=True)
class LoadCurves:
    """A replica at each of ``KNOTS``; (K,) unless another shape is said."""

    capacity_rps: float
    """Requests per second at the largest batch: 1 / (prefill + (T - 1) x step(b) / b)."""
    batch_limit: float
    """Largest mean batch: the replica's, or what the memory of equation (1) holds if that is less."""
    batch: FloatArray
    """Mean requests decoded together."""
    in_flight: FloatArray
    """Mean requests at the replica, by Little's law: those decoding, and those whose prompt is read or waits."""
    power_w: FloatArray
    """Mean power of replica and host, W."""
    first_token_s: FloatArray
    """Mean time to first token without network and without a queue before the replica, s."""
    reading: FloatArray
    """Share of time spent reading prompts."""
    alone: FloatArray
    """Share of requests that find the replica with nothing to do."""
    step_s: FloatArray
    """Mean decode step met by the others, s."""
    wait_s: FloatArray
    """Mean wait for the prompts before, s, of those that do not find it idle."""


@lru_cache(maxsize=_CACHED_CURVES)
def load_curves(
    model: ReplicaModel, sizes: TokenSizes, arrival_scv: float, first_token: Reading = Reading.OURS
) -> LoadCurves:
    """The curves of a replica.

    Args:
        model: the replica.
        sizes: mean tokens of its requests.
        arrival_scv: squared coefficient of variation of the times between arrivals at one replica: 1 for chance,
            1 / m behind a round robin over m.
        first_token: the reading of equation (3)'s execution part.
    """
    prompts, outputs = sizes.sample()
    prefill_s = model.prefill_s(prompts)  # (S,)
    mean_prefill_s, scv_prefill = float(prefill_s.mean()), float(prefill_s.var() / max(prefill_s.mean() ** 2, _TINY))
    steps = max(
        float(outputs.mean()) - 1.0, _TINY
    )  # decode steps of a mean request: its first token comes with reading
    limit = batch_limit(model, sizes)
    step_s = np.asarray(model.step_s)  # (N + 1,)
    whole = np.arange(len(step_s), dtype=np.float64)
    step_at_limit_s = float(np.interp(limit, whole, step_s))
    capacity_rps = 1.0 / (mean_prefill_s + steps * step_at_limit_s / limit)

    rate = KNOTS * capacity_rps  # (K,)
    reading = rate * mean_prefill_s
    top = int(np.ceil(limit))
    n = whole[: top + 1]
    chain = _batch_distribution(
        rate / np.maximum(1.0 - reading, _TINY),
        n[1:] / (steps * step_s[1 : top + 1]),
        1.0 + (arrival_scv - 1.0) * _overlap(outputs),
    )  # (K, N + 1)
    power_w = reading * model.prefill_w + (1.0 - reading) * (chain @ np.asarray(model.decode_w)[: top + 1])
    alone = (1.0 - reading) * chain[:, 0]
    busy = np.maximum(1.0 - chain[:, 0], _TINY)
    met_step_s = np.where(chain[:, 0] < 1.0, (chain @ step_s[: top + 1]) / busy, step_s[1])
    wait_s = _wait_for_prompts_s(reading, mean_prefill_s, met_step_s, arrival_scv, scv_prefill)
    met = 1.0 - alone
    if first_token is Reading.PAPER:
        exec_s = (mean_prefill_s + (steps + 1.0) * met_step_s) / (steps + 1.0)
        first_s = exec_s + met * (0.5 * met_step_s + wait_s)
    else:
        first_s = mean_prefill_s + met * (1.5 * met_step_s + wait_s)
    return LoadCurves(
        capacity_rps=capacity_rps,
        batch_limit=limit,
        batch=chain @ n,
        in_flight=chain @ n + rate * first_s,
        power_w=power_w,
        first_token_s=first_s,
        reading=reading,
        alone=alone,
        step_s=met_step_s,
        wait_s=wait_s,
    )


def batch_limit(model: ReplicaModel, sizes: TokenSizes) -> float:
    """Largest mean batch: equation (1) solved for the number of requests in flight.

    A request met in flight holds its prompt and half of its answer; long answers are met more often.
    """
    prompts, outputs = sizes.sample()
    held_tokens = float((outputs * (prompts + outputs / 2.0)).mean() / outputs.mean())
    return max(1.0, min(float(model.max_batch), model.kv_capacity_tokens / held_tokens))


def _overlap(outputs: FloatArray) -> float:
    """E[min(T1, T2)] / E[T] of equally likely outputs."""
    ordered = np.sort(outputs)
    left = (len(ordered) - np.arange(len(ordered))) * 2.0 - 1.0  # pairs in which this one is the smaller
    return float((ordered * left).sum() / len(ordered) ** 2 / ordered.mean())


def _batch_distribution(
    rate: FloatArray,  # (K,) requests per second of decoding time
    death_rate: FloatArray,  # (N,) finished requests per second at n = 1 .. N
    peakedness: float,
) -> FloatArray:
    """Probability of each number of requests decoded together, (K, N + 1), that carries exactly ``rate``."""
    served = np.concatenate([[0.0], death_rate])  # (N + 1,)
    n = np.arange(len(served), dtype=np.float64)
    log_deaths = np.concatenate([[0.0], np.cumsum(np.log(death_rate))])
    target = np.minimum(rate, served.max() * (1.0 - 1e-9))
    log_weights = (n * np.log(np.maximum(rate, _TINY))[:, None] - log_deaths) / max(peakedness, 0.05)  # (K, N + 1)
    low, high = np.full(len(rate), -50.0), np.full(len(rate), 50.0)
    for _ in range(_MAX_TILT_STEPS):
        tilt = (low + high) / 2.0
        too_little = _normalised(log_weights + tilt[:, None] * n) @ served < target
        low, high = np.where(too_little, tilt, low), np.where(too_little, high, tilt)
    distribution = _normalised(log_weights + ((low + high) / 2.0)[:, None] * n)
    distribution[rate <= 0.0] = n == 0.0
    return distribution


def _normalised(log_weights: FloatArray) -> FloatArray:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _wait_for_prompts_s(
    reading: FloatArray, prefill_s: float, step_s: FloatArray, arrival_scv: float, scv_prefill: float
) -> FloatArray:
    """Mean wait for prompts that came before, (K,) s: Kraemer and Langenbach-Belz's G/G/1."""
    rho = np.minimum(reading, 0.99)
    variability = arrival_scv + scv_prefill
    if arrival_scv <= 1.0:
        exponent = -2.0 * (1.0 - rho) / np.maximum(3.0 * rho, _TINY) * (1.0 - arrival_scv) ** 2 / variability
    else:
        exponent = -(1.0 - rho) * (arrival_scv - 1.0) / (arrival_scv + 4.0 * scv_prefill)
    evenness = np.exp(exponent)
    return np.asarray(rho / (1.0 - rho) * variability / 2.0 * evenness * (prefill_s + step_s))
