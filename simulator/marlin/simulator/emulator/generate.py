"""A request for text, from its body to the last byte of the reply, for all four protocols.

The protocol reads the body; the text is made up in full; the engine says when its tokens come; the protocol writes
them. Whatever happens, the sequences leave the engine: a client that goes away cancels the handler, and the place in
the batch is free for the next iteration.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from marlin.simulator.emulator.engine import Engine, QueueFullError, Stream
from marlin.simulator.emulator.errors import RequestError, ValidationError, busy, dead, unknown_model
from marlin.simulator.emulator.faults import Fault, FaultName
from marlin.simulator.emulator.protocols import Protocol
from marlin.simulator.emulator.protocols.base import Context, Result, Writer
from marlin.simulator.emulator.replies import hang_up, json_reply, stream_reply
from marlin.simulator.emulator.settings import Settings
from marlin.simulator.emulator.text import Text, write
from marlin.simulator.emulator.wanted import Wanted

Faults = Mapping[FaultName, Fault]


@dataclass(slots=True)
class _Choice:
    """One sequence, and how much of it was sent."""

    index: int
    text: Text
    stream: Stream
    sent: int = 0
    over: bool = False

    def result(self) -> Result:
        """The finished sequence; cut short when it was aborted."""
        stream, text = self.stream, self.text
        tokens = len(text.pieces) if stream.ended == "done" else stream.tokens
        reason = text.finish_reason if stream.ended == "done" else "abort"
        stop = text.stop_reason if stream.ended == "done" else None
        return Result("".join(text.pieces[:tokens]), tokens, reason, stop)

    def take(self, upto: int) -> str:
        """The text of the tokens after those sent."""
        piece = "".join(self.text.pieces[self.sent : upto])
        self.sent = upto
        return piece


@dataclass(slots=True)
class Generator:
    """Serves requests for text on one engine."""

    settings: Settings
    engine: Engine
    fresh: random.Random = field(default_factory=random.Random)
    """Words of requests without a seed."""

    async def serve(
        self, request: web.Request, protocol: Protocol, document: dict[str, Any], context: Context, faults: Faults
    ) -> web.StreamResponse:
        """Answers one request.

        Args:
            request: the HTTP request, its body already read.
            protocol: of its path.
            document: its body.
            context: what replies say about the server.
            faults: those that strike it.

        Raises:
            RequestError: it gets an error instead.
        """
        wanted = self._read(protocol, document)
        if "engine-dead" in faults and not wanted.stream:
            raise dead()
        texts = [
            write(wanted.text, wanted.generator(i, self.fresh), self.settings.mean_output_tokens)
            for i in range(len(wanted.prompts) * wanted.n)
        ]
        choices = self._submit(wanted, texts)
        try:
            if not wanted.stream:
                return await self._whole(request, protocol, context, wanted, choices, faults)
            return await self._streamed(request, protocol.writer(context, wanted), choices, faults)
        finally:
            for choice in choices:
                self.engine.abort(choice.stream)

    def _read(self, protocol: Protocol, document: dict[str, Any]) -> Wanted:
        """Reads the body. Fields are validated first, then the model, then the lengths, as vLLM does."""
        asked = document.get("model")
        strange = asked is not None and asked != self.settings.model
        try:
            wanted = protocol.read(document, self.settings.max_model_len)
        except ValidationError:
            raise
        except RequestError:
            if strange:
                raise unknown_model(str(asked), self.settings.model) from None
            raise
        if strange:
            raise unknown_model(str(asked), self.settings.model)
        return wanted

    def _submit(self, wanted: Wanted, texts: list[Text]) -> list[_Choice]:
        choices: list[_Choice] = []
        try:
            for i, prompt in enumerate(wanted.prompts):
                mine = texts[i * wanted.n : (i + 1) * wanted.n]
                signal = choices[0].stream.signal if choices else None
                streams = self.engine.submit(
                    prompt.tokens,
                    [len(text.pieces) for text in mine],
                    streamed=wanted.stream,
                    max_tokens=wanted.text.max_tokens,
                    signal=signal,
                )
                for text, stream in zip(mine, streams, strict=True):
                    choices.append(_Choice(len(choices), text, stream))
        except QueueFullError:
            for choice in choices:
                self.engine.abort(choice.stream)
            raise busy() from None
        return choices

    async def _whole(
        self,
        request: web.Request,
        protocol: Protocol,
        context: Context,
        wanted: Wanted,
        choices: list[_Choice],
        faults: Faults,
    ) -> web.StreamResponse:
        signal = choices[0].stream.signal
        while any(choice.stream.ended is None for choice in choices):
            await signal.wait()
        if any(choice.stream.ended == "dead" for choice in choices):
            raise dead()
        await self._slow(choices, faults)
        if "die-mid-stream" in faults:
            hang_up(request)
        if "silent-stream" in faults:
            await forever()
        return json_reply(protocol.reply(context, wanted, [choice.result() for choice in choices]))

    async def _streamed(
        self, request: web.Request, writer: Writer, choices: list[_Choice], faults: Faults
    ) -> web.StreamResponse:
        reply = stream_reply()
        await reply.prepare(request)
        if opening := writer.begin():
            await reply.write(opening)
        cuts = [fault.after_tokens for name in _CUTTING if (fault := faults.get(name)) is not None]
        cut = min(cuts) if cuts else None
        signal = choices[0].stream.signal
        while not all(choice.over for choice in choices):
            reached = cut is not None and max(choice.sent for choice in choices) >= cut
            if reached or any(choice.stream.ended == "dead" for choice in choices):
                return await _break(request, reply, writer, faults)
            await signal.wait()
            came = [(choice, choice.stream.tokens, choice.stream.ended) for choice in choices if not choice.over]
            if "slow" in faults:  # what comes meanwhile has its own turn
                await self._slow(choices, faults)
            if frames := b"".join(_frames(writer, *one, cut) for one in came):
                await reply.write(frames)
        await reply.write(writer.end(sum(choice.sent for choice in choices)))
        await reply.write_eof()
        return reply

    async def _slow(self, choices: list[_Choice], faults: Faults) -> None:
        """Waits as much longer as the fault says the request has taken until now."""
        fault = faults.get("slow")
        if fault is not None:
            now_s = asyncio.get_running_loop().time()
            # Each wait adds to what has passed, so it is measured against the engine's own time of the last token.
            taken_s = now_s - choices[0].stream.arrived_s
            owed_s = self._engine_time_s(choices) * fault.factor - taken_s
            if owed_s > 0:
                await asyncio.sleep(owed_s)

    @staticmethod
    def _engine_time_s(choices: list[_Choice]) -> float:
        return max(choice.stream.last_s for choice in choices) - choices[0].stream.arrived_s


_CUTTING: tuple[FaultName, ...] = ("die-mid-stream", "silent-stream", "engine-dead")


def _frames(writer: Writer, choice: _Choice, tokens: int, ended: str | None, cut: int | None) -> bytes:
    """What is new of a choice that has ``tokens`` tokens, as the protocol writes it."""
    if cut is not None and tokens >= cut:
        frame = writer.piece(choice.index, choice.take(cut), cut) if cut > choice.sent else b""
        choice.sent = cut
        return frame
    if ended == "dead":
        return b""
    if ended is not None:
        choice.over = True
        result = choice.result()
        return writer.last(choice.index, choice.take(result.tokens), result)
    if tokens > choice.sent:
        return writer.piece(choice.index, choice.take(tokens), tokens)
    return b""


async def _break(request: web.Request, reply: web.StreamResponse, writer: Writer, faults: Faults) -> web.StreamResponse:
    """Ends a stream as the fault wants it."""
    if "die-mid-stream" in faults:
        hang_up(request)
        return reply
    if "silent-stream" in faults:
        await forever()
    if ending := writer.broken(dead()):
        await reply.write(ending)
        await reply.write_eof()
    else:
        hang_up(request)
    return reply


async def forever() -> None:
    """Waits until the client goes away or the server stops."""
    await asyncio.get_running_loop().create_future()
