"""The load of a replay, as a value: which request is sent when, from where, how long.

Everything random about a replay is drawn here, from one generator, before anything is sent, so that each planner is
measured on exactly the same requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of the replay."""

    index: int
    at_s: float
    """When it is sent, s of wall-clock time from the start of the replay."""
    origin: str
    prompt_tokens: int
    output_tokens: int
    is_stream: bool


def make_schedule(
    rng: np.random.Generator,
    *,
    requests_per_epoch: Sequence[int],
    epoch_s: float,
    origins: Sequence[str],
    token_sizes: Sequence[tuple[int, int]],
    stream_fraction: float,
) -> tuple[PlannedRequest, ...]:
    """Requests with uniform times within each epoch, which is what a Poisson process gives once its counts are known.

    Args:
        rng: the only source of chance.
        requests_per_epoch: (E,) how many are sent in each epoch.
        epoch_s: length of an epoch, s of wall-clock time.
        origins: where requests come from, each as likely as another.
        token_sizes: pairs of prompt and output length to draw from, tokens.
        stream_fraction: part of the requests that ask for a stream.
    """
    requests: list[PlannedRequest] = []
    for epoch, count in enumerate(requests_per_epoch):
        for at_s in sorted((epoch + rng.random(count)) * epoch_s):
            prompt_tokens, output_tokens = token_sizes[int(rng.integers(len(token_sizes)))]
            requests.append(
                PlannedRequest(
                    index=len(requests),
                    at_s=float(at_s),
                    origin=origins[int(rng.integers(len(origins)))],
                    prompt_tokens=prompt_tokens,
                    output_tokens=output_tokens,
                    is_stream=bool(rng.random() < stream_fraction),
                )
            )
    return tuple(requests)
