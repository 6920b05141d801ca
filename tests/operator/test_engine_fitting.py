"""How fast engines are is found out of their counters, and what does not suffice for it is said."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from driven_engine import Asked, driven

from marlin.operator.engines.counting import EngineCounts, between, counts_of
from marlin.operator.engines.fitting import Fit, NoFit, fit
from marlin.operator.engines.watching import Engines, Reading
from marlin.operator.scraping.samples import of_page
from marlin.simulator.profiles import ServingProfile, load_profile, own_figures_name

OWN = own_figures_name(8000, 1200, single_stream_tokens_per_s=45)
KINDS = [("Llama-2-70b", "A100-80GB", 4), ("Llama-2-7b", "H100-80GB", 1), (OWN, "A100-80GB", 1)]


def capacity_rps(profile: ServingProfile, asked: Asked) -> float:
    full = profile.max_batch
    return 1 / (profile.prefill_s(asked.prompt_tokens) + (asked.output_tokens - 1) * profile.step_s(full) / full)


def fit_of(profile: ServingProfile, asked: Asked, low: float, high: float, windows: int = 30) -> Fit | NoFit:
    """The fit after as many windows, of a load that rises from one part of its capacity to another."""
    most = capacity_rps(profile, asked)
    rates = [most * (low + (high - low) * i / (windows - 1)) for i in range(windows)]
    readings = list(driven(profile, rates, 250.0 / most, asked))
    done = (between(b[1], a[1], b[0] - a[0]) for a, b in itertools.pairwise(readings))
    return fit([one for one in done if one is not None])


@pytest.mark.parametrize("kind", KINDS, ids=["70b", "7b", "own"])
@pytest.mark.parametrize("prompt_tokens", [200.0, 621.0])
def test_the_constants_of_an_engine_are_found_within_a_few_per_cent(
    kind: tuple[str, str, int], prompt_tokens: float
) -> None:
    profile, asked = load_profile(*kind), Asked(prompt_tokens)
    found = fit_of(profile, asked, 0.05, 0.7)
    assert isinstance(found, Fit)
    reading_s = asked.prompt_tokens / found.prefill_tokens_per_s
    # The shipped profiles are no straight lines, so that a line can be off by what they bend.
    bend = 0.03 if kind[0] == OWN else 0.1
    assert reading_s == pytest.approx(profile.prefill_s(asked.prompt_tokens), rel=bend)
    assert found.single_stream_tokens_per_s == pytest.approx(1 / profile.step_s(1), rel=0.03)
    seen_s = found.base_s + found.per_request_s * found.most_batch
    assert seen_s == pytest.approx(profile.step_s(found.most_batch), rel=0.06)
    full = profile.max_batch
    expected_rps = 1 / (reading_s + (asked.output_tokens - 1) * (found.base_s / full + found.per_request_s))
    assert expected_rps == pytest.approx(capacity_rps(profile, asked), rel=0.12)
    assert found.residual < 0.08


def test_a_load_that_does_not_vary_says_nothing_about_what_load_does() -> None:
    found = fit_of(load_profile(*KINDS[0]), Asked(), 0.5, 0.5)
    assert isinstance(found, NoFit)
    assert (found.reason, "hardly varied" in found.message) == ("Collecting", True)


def test_few_requests_are_not_enough() -> None:
    found = fit_of(load_profile(*KINDS[0]), Asked(), 0.05, 0.7, windows=6)
    assert found == NoFit("Collecting", "its engines have answered too few requests so far to tell how fast they are")


def test_engines_of_two_kinds_have_no_common_speed() -> None:
    windows = []
    for kind in KINDS[:2]:
        profile = load_profile(*kind)
        most = capacity_rps(profile, Asked())
        readings = list(driven(profile, [most * (0.05 + 0.02 * i) for i in range(20)], 150 / most, Asked()))
        done = (between(b[1], a[1], b[0] - a[0]) for a, b in itertools.pairwise(readings))
        windows += [one for one in done if one is not None]
    found = fit(windows)
    assert isinstance(found, NoFit)
    assert found.reason == "PoorFit"


def test_an_engine_that_was_started_anew_gives_no_while() -> None:
    (_, before), (at_s, after) = driven(load_profile(*KINDS[0]), [1.0], 60.0, Asked())
    assert between(after, before, at_s) is not None
    assert between(before, after, at_s) is None
    assert between(after, after, at_s) is None


def test_readings_become_windows_and_windows_a_fit_that_stays_while_nothing_new_is_learnt() -> None:
    profile, asked = load_profile(*KINDS[2]), Asked()
    most = capacity_rps(profile, asked)
    engines, place = Engines(), ("frankfurt", "0")
    fits = []
    for at_s, driven_counts in driven(profile, [most * (0.05 + 0.02 * i) for i in range(30)], 20.0, asked):
        counts = replace(driven_counts, running=3.0, waiting=1.0, kv_capacity_tokens=500_000)
        engines = engines.read({place: Reading(counts, at_s)})
        fits.append(engines.fitted)
    assert isinstance(engines.fitted, Fit)
    assert engines.fitted.kv_capacity_tokens == 500_000
    assert engines.fitted.prefill_tokens_per_s == pytest.approx(8000, rel=0.05)
    changes = sum(a is not b for a, b in itertools.pairwise(fits))
    assert changes < 10  # of thirty readings
    assert max(len(windows) for windows in engines.kept.values()) <= 12
    assert (engines.running(), engines.waiting()) == ({"frankfurt": 3.0}, {"frankfurt": 1.0})


def test_a_while_that_took_too_long_is_thrown_away() -> None:
    place = ("", "0")
    slow = [EngineCounts(gaps=10.0 * i, gaps_s=0.5 * i, iterations=10.0 * i, requests=0.2 * i) for i in range(60)]
    engines = Engines()
    for i, counts in enumerate(slow):
        engines = engines.read({place: Reading(counts, 30.0 * i)})
    assert engines.kept == {}


def test_the_newer_name_of_a_metric_goes_first_and_the_older_one_is_understood() -> None:
    older = b'vllm:time_per_output_token_seconds_sum{engine="0",model_name="m"} 7\n'
    newer = b'vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 9\n'
    for page, expected in ((older, 7.0), (older + newer, 9.0), (newer + older, 9.0)):
        assert counts_of(of_page(page, "vllm:"))["0"].gaps_s == expected


def test_only_the_pools_own_model_counts_and_the_size_of_the_cache_is_read() -> None:
    page = (
        b'vllm:num_requests_running{engine="0",model_name="a"} 2\n'
        b'vllm:num_requests_running{engine="0",model_name="b"} 5\n'
        b'vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="1000"} 1\n'
    )
    counts = counts_of(of_page(page, "vllm:"), "a")["0"]
    assert (counts.running, counts.kv_capacity_tokens) == (2.0, 16_000)
    assert counts_of(of_page(b"python_info 1\n", "vllm:")) == {}


def test_prompts_that_lay_in_the_prefix_cache_were_not_read() -> None:
    before = EngineCounts(read_tokens=0.0)
    after = EngineCounts(
        gaps=100, gaps_s=5, iterations=50, prompt_tokens=4000, asked_tokens=3000, read_tokens=750, requests=10
    )
    found = between(after, before, 10.0)
    assert found is not None
    assert (found.prompt_tokens_per_s, found.prompt_tokens) == (100.0, 75.0)
    assert (found.batch, found.decoding) == (2.0, 0.5)
