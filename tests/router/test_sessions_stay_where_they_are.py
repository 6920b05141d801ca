from __future__ import annotations

from random import Random

import pytest
from fake_backend import FakeBackend
from hypothesis import given
from hypothesis import strategies as st
from router_client import Start, table

from marlin.router.affinity import LOAD_FACTOR, Sessions, choose_for_session, hash_of, ranking
from marlin.router.body_fields import prompt_beginning

NAMES = ("north", "south", "east", "west")
SALTS = [hash_of(name.encode()) for name in NAMES]
OPEN = (True,) * 4


@pytest.mark.parametrize("seed", range(20))
def test_each_datacenter_gets_its_share_of_ten_thousand_requests_within_three_points(seed: int) -> None:
    random = Random(seed)
    weights = [random.random() + 0.05 for _ in NAMES]
    sessions = [hash_of(f"{seed}-{n}".encode()) for n in range(1000)]
    divided, counts = Sessions(NAMES, weights), [0] * 4
    for _ in range(10_000):
        chosen = divided.choose(random.choice(sessions), OPEN)
        assert chosen is not None
        counts[chosen] += 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / 10_000 - weight / sum(weights)) <= 0.03


@pytest.mark.parametrize("seed", range(20))
def test_a_change_of_the_plan_moves_few_sessions(seed: int) -> None:
    random = Random(seed)
    before, after = ([random.random() for _ in NAMES] for _ in range(2))
    before, after = [w / sum(before) for w in before], [w / sum(after) for w in after]
    sessions = [hash_of(f"{seed}-{n}".encode()) for n in range(10_000)]
    moved = sum(ranking(s, SALTS, before)[0] != ranking(s, SALTS, after)[0] for s in sessions)
    distance = sum(abs(a - b) for a, b in zip(before, after, strict=True))
    assert moved / len(sessions) <= distance / (1 + distance / 2) + 0.02


@given(st.binary(max_size=20), st.integers(0, 3))
def test_a_datacenter_that_goes_away_moves_only_its_own_sessions(key: bytes, gone: int) -> None:
    first, second, *_ = ranking(hash_of(key), SALTS, (1.0, 1.0, 1.0, 1.0))
    weights = [0.0 if i == gone else 1.0 for i in range(4)]
    assert ranking(hash_of(key), SALTS, weights)[0] == (second if first == gone else first)


def test_one_session_alone_cannot_take_more_than_the_plan_gives_its_datacenter() -> None:
    divided, counts = Sessions(NAMES[:2], (0.5, 0.5)), [0, 0]
    for _ in range(4000):
        chosen = divided.choose(hash_of(b"busy"), OPEN[:2])
        assert chosen is not None
        counts[chosen] += 1
    assert max(counts) <= 0.53 * 4000


def test_a_full_datacenter_passes_its_sessions_to_their_second_choice() -> None:
    divided = Sessions(NAMES, (1.0, 1.0, 1.0, 1.0))
    session = hash_of(b"x")
    first, second, *_ = ranking(session, SALTS, (1.0,) * 4)
    assert divided.choose(session, OPEN) == first
    assert divided.choose(session, [i != first for i in range(4)]) == second
    assert divided.choose(session, (False,) * 4) is None


@given(st.binary(max_size=9), st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_a_backend_far_beyond_its_part_of_the_load_is_passed_over(key: bytes, in_flight: list[int]) -> None:
    chosen = choose_for_session(hash_of(key), SALTS[: len(in_flight)], [1.0] * len(in_flight), in_flight)
    assert chosen is not None
    assert in_flight[chosen] <= LOAD_FACTOR * (sum(in_flight) + 1) / len(in_flight)


SYSTEM = {"role": "system", "content": "You answer in one word. " * 20}


def turn(*said: str) -> dict[str, object]:
    return {"model": "m", "messages": [SYSTEM, *({"role": "user", "content": text} for text in said)]}


async def test_prompts_that_begin_alike_are_a_session_where_that_is_wanted(start: Start) -> None:
    async with FakeBackend() as one, FakeBackend() as two:
        async with start(table(one.url, two.url), session_prompt_bytes=256) as client:
            for n in range(6):
                async with client.post(turn(*(f"question {i}" for i in range(n)))) as response:
                    assert response.status == 200
            assert sorted([len(one.seen), len(two.seen)]) == [0, 6]
            for _ in range(6):
                async with client.post({"model": "m", "prompt": "short"}) as response:
                    assert response.status == 200
            assert abs(len(one.seen) - len(two.seen)) == 6, "a short prompt is no key: it is drawn"
        for backend in (one, two):
            backend.seen.clear()
        async with start(table(one.url, two.url)) as client:
            for n in range(6):
                async with client.post(turn(f"question {n}")) as response:
                    assert response.status == 200
            assert len(one.seen) == len(two.seen) == 3, "nobody asked for it"


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        (b'{"prompt": "abcdef"}', b'"abc'),
        (b'{"input": ["abcdef"]}', b'["ab'),
        (b'{"messages": [], "prompt": "abc"}', b'"abc'),
        (b'{"prompt": 12}', b""),
        (b'{"prompt": null}', b"null"),
        (b"{}", b""),
        (b"[1]", b""),
        (b'{"prompt": "\xff"}', b""),
        (b"nothing", b""),
    ],
)
def test_a_prompt_s_beginning_is_what_stands_there(body: bytes, beginning: bytes) -> None:
    assert prompt_beginning(body, 4) == beginning


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"model": "m", "user": "ann"}, {}),
        ({"model": "m", "prompt_cache_key": "ann"}, {}),
        ({"model": "m"}, {"X-Session-Id": "ann"}),
    ],
)
async def test_requests_of_a_session_go_to_one_backend(
    start: Start, body: dict[str, str], headers: dict[str, str]
) -> None:
    async with FakeBackend() as one, FakeBackend() as two, start(table(one.url, two.url)) as client:
        for _ in range(6):
            async with client.post(body, headers=headers) as response:
                assert response.status == 200
        assert sorted([len(one.seen), len(two.seen)]) == [0, 6]
        async with client.post() as response:
            assert response.status == 200, "requests without a session are drawn as before"
