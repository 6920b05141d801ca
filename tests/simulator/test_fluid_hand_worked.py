"""A fleet of two sites whose four metrics are worked out by hand, equation by equation."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import fleet, site

from marlin.simulator.fluid import capacity_rps, simulate
from marlin.simulator.profiles import load_profile
from marlin.simulator.twin_state import TwinState, arrays_from

REQUESTS = 900.0  # one per second over the epoch
PROMPT, OUTPUT = 512.0, 100.0


def toy() -> TwinState:
    clean = site("clean", carbon_gco2_per_kwh=50.0, water_l_per_kwh=10.0, price_usd_per_kwh=0.2)
    dirty = site("dirty", carbon_gco2_per_kwh=500.0, water_l_per_kwh=1.0, price_usd_per_kwh=0.1)
    state = fleet(clean, dirty, forecast=REQUESTS, rtt_ms=((20.0, 60.0),))
    pool = state.pools[0].model_copy(update={"mean_prompt_tokens": PROMPT, "mean_output_tokens": OUTPUT})
    return arrays_from(state.model_copy(update={"pools": (pool,)}))


def test_capacity_is_one_over_prefill_and_a_full_batch_of_decoding() -> None:
    # Table: Llama-2-70b on 4 x A100: prefill of 512 tokens 127.0 ms, step at batch 64 72.95 ms; two replicas.
    expected = 2 / (0.1270 + 100 * 0.07295 / 64)
    assert capacity_rps(toy())[0].tolist() == pytest.approx([expected, expected], rel=1e-3)


def test_the_four_metrics_of_everything_at_the_clean_site() -> None:
    result = simulate(toy(), np.array([[1.0, 0.0]]))
    rate = 0.5  # one request per second over two replicas
    # Little's law: b = rate x T x step(b) / (1 - rate x prefill), on the piece from batch 1 to 8.
    q = rate * 100 / (1 - rate * 0.127)
    slope = (0.0458 - 0.04499) / 7
    batch = q * (0.04499 - slope) / (1 - q * slope)
    step_s = 0.04499 + slope * (batch - 1)
    assert 1 < batch < 8
    reading = rate * 0.127
    first_token_s = 0.127 + step_s
    wait_s = reading * 0.127 / (2 * (1 - reading)) + step_s / 2
    assert result.metrics[0, 0] == pytest.approx(wait_s + first_token_s + 0.020, rel=1e-3)

    # Power: 4 GPUs of 400 W a replica. Decoding fraction from the table at batch 1 and 8; reading is at the peak.
    profile_w = 4 * 400.0
    decode_1, decode_8, peak = _fractions()
    decoding_w = profile_w * (decode_1 + (decode_8 - decode_1) * (batch - 1) / 7)
    replica_w = reading * profile_w * peak + (1 - reading) * decoding_w
    host_w = 2 * 4 * (812.5 - 400.0) * 0.6  # two nodes of four GPUs
    idle_w = 2 * 4 * 80.0
    busy_kwh = (2 * replica_w + host_w) * 900 / 3.6e6
    idle_kwh = (idle_w + host_w) * 900 / 3.6e6
    clean_kwh, dirty_kwh = 1.25 * busy_kwh, 1.25 * idle_kwh
    assert result.energy_kwh[0].tolist() == pytest.approx([clean_kwh, dirty_kwh], rel=1e-3)

    # Water: heat is the smaller of PUE and 1.13 times the IT energy; evaporation at 2.45 MJ/L; blowdown a third of it.
    onsite = [1.13 * kwh * 3.6e6 / 2.45e6 * (1 + 1 / 3) for kwh in (busy_kwh, idle_kwh)]
    grid = [clean_kwh * 10.0, dirty_kwh * 1.0]
    assert result.metrics[0, 2] == pytest.approx(sum(onsite) + sum(grid), rel=1e-3)

    # Carbon: the energy, and that of potable and waste water, at the site's intensity.
    water_kwh = [o * 3.71e-4 + g * 4.07e-4 for o, g in zip(onsite, grid, strict=True)]
    carbon = 50.0 * (clean_kwh + water_kwh[0]) + 500.0 * (dirty_kwh + water_kwh[1])
    assert result.metrics[0, 1] == pytest.approx(carbon, rel=1e-3)
    assert result.metrics[0, 3] == pytest.approx(0.2 * clean_kwh + 0.1 * dirty_kwh, rel=1e-3)


def _fractions() -> tuple[float, float, float]:
    """Power over TDP of Llama-2-70b on 4 x A100 at batch 1 and 8, and while reading: read off the shipped table."""
    from marlin.simulator import tables

    rows = {
        (row["phase"], float(row["batch"])): float(row["fraction_of_gpu_tdp"])
        for row in tables.rows("power_fraction.csv")
        if (row["model"], row["accelerator"], row["tensor_parallel"]) == ("Llama-2-70b", "A100-80GB", "4")
    }
    return rows["decode", 1.0], rows["decode", 8.0], rows["prefill", 1.0]


def test_the_profile_reproduces_the_measured_points() -> None:
    profile = load_profile("Llama-2-70b", "A100-80GB", 4)
    assert [profile.prefill_s(n) for n in (512, 1024, 2048)] == pytest.approx([0.1270, 0.2271, 0.4033])
    assert [profile.step_s(b) for b in (1, 8, 16, 32, 64)] == pytest.approx(
        [0.04499, 0.0458, 0.04852, 0.05235, 0.07295]
    )
