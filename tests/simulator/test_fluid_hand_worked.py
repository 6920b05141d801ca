"""A fleet of two sites whose four metrics are worked out by hand, equation by equation.

Its replicas hold one request at a time, so that everything the load curves do can be written down: a replica reads,
decodes or idles, and each takes a share of its time that is plain arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from fleets import fleet, site

from marlin.simulator.fluid import capacity_rps, simulate
from marlin.simulator.profiles import load_profile, own_figures_name
from marlin.simulator.twin_state import TwinState, arrays_from
from marlin.simulator.workload.sizes import token_shape

PROMPT, OUTPUT = 512.0, 41.0
PREFILL_S = PROMPT / 2048.0  # 2048 prompt tokens a second
DECODE_S = (OUTPUT - 1.0) / 80.0  # 80 tokens a second, the first of which comes with reading
CAPACITY_RPS = 1.0 / (PREFILL_S + DECODE_S)  # of one replica; there are two at each site
UTILIZATION = 0.25
RATE = UTILIZATION * CAPACITY_RPS
WATTS = 1200.0  # of a replica's GPUs at its largest batch, which is one
HOST_W = 4 * (812.5 - 400.0) * 0.6  # of four A100s
IDLE_W = 4 * 80.0


def toy() -> TwinState:
    clean = site("clean", carbon_gco2_per_kwh=50.0, water_l_per_kwh=10.0, price_usd_per_kwh=0.2)
    dirty = site("dirty", carbon_gco2_per_kwh=500.0, water_l_per_kwh=1.0, price_usd_per_kwh=0.1)
    profile = own_figures_name(2048.0, 80.0, single_stream_tokens_per_s=80.0, max_batch=1, watts=WATTS)
    state = fleet(clean, dirty, forecast=2 * RATE * 900.0, rtt_ms=((20.0, 60.0),))
    changes = {"profile": profile, "mean_prompt_tokens": PROMPT, "mean_output_tokens": OUTPUT}
    return arrays_from(state.model_copy(update={"pools": (state.pools[0].model_copy(update=changes),)}))


def everything_at_the_clean_site() -> np.ndarray:
    return np.array([[1.0, 0.0]])


def test_capacity_is_one_over_reading_and_decoding() -> None:
    assert capacity_rps(toy())[0].tolist() == pytest.approx([2 * CAPACITY_RPS] * 2)


def test_energy_is_that_of_reading_decoding_and_idling_each_for_its_share_of_the_time() -> None:
    result = simulate(toy(), everything_at_the_clean_site())
    reading, decoding = RATE * PREFILL_S, RATE * DECODE_S
    replica_w = HOST_W + (reading + decoding) * WATTS + (1 - reading - decoding) * IDLE_W
    busy_kwh = 1.25 * 2 * replica_w * 900 / 3.6e6
    idle_kwh = 1.25 * 2 * (HOST_W + IDLE_W) * 900 / 3.6e6
    assert result.energy_kwh[0].tolist() == pytest.approx([busy_kwh, idle_kwh], rel=1e-6)


def test_water_carbon_and_cost_follow_from_the_energy() -> None:
    result = simulate(toy(), everything_at_the_clean_site())
    clean_kwh, dirty_kwh = (float(x) for x in result.energy_kwh[0])
    # Heat is the smaller of PUE and 1.13 times the IT energy; evaporation at 2.45 MJ/L; blowdown a third of it.
    onsite_l = [1.13 * kwh / 1.25 * 3.6e6 / 2.45e6 * (1 + 1 / 3) for kwh in (clean_kwh, dirty_kwh)]
    grid_l = [clean_kwh * 10.0, dirty_kwh * 1.0]
    assert result.metrics[0, 2] == pytest.approx(sum(onsite_l) + sum(grid_l))
    # Carbon: the energy, and that of potable and waste water, at the site's intensity.
    treated_kwh = [o * 3.71e-4 + g * 4.07e-4 for o, g in zip(onsite_l, grid_l, strict=True)]
    carbon = 50.0 * (clean_kwh + treated_kwh[0]) + 500.0 * (dirty_kwh + treated_kwh[1])
    assert result.metrics[0, 1] == pytest.approx(carbon)
    assert result.metrics[0, 3] == pytest.approx(0.2 * clean_kwh + 0.1 * dirty_kwh)


def test_the_first_token_comes_after_the_step_under_way_the_prompts_before_and_its_own() -> None:
    result = simulate(toy(), everything_at_the_clean_site())
    reading = RATE * PREFILL_S
    alone = (1 - reading) - RATE * DECODE_S  # neither reading nor decoding
    # Two replicas take turns: arrivals at one have half the variability of chance. Prompts vary as the trace's do.
    arrivals, prompts = 0.5, _prompt_variability()
    evenness = math.exp(-2 * (1 - reading) / (3 * reading) * (1 - arrivals) ** 2 / (arrivals + prompts))
    step_s = 1 / 80.0
    wait_s = reading / (1 - reading) * (arrivals + prompts) / 2 * evenness * (PREFILL_S + step_s)
    ttft_s = PREFILL_S + (1 - alone) * (1.5 * step_s + wait_s) + 0.020
    assert result.metrics[0, 0] == pytest.approx(ttft_s, rel=1e-6)


def _prompt_variability() -> float:
    """Squared coefficient of variation of 1 + (mean - 1) x shape."""
    prompts = 1.0 + (PROMPT - 1.0) * token_shape()[:, 0]
    return float(prompts.var() / prompts.mean() ** 2)


def test_the_profile_reproduces_the_measured_points() -> None:
    profile = load_profile("Llama-2-70b", "A100-80GB", 4)
    assert [profile.prefill_s(n) for n in (512, 1024, 2048)] == pytest.approx([0.1270, 0.2271, 0.4033])
    assert [profile.step_s(b) for b in (1, 8, 16, 32, 64)] == pytest.approx(
        [0.04499, 0.0458, 0.04852, 0.05235, 0.07295]
    )
