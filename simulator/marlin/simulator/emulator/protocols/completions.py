"""``/v1/completions``: OpenAI's older protocol. A prompt may be text, token ids, or a list of either."""

from __future__ import annotations

from typing import Any

from marlin.simulator.emulator.errors import RequestError, bad_request
from marlin.simulator.emulator.protocols.base import (
    DONE,
    Context,
    Protocol,
    Result,
    Writer,
    compact,
    openai_error,
    usage,
)
from marlin.simulator.emulator.text import count_tokens, detokenize
from marlin.simulator.emulator.wanted import Prompt, Wanted, choices, lengths, text_request, usage_options

DEFAULT_MAX_TOKENS = 16


class Completions(Protocol):
    """Reads and writes completions."""

    def read(self, document: dict[str, Any], max_model_len: int) -> Wanted:
        """What a body asks for."""
        include, continuous = usage_options(document)
        prompts = _prompts(document.get("prompt"))
        if not prompts:
            raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        max_tokens = lengths(document, prompts, "max_tokens", DEFAULT_MAX_TOKENS, max_model_len)
        return Wanted(
            prompts=prompts,
            text=text_request(document, max_tokens),
            n=choices(document),
            stream=bool(document.get("stream")),
            include_usage=include,
            continuous_usage=continuous,
            echo=bool(document.get("echo")),
            seed=document.get("seed"),
            greedy=document.get("temperature") == 0,
        )

    def reply(self, context: Context, wanted: Wanted, results: list[Result]) -> dict[str, Any]:
        """The whole reply."""
        tokens = sum(result.tokens for result in results)
        details = {"cached_tokens": 0, "created_cache_tokens": None, "multimodal_tokens": None}
        return {
            "id": f"cmpl-{context.request_id}",
            "object": "text_completion",
            "created": context.created_s,
            "model": context.model,
            "choices": [
                {
                    "index": index,
                    "text": (wanted.prompts[index // wanted.n].text if wanted.echo else "") + result.text,
                    "logprobs": None,
                    "finish_reason": result.finish_reason,
                    "stop_reason": result.stop_reason,
                    "token_ids": None,
                    "prompt_logprobs": None,
                    "prompt_token_ids": None,
                    "routed_experts": None,
                }
                for index, result in enumerate(results)
            ],
            "service_tier": None,
            "system_fingerprint": context.fingerprint,
            "usage": usage(wanted.prompt_tokens, tokens)
            | {
                "prompt_tokens_details": details if context.prompt_details else None,
                "completion_tokens_details": None,
            },
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def writer(self, context: Context, wanted: Wanted) -> Writer:
        """For a streamed reply."""
        return _Writer(context, wanted)


class _Writer(Writer):
    def __init__(self, context: Context, wanted: Wanted) -> None:
        self._context = context
        self._wanted = wanted
        self._started: set[int] = set()
        self._head = compact(
            {
                "id": f"cmpl-{context.request_id}",
                "object": "text_completion",
                "created": context.created_s,
                "model": context.model,
            }
        )[:-1]

    def piece(self, choice: int, text: str, tokens: int) -> bytes:
        """More text of a choice."""
        return self._chunk(choice, text, tokens, "null", "null", "")

    def last(self, choice: int, text: str, result: Result) -> bytes:
        """The end of a choice; without a usage chunk to come, it has the fingerprint."""
        fingerprint = "" if self._wanted.include_usage else f',"system_fingerprint":"{self._context.fingerprint}"'
        finish, stop = compact(result.finish_reason), compact(result.stop_reason)
        return self._chunk(choice, text, result.tokens, finish, stop, fingerprint)

    def end(self, tokens: int) -> bytes:
        """Usage, when asked for, and the mark of the end."""
        if not self._wanted.include_usage:
            return DONE
        counts = usage(self._wanted.prompt_tokens, tokens)
        if self._context.prompt_details:
            counts["prompt_tokens_details"] = {"cached_tokens": 0}
        tail = {"choices": [], "usage": counts, "system_fingerprint": self._context.fingerprint}
        return f"data: {self._head},{compact(tail)[1:]}\n\n".encode() + DONE

    def broken(self, error: RequestError) -> bytes:
        """The error, and the mark of the end."""
        return openai_error(error)

    def _chunk(self, choice: int, text: str, tokens: int, finish: str, stop: str, tail: str) -> bytes:
        if self._wanted.echo and choice not in self._started:
            self._started.add(choice)
            text = self._wanted.prompts[choice // self._wanted.n].text + text
        if self._wanted.continuous_usage:
            prompt_tokens = self._wanted.prompts[choice // self._wanted.n].tokens
            tail = f',"usage":{compact(usage(prompt_tokens, tokens))}{tail}'
        return (
            f'data: {self._head},"choices":[{{"index":{choice},"text":{compact(text)},"logprobs":null,'
            f'"finish_reason":{finish},"stop_reason":{stop},"prompt_token_ids":null,"token_ids":null}}]{tail}}}\n\n'
        ).encode("utf-8", "replace")


def _prompts(prompt: object) -> tuple[Prompt, ...]:
    """One prompt for a string or a list of ids, one for each in a list of those."""
    if isinstance(prompt, str):
        return (Prompt(prompt, count_tokens(prompt)),) if prompt else ()
    if isinstance(prompt, list) and prompt:
        if all(isinstance(token, int) for token in prompt):
            return (Prompt(detokenize(prompt), len(prompt)),)
        return tuple(one for part in prompt for one in _prompts(part))
    return ()
