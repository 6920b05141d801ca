"""Equations (1) to (11) of the paper, each a pure function named by what it computes.

Arguments broadcast as NumPy does; plain floats work too. Results are float64 arrays of the broadcast shape. Nothing
here checks its input, because it is called for thousands of plans at once: who builds a state has checked it. Where
the paper and this project read a formula differently there are two functions or a switch, and the line says why.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.constants import DEFAULT_SETTINGS, JOULES_PER_KWH, Reading, Settings

FloatArray = NDArray[np.float64]
Floats = float | FloatArray

SECONDS_PER_HOUR: Final = 3600.0


def node_memory_bytes(weights_bytes: Floats, kv_bytes_per_token: Floats, tokens_in_flight: Floats) -> FloatArray:
    """Equation (1): memory a replica uses, bytes: its weights once, and the cache of every token in flight.

    What would exceed the memory waits: see ``ServingProfile.batch_limit``, which is this equation solved for the batch.
    """
    return np.asarray(weights_bytes + np.multiply(kv_bytes_per_token, tokens_in_flight))


def weight_loading_s(weights_bytes: Floats, storage_bytes_per_s: Floats, host_to_gpu_bytes_per_s: Floats) -> FloatArray:
    """LA_load of section 3.1, s: MF_v / BW_n, where BW_n is the slowest link on the way: storage, or the GPUs' PCIe."""
    return np.asarray(np.divide(weights_bytes, np.minimum(storage_bytes_per_s, host_to_gpu_bytes_per_s)))


def network_one_way_ms(
    distance_km: Floats, ms_per_km: Floats, hops: Floats = 0.0, ms_per_hop: Floats = 0.0
) -> FloatArray:
    """Equation (2): LA_net, one way, ms. Used only where no measured round trip exists."""
    return np.asarray(np.multiply(distance_km, ms_per_km) + np.multiply(hops, ms_per_hop))


def first_token_s(
    prefill_s: Floats, step_s: Floats, output_tokens: Floats, reading: Reading = Reading.OURS
) -> FloatArray:
    """The execution part of equation (3): from being scheduled to the first token, s.

    The paper divides the whole execution time by the number of output tokens, which spreads the prefill over them
    and makes a long answer seem to start sooner; ours is the prefill and one decode step.
    """
    if reading is Reading.PAPER:
        return np.asarray((prefill_s + np.multiply(output_tokens, step_s)) / output_tokens)
    return np.asarray(np.add(prefill_s, step_s))


def time_to_first_token_s(load_s: Floats, round_trip_s: Floats, queue_s: Floats, first_s: Floats) -> FloatArray:
    """Equation (3) per request, s: weight loading, network there and back, queue, first token.

    A measured round trip already is 2 x LA_net. The paper has no queue in (3), but queues requests in (1).
    """
    return np.asarray(np.add(load_s, round_trip_s) + np.add(queue_s, first_s))


def it_energy_kwh(power_w: Floats, duration_s: Floats) -> FloatArray:
    """Equations (4) and (5): IT energy, kWh, of machines that draw ``power_w`` together for ``duration_s``."""
    return np.asarray(np.multiply(power_w, duration_s) / JOULES_PER_KWH)


def total_over_it_energy(
    cooling_cop: Floats, infrastructure_overhead: Floats, settings: Settings = DEFAULT_SETTINGS
) -> FloatArray:
    """Equation (6) divided by the IT energy: 1 + 3 / COP + 0.13. A facility's stated PUE stands in its place."""
    return np.asarray(1.0 + np.divide(settings.cooling_energy_factor, cooling_cop) + infrastructure_overhead)


def heat_over_it_energy(total_over_it: Floats, infrastructure_overhead: Floats) -> FloatArray:
    """Heat the cooling must remove, per IT energy: that of the machines and of power distribution.

    A facility that states a PUE below 1 + overhead cannot have more heat than energy, hence the minimum.
    """
    return np.asarray(np.minimum(total_over_it, np.add(1.0, infrastructure_overhead)))


def energy_cost_usd(total_kwh: Floats, price_usd_per_kwh: Floats) -> FloatArray:
    """Equation (7) per site, USD. The price is per kWh and may be negative."""
    return np.asarray(np.multiply(total_kwh, price_usd_per_kwh))


def evaporation_l(heat_kwh: Floats, settings: Settings = DEFAULT_SETTINGS) -> FloatArray:
    """G_E of equation (8), L: the heat over the latent heat of water."""
    return np.asarray(np.multiply(heat_kwh, JOULES_PER_KWH / settings.latent_heat_j_per_l))


def blowdown_l(
    evaporated_l: Floats, cycles_of_concentration: Floats, settings: Settings = DEFAULT_SETTINGS
) -> FloatArray:
    """G_blow of equation (8), L.

    As printed, G_E / (1 - phi), blowdown exceeds evaporation, which no cooling tower does. Ours is the balance of
    dissolved solids: evaporation / (cycles - 1).
    """
    if settings.blowdown is Reading.PAPER:
        return np.asarray(np.divide(evaporated_l, 1.0 - settings.blowdown_threshold_paper))
    return np.asarray(np.divide(evaporated_l, np.subtract(cycles_of_concentration, 1.0)))


def grid_water_l(total_kwh: Floats, water_l_per_kwh: Floats) -> FloatArray:
    """G_grid of equation (8), L: consumed where the power is made."""
    return np.asarray(np.multiply(total_kwh, water_l_per_kwh))


def grid_carbon_gco2(total_kwh: Floats, carbon_gco2_per_kwh: Floats) -> FloatArray:
    """Z_grid of equation (10), gCO2."""
    return np.asarray(np.multiply(total_kwh, carbon_gco2_per_kwh))


def water_carbon_gco2(
    onsite_l: Floats, grid_l: Floats, carbon_gco2_per_kwh: Floats, settings: Settings = DEFAULT_SETTINGS
) -> FloatArray:
    """Z_G of equation (9), gCO2: energy of making potable water and of treating waste water, at the grid's intensity.

    Args:
        onsite_l: evaporation and blowdown, L, to be replaced by potable water.
        grid_l: the grid's water, L, which the paper has treated as waste water.
        carbon_gco2_per_kwh: carbon intensity.
        settings: energy per litre.
    """
    kwh = np.multiply(onsite_l, settings.potable_kwh_per_l) + np.multiply(grid_l, settings.wastewater_kwh_per_l)
    return np.asarray(np.multiply(kwh, carbon_gco2_per_kwh))


def weighted_objective(metrics: FloatArray, weights: FloatArray, reference: FloatArray | float = 1.0) -> FloatArray:
    """Equation (11) for one epoch: the weighted sum of the four metrics.

    Args:
        metrics: (..., 4) in the order of ``METRIC_NAMES``.
        weights: (4,) not negative, adding up to one.
        reference: (4,) or broadcastable to ``metrics``: what a metric is counted in. The paper adds seconds, grams,
            litres and dollars as they are; we divide by what capacity-proportional routing costs, so that a weight
            means the same on every fleet.
    """
    return np.asarray((metrics / reference) @ weights)
