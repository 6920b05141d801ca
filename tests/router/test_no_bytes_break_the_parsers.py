"""Whatever comes, reading it ends with a value or with an error meant for it; the short form of ``make fuzz``."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from fuzz_targets import TARGETS
from hypothesis import given
from hypothesis import strategies as st
from router_fuzz import SEEDS, FindError, fuzz_readers, fuzz_sockets, try_one

PIECES = (
    b"POST /v1/completions HTTP/1.1",
    b"HTTP/1.1 200 OK",
    b"Host: a",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Connection: close, host",
    b"Connection: keep-alive",
    b"Authorization: Bearer x",
    b"Expect: 100-continue",
    b"x-marlin-hop: 1",
    b'{"model":',
    b'"usage":{"prompt_tokens":3',
    b"}",
    b"3",
    b"0",
    b"\r\n",
    b"\n",
    b":",
    b" ",
    b"\xff",
)
anything = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12)


@given(anything)
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    for data in (b"".join(pieces), b"\r\n".join(pieces)):
        for target in TARGETS:
            try_one(target, data)


@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_found_once_stays_mended(seed: Path) -> None:
    try_one(seed.parent.name, seed.read_bytes())


def test_mutations_of_all_seeds_are_read_or_refused() -> None:
    assert fuzz_readers(Random(0), lambda tried: tried >= 6000) >= 6000


async def test_broken_requests_and_replies_reach_nobody_as_http_and_leave_nothing_behind() -> None:
    assert await fuzz_sockets(Random(0), lambda tried: tried >= 1000) >= 1000


def test_a_find_says_what_broke_and_with_which_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> str:
        raise IndexError("out of range")

    monkeypatch.setitem(TARGETS, "load", broken)
    with pytest.raises(FindError, match="load: IndexError: out of range") as find:
        fuzz_readers(Random(0), lambda tried: tried > 100)
    assert find.value.target == "load"
