from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marlin.operator.demo.schedule import PlannedRequest, make_schedule


def draw(seed: int, counts: list[int]) -> tuple[PlannedRequest, ...]:
    return make_schedule(
        np.random.default_rng(seed),
        requests_per_epoch=counts,
        epoch_s=2.0,
        origins=("eu", "us"),
        token_sizes=((100, 10), (200, 20)),
        stream_fraction=0.5,
    )


@given(st.integers(0, 1000), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_every_epoch_gets_its_count_within_its_bounds_in_order(seed: int, counts: list[int]) -> None:
    schedule = draw(seed, counts)
    assert [request.index for request in schedule] == list(range(sum(counts)))
    assert [r.at_s for r in schedule] == sorted(r.at_s for r in schedule)
    for epoch, count in enumerate(counts):
        assert sum(epoch * 2.0 <= r.at_s < (epoch + 1) * 2.0 for r in schedule) == count


def test_the_same_seed_draws_the_same_requests_and_another_seed_others() -> None:
    assert draw(3, [20, 20]) == draw(3, [20, 20])
    assert draw(3, [20, 20]) != draw(4, [20, 20])


def test_prompt_and_output_lengths_stay_together() -> None:
    assert {(r.prompt_tokens, r.output_tokens) for r in draw(0, [200])} == {(100, 10), (200, 20)}
