"""The client side of a replay: sends a schedule as real HTTP requests and notes what came back.

Open loop: a request is sent at its time whether or not earlier ones were answered, as users do. Every request that is
sent ends in exactly one ``Outcome``; how many are sent, answered and failed is counted here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from marlin.operator.demo.schedule import PlannedRequest

REQUEST_TIMEOUT_S: Final = 60.0
"""Longest a client of the demo waits for a whole answer."""

_CHARACTERS_PER_TOKEN: Final = 4
_FILLER: Final = "lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor. "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    request: PlannedRequest
    datacenter: str | None
    """Where it was served, as the reply says; None when there was no reply."""
    ttft_s: float | None
    """Time to the first byte of the body, s of wall-clock time; None when there was none."""
    prompt_tokens: int
    output_tokens: int
    error: str | None
    """Why it counts as failed; None when the answer was complete."""


def request_body(request: PlannedRequest, model: str) -> bytes:
    """The chat completion request, with a prompt of about the planned length."""
    characters = max(1, request.prompt_tokens) * _CHARACTERS_PER_TOKEN
    content = f"[{request.index}] " + _FILLER * (characters // len(_FILLER) + 1)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content[:characters]}],
        "max_tokens": max(1, request.output_tokens),
        "ignore_eos": True,
    }
    if request.is_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


async def replay(
    schedule: Sequence[PlannedRequest],
    routers: Mapping[str, str],
    model: str,
    *,
    on_sent: Callable[[PlannedRequest], None],
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    """Sends every request of ``schedule`` to the router of its origin.

    Args:
        schedule: what to send, in order of time.
        routers: origin to base address.
        model: the model to ask for.
        on_sent: called as a request is sent.
        on_outcome: called when it has ended.

    Returns:
        One outcome per request, in the order of the schedule.
    """
    started_s = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:

        async def send(request: PlannedRequest) -> Outcome:
            await asyncio.sleep(max(0.0, started_s + request.at_s - time.perf_counter()))
            on_sent(request)
            outcome = await _send(session, f"{routers[request.origin]}/v1/chat/completions", request, model)
            on_outcome(outcome)
            return outcome

        return list(await asyncio.gather(*(send(request) for request in schedule)))


async def _send(session: aiohttp.ClientSession, url: str, request: PlannedRequest, model: str) -> Outcome:
    sent_s = time.perf_counter()
    ttft_s: float | None = None
    datacenter: str | None = None
    body = bytearray()
    error: str | None = None
    try:
        headers = {"content-type": "application/json"}
        async with session.post(url, data=request_body(request, model), headers=headers) as response:
            datacenter = response.headers.get("x-marlin-datacenter")
            async for chunk in response.content.iter_any():
                if ttft_s is None:
                    ttft_s = time.perf_counter() - sent_s
                body += chunk
            if response.status != 200:
                error = f"HTTP {response.status}: {bytes(body[:200]).decode(errors='replace')}"
    except TimeoutError:
        error = f"no complete answer within {REQUEST_TIMEOUT_S:.0f} s"
    except aiohttp.ClientError as problem:
        error = f"{type(problem).__name__}: {problem}"
    usage = None if error else usage_of(bytes(body), is_stream=request.is_stream)
    if error is None and usage is None:
        error = "the answer ended early"
    prompt_tokens, output_tokens = usage or (0, 0)
    return Outcome(request, datacenter, ttft_s, prompt_tokens, output_tokens, error)


def usage_of(body: bytes, *, is_stream: bool) -> tuple[int, int] | None:
    """Prompt and output tokens of a complete answer; None when it is not complete.

    A stream is complete when it ends with ``[DONE]`` and holds no error event.
    """
    try:
        if not is_stream:
            usage = json.loads(body)["usage"]
        else:
            events = body.strip().split(b"\n\n")
            if events[-1] != b"data: [DONE]" or b'data: {"error"' in body:
                return None
            usage = json.loads(events[-2].removeprefix(b"data: "))["usage"]
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None
