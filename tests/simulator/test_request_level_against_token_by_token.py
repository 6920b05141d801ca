"""The request-level engine against one replica simulated decode step by decode step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import fleet, site
from token_by_token import Run, simulate_tokens

from marlin.api.state import NodeGroupState, PoolDeployment
from marlin.simulator.constants import Settings
from marlin.simulator.fluid import Plans
from marlin.simulator.outcome import Outcome
from marlin.simulator.request_level.engine import RequestLevelEngine
from marlin.simulator.request_level.tally import quantiles_s
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.requests import Requests

PATIENT = Settings(patience_s=1e5)
RTT_S = 0.020


def one_replica(profile: str, accelerator: str, gpus: int, prompt: float, output: float) -> TwinState:
    group = NodeGroupState(name="a100x4", accelerator=accelerator, accelerators_per_node=gpus, nodes=1)
    state = fleet(site("a", node_groups=(group,)), forecast=1.0)
    deployment = PoolDeployment(datacenter="a", node_group="a100x4", replicas=1, tensor_parallel=gpus)
    changes = {
        "profile": profile,
        "mean_prompt_tokens": prompt,
        "mean_output_tokens": output,
        "deployments": (deployment,),
    }
    pool = state.pools[0].model_copy(update=changes)
    return arrays_from(state.model_copy(update={"pools": (pool,)}), PATIENT)


def requests(twin: TwinState, load: float, count: int, prompt: float, output: float) -> Requests:
    """Poisson arrivals at a part of capacity, with widely spread lengths."""
    rng = np.random.default_rng(7)
    rate = load * float(twin.capacity_rps[0, 0])
    zeros = np.zeros(count, dtype=np.int32)
    return Requests(
        np.cumsum(rng.exponential(1.0 / rate, count)),
        zeros,
        zeros,
        np.maximum(rng.gamma(1.5, prompt / 1.5, count), 1).astype(np.int32),
        np.maximum(rng.gamma(1.2, output / 1.2, count), 1).astype(np.int32),
    )


def both(twin: TwinState, given: Requests) -> tuple[Outcome, Run]:
    """Carried out until the reference has written its last token, so that both did the same work."""
    reference = simulate_tokens(twin.models[0], given.arrival_s, given.prompt_tokens, given.output_tokens)
    plan = Plans(np.ones((1, 1, 1)))
    lasting = replace(twin, base_w=np.zeros(1))
    outcome, _ = RequestLevelEngine().replay(lasting, plan, None, given, reference.end_s + 1e-6)
    return outcome, reference


CASES = {
    "7B, one A100": ("Llama-2-7b", "A100-80GB", 1, 621.0, 126.0),
    "70B, four H100": ("Llama-2-70b", "H100-80GB", 4, 1155.0, 211.0),
    "70B, two A100, where memory binds": ("Llama-2-70b", "A100-80GB", 2, 900.0, 400.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("load", [0.2, 0.8, 1.3], ids=["light", "heavy", "overload"])
def test_first_tokens_throughput_and_energy_are_those_of_every_step_simulated(case: str, load: float) -> None:
    profile, accelerator, gpus, prompt, output = CASES[case]
    twin = one_replica(profile, accelerator, gpus, prompt, output)
    outcome, reference = both(twin, requests(twin, load, 1200, prompt, output))
    expected = reference.ttft_s + RTT_S
    assert outcome.served.sum() == reference.finished == len(expected)
    assert outcome.metrics[0] == pytest.approx(expected.mean(), rel=1e-3)
    p50, _, p99 = outcome.ttft_quantiles_s
    assert p50 == pytest.approx(np.quantile(expected, 0.5), rel=0.02)
    assert p99 == pytest.approx(np.quantile(expected, 0.99), rel=0.02)
    # Energy of the same time, and of the same work in it: throughput agrees when both do.
    assert float(outcome.energy_kwh[0]) * 3.6e6 / 1.25 == pytest.approx(reference.joules, rel=1e-3)


def test_where_memory_binds_requests_are_read_again_as_often_as_step_by_step() -> None:
    from marlin.simulator.request_level.engine import plan_of
    from marlin.simulator.request_level.fleet import fleet_from, initial_state
    from marlin.simulator.request_level.kernel import Arrivals, run_epoch
    from marlin.simulator.request_level.tally import empty_tally

    profile, accelerator, gpus, prompt, output = CASES["70B, two A100, where memory binds"]
    twin = one_replica(profile, accelerator, gpus, prompt, output)
    given = requests(twin, 1.3, 800, prompt, output)
    reference = simulate_tokens(twin.models[0], given.arrival_s, given.prompt_tokens, given.output_tokens)
    fleet_ = fleet_from(twin)
    tally = empty_tally(1, 1)
    arrivals = Arrivals(given.arrival_s, given.model, given.origin, given.prompt_tokens, given.output_tokens)
    run_epoch(
        fleet_, initial_state(fleet_), plan_of(twin, fleet_, Plans(np.ones((1, 1, 1)))), arrivals, 0.0,
        reference.end_s, tally,
    )  # fmt: skip
    assert reference.preempted > 20
    assert int(tally.models["preempted"][0]) == pytest.approx(reference.preempted, rel=0.05)


def test_quantiles_of_the_histogram_are_exact_to_a_percent() -> None:
    from marlin.simulator.request_level.tally import BINS, FIRST_BIN_S, LOG_BIN_WIDTH

    times_s = np.random.default_rng(1).lognormal(-1.0, 0.8, 20_000)
    places = (np.log(times_s / FIRST_BIN_S) / LOG_BIN_WIDTH).astype(np.int64)
    histogram = np.bincount(places, minlength=BINS)
    for q in (0.01, 0.5, 0.95, 0.99):
        assert quantiles_s(histogram, [q])[0] == pytest.approx(np.quantile(times_s, q), rel=0.01)
