"""The analytic model finds the constants that made its rows, obeys physics, and never sees what it is judged on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marlin.api.errors import InputError
from marlin.simulator.fitting.hardware import accelerator, model_shape
from marlin.simulator.fitting.held_out import Left, leave_one_out
from marlin.simulator.fitting.observations import Observation, PowerObservation, Quantity, Setup, shipped_times
from marlin.simulator.fitting.power import PowerModel, fit_power, utilisation
from marlin.simulator.fitting.roofline import Roofline, decode_peak_s, fit_roofline, relative_error

TRUTH = Roofline(1.5e-4, 1.3, 1.6, 2.5, 4e-5, 3e-5, 1.8, 3.0)
MODELS = ("Llama-2-7b", "Llama-2-70b", "Llama-3-8B", "Llama-3-70B")

setups = st.builds(
    Setup,
    model=st.sampled_from(MODELS),
    accelerator=st.sampled_from(("A100-80GB", "H100-80GB")),
    gpus=st.sampled_from((1, 2, 4, 8)),
    batch=st.floats(1, 256),
    prompt_tokens=st.floats(1, 4096),
    output_tokens=st.floats(1, 4096),
)


def rows(model: str, gpu_counts: tuple[int, ...], truth: Roofline = TRUTH) -> list[Observation]:
    """Rows as a measurement without noise would give them."""
    found = []
    for gpus in gpu_counts:
        for batch in (1.0, 16.0, 64.0):
            run = Setup(model, "H100-80GB", gpus, batch, 512.0, 512.0)
            found.append(Observation(run, Quantity.RUN, truth.run_s(run), "made up"))
        for tokens in (512.0, 2048.0):
            lone = Setup(model, "H100-80GB", gpus, 1.0, tokens, 0.0)
            found.append(Observation(lone, Quantity.PREFILL, truth.prefill_s(lone), "made up"))
    return found


def test_a_fit_explains_rows_without_noise_and_foretells_other_sizes() -> None:
    model = fit_roofline(rows("Llama-2-7b", (1, 2, 4)) + rows("Llama-2-70b", (4,)))
    unseen = rows("Llama-2-70b", (2, 8)) + rows("Llama-3-8B", (1, 4))
    assert max(abs(relative_error(model, o)) for o in unseen) < 0.05


def test_an_outlier_moves_the_fit_little() -> None:
    made = rows("Llama-2-7b", (1, 2, 4)) + rows("Llama-2-70b", (4, 8))
    spoilt = [replace(made[0], seconds=3.0 * made[0].seconds), *made[1:]]
    assert max(abs(relative_error(fit_roofline(spoilt), o)) for o in made[1:]) < 0.1


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_rows_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"needs 8 rows of one GPU type, and has {count}"):
        fit_roofline(rows("Llama-2-7b", (1, 2))[:count])


def test_rows_of_two_gpu_types_are_refused() -> None:
    with pytest.raises(InputError, match="A100-80GB, H100-80GB"):
        fit_roofline(shipped_times())


@given(setups)
def test_a_step_is_never_faster_than_the_datasheet_allows(setup: Setup) -> None:
    peak = decode_peak_s(model_shape(setup.model), accelerator(setup.accelerator), setup)
    assert TRUTH.step_s(setup) >= peak.weights_s + peak.cache_s + peak.flop_s


@given(setups, st.floats(1.0, 4.0))
def test_more_requests_or_longer_ones_never_take_less_time(setup: Setup, factor: float) -> None:
    for more in (
        replace(setup, batch=setup.batch * factor),
        replace(setup, prompt_tokens=setup.prompt_tokens * factor),
        replace(setup, output_tokens=setup.output_tokens * factor),
    ):
        assert TRUTH.run_s(more) >= TRUTH.run_s(setup) * (1 - 1e-12)


def test_grouped_query_attention_reads_a_quarter_of_the_cache() -> None:
    plain, grouped = (
        decode_peak_s(model_shape(model), accelerator("H100-80GB"), Setup(model, "H100-80GB", 1, 8.0, 512.0, 0.0))
        for model in ("Llama-2-7b", "Llama-3-8B")
    )
    assert plain.cache_s == pytest.approx(4.0 * grouped.cache_s)


def test_memory_use_is_what_hand_calculation_gives() -> None:
    setup = Setup("Llama-2-7b", "H100-80GB", 1, 1.0, 1000.0, 100.0)
    memory, arithmetic = utilisation(setup, run_s=1.0)
    assert memory == pytest.approx(100 * (13.477e9 + 1050 * 524288) / 3350e9)
    assert arithmetic == pytest.approx(1100 * 2 * 6738415616 / 989e12)


def test_the_power_fit_finds_the_constants_that_made_its_rows() -> None:
    truth = PowerModel(0.25, 0.5, 1.0)
    made = []
    for batch in (1.0, 8.0, 32.0):
        for gpus, run_s in ((1, 60.0), (2, 90.0)):
            setup = Setup("Llama-2-7b", "H100-80GB", gpus, batch, 512.0, 4096.0)
            fraction = truth.fraction_of_tdp(*utilisation(setup, run_s))
            made.append(PowerObservation(setup, run_s, fraction, "made up"))
    fitted = fit_power(made)
    assert (fitted.floor, fitted.memory, fitted.arithmetic) == pytest.approx((0.25, 0.5, 1.0), rel=1e-6)


def test_power_never_exceeds_the_limit() -> None:
    assert PowerModel(0.5, 1.0, 1.0).fraction_of_tdp(0.9, 0.9) == 1.0


@pytest.mark.parametrize("left", list(Left))
def test_what_is_left_out_does_not_reach_its_own_prediction(left: Left) -> None:
    """Spoiling a row changes predictions of all other groups, never of its own."""
    made = rows("Llama-2-7b", (1, 2, 4)) + rows("Llama-2-70b", (4, 8))
    victim = made[0]
    spoilt = [replace(victim, seconds=2.0 * victim.seconds), *made[1:]]
    before, after = (
        {h.observation.setup: h for h in leave_one_out(observations, left) if h.observation.quantity is Quantity.RUN}
        for observations in (made, spoilt)
    )
    for setup, h in before.items():
        predicted = (1.0 + h.roofline_error) * h.observation.seconds
        again = (1.0 + after[setup].roofline_error) * after[setup].observation.seconds
        is_own = setup.gpus == victim.setup.gpus and (left is Left.GPU_COUNT or setup.batch == victim.setup.batch)
        if setup.model == victim.setup.model and is_own:
            assert again == pytest.approx(predicted, rel=1e-9), setup
    assert any(after[s].roofline_error != pytest.approx(h.roofline_error, rel=1e-6) for s, h in before.items())


def test_beyond_the_rows_the_nearest_two_are_continued() -> None:
    """Level to batch 16, rising after it: batch 1 is foretold by the level part, batch 64 by the rise."""
    setup = Setup("Llama-2-7b", "H100-80GB", 1, 1.0, 576.0, 0.0)
    seconds = {1.0: 8e-3, 8.0: 10e-3, 16.0: 10e-3, 32.0: 14e-3, 64.0: 20e-3}
    made = [
        Observation(replace(setup, gpus=n, batch=b), Quantity.STEP, s, "made up")
        for n in (1, 2)
        for b, s in seconds.items()
    ]
    judged = {h.observation.setup.batch: h.interpolation_error for h in leave_one_out(made, Left.BATCH)}
    assert judged[1.0] == pytest.approx(10e-3 / 8e-3 - 1.0)
    assert judged[64.0] == pytest.approx(22e-3 / 20e-3 - 1.0)
    assert judged[32.0] == pytest.approx((10e-3 + 10e-3 / 3.0) / 14e-3 - 1.0)


def test_interpolation_is_exact_on_a_line_between_and_beyond() -> None:
    """In batch, a step that grows by 1 ms per request; in 1 / n, work that is split evenly."""
    setup = Setup("Llama-2-7b", "H100-80GB", 1, 1.0, 576.0, 0.0)
    made = [
        Observation(replace(setup, gpus=n, batch=b), Quantity.STEP, (5e-3 + 1e-3 * b) / n, "made up")
        for n in (1, 2, 4, 8)
        for b in (1.0, 8.0, 64.0)
    ]
    for left in Left:
        judged = leave_one_out(made, left)
        assert [h.interpolation_error for h in judged] == pytest.approx([0.0] * 12, abs=1e-12)
        assert sum(h.is_edge for h in judged) == (6 if left is Left.GPU_COUNT else 8)
