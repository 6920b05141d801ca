"""What people do with the official ``openai`` and ``anthropic`` clients, before the emulator or a real vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from soak_measures import sum_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients send their requests."""

    url: str
    key: str
    model: str
    admin_url: str
    """Of the router there."""


PROMPT = "Hello"
TOOL: Any = {
    "name": "weather",
    "description": "Says how the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@contextmanager
def openai_client(place: Place) -> Iterator[openai.OpenAI]:
    """The plain client."""
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key=place.key, max_retries=0, timeout=60) as client:
        yield client


@asynccontextmanager
async def async_openai_client(place: Place) -> AsyncIterator[openai.AsyncOpenAI]:
    """The asynchronous one."""
    async with openai.AsyncOpenAI(base_url=f"{place.url}/v1", api_key=place.key, max_retries=0, timeout=60) as client:
        yield client


@contextmanager
def anthropic_client(place: Place) -> Iterator[anthropic.Anthropic]:
    """The plain client; vLLM reads keys from Authorization."""
    with anthropic.Anthropic(base_url=place.url, auth_token=place.key, max_retries=0, timeout=60) as client:
        yield client


async def nothing_stays(place: Place) -> None:
    """Waits until the router counts nothing as in flight, streams that were left included.

    Raises:
        TimeoutError: something stays.
    """
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{place.admin_url}/metrics") as reply:
                if not sum_of(await reply.text(), "marlin_router_in_flight"):
                    return
            await asyncio.sleep(0.05)


def openai_answers(place: Place) -> None:
    """Replies, streams and mistakes."""
    with openai_client(place) as client:
        assert place.model in [model.id for model in client.models.list()]
        chat = client.chat.completions.create(
            model=place.model, messages=[{"role": "user", "content": PROMPT}], max_tokens=5
        )
        assert chat.usage is not None
        assert 1 <= chat.usage.completion_tokens <= 5
        raw = client.completions.with_raw_response.create(model=place.model, prompt=PROMPT, max_tokens=5)
        assert raw.headers["x-marlin-datacenter"] == "dc0"
        assert raw.parse().choices[0].finish_reason in {"length", "stop"}
        stream = client.chat.completions.create(
            model=place.model,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens >= 1
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="no such model", prompt=PROMPT)
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=place.model, prompt=PROMPT, max_tokens=-1)


async def openai_answers_asynchronously(place: Place) -> None:
    """Several at once, and one that is left: nothing stays behind it."""
    async with async_openai_client(place) as client:
        stream = await client.completions.create(
            model=place.model, prompt=PROMPT, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
        )
        seen = 0
        async for chunk in stream:
            seen += len(chunk.choices)
            if seen == 2:
                break
        await stream.close()
        response = await client.responses.create(model=place.model, input=PROMPT, max_output_tokens=5)
        assert response.usage is not None
        assert response.usage.output_tokens >= 1
    await nothing_stays(place)


def openai_names_tools(place: Place) -> None:
    """A tool that has to be called is called; one of random weights ends what it puts in in some tries only."""
    with openai_client(place) as client:
        for seed in range(10):
            chat = client.chat.completions.create(
                model=place.model,
                messages=[{"role": "user", "content": PROMPT}],
                tools=[{"type": "function", "function": TOOL}],
                tool_choice={"type": "function", "function": {"name": "weather"}},
                max_tokens=150,
                seed=seed,
            )
            if calls := chat.choices[0].message.tool_calls:
                break
        assert calls is not None
        assert [call.function.name for call in calls if call.type == "function"] == ["weather"]


def anthropic_answers(place: Place) -> None:
    """Replies, streams and mistakes."""
    with anthropic_client(place) as client:
        message = client.messages.create(
            model=place.model, max_tokens=5, messages=[{"role": "user", "content": PROMPT}]
        )
        assert message.usage.output_tokens >= 1
        with client.messages.stream(
            model=place.model, max_tokens=5, messages=[{"role": "user", "content": PROMPT}]
        ) as stream:
            assert list(stream)
            assert stream.get_final_message().stop_reason is not None
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="no such", max_tokens=5, messages=[{"role": "user", "content": PROMPT}])


async def anthropic_answers_asynchronously(place: Place) -> None:
    """A stream that is left, and a reply on the same client."""
    async with anthropic.AsyncAnthropic(base_url=place.url, auth_token=place.key, max_retries=0, timeout=60) as client:
        async with client.messages.stream(
            model=place.model, max_tokens=200, messages=[{"role": "user", "content": PROMPT}]
        ) as stream:
            async for event in stream:
                if event.type == "content_block_delta":
                    break
        message = await client.messages.create(
            model=place.model, max_tokens=5, messages=[{"role": "user", "content": PROMPT}]
        )
        assert message.usage.output_tokens >= 1
    await nothing_stays(place)
