"""A per-request trace, request by request: arrivals and sizes as recorded, as many as the fleet's scaling says.

For the request-level engine, where ``requests`` draws arrivals that are even within an epoch: what is bursty within
minutes stays so here. The file is streamed; memory holds a few megabytes of it and one epoch, however long it is.

The number of requests follows the rule of ``scaling.whole_requests``, applied to each request on its own: it is kept
floor(m) times, and once more with probability m - floor(m). The first copy arrives when the request did. Further
copies are spread evenly over the time until the next recorded arrival for the same model, because copies that all
arrive at once would be bursts that nobody recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlin.simulator.physics import FloatArray
from marlin.simulator.workload.bad_rows import RowJudge
from marlin.simulator.workload.request_file import Batch, RequestFile
from marlin.simulator.workload.requests import Requests
from marlin.simulator.workload.trace import S_PER_DAY, S_PER_HOUR


def replay(
    file: RequestFile,
    *,
    day: int,
    epoch_s: int,
    multipliers: FloatArray,
    origin_shares: FloatArray,
    rng: np.random.Generator,
    judge: RowJudge,
) -> Iterator[Requests]:
    """The requests of one epoch after another, from a midnight UTC on.

    Models are the smaller (0) and the larger (1): as the file says, or drawn with the class's share where it does not.
    A failed request has no size of its own and gets that of the successful one before it.

    Args:
        file: what is replayed.
        day: day UTC of the trace to begin with.
        epoch_s: length of an epoch, s.
        multipliers: (E, 2) m of each epoch and model; E says how many epochs are replayed.
        origin_shares: (E, R), rows add up to one.
        rng: draws copies, origins, and models where they are not told.
        judge: hears of bad rows.

    Raises:
        InputError: the file cannot be read, or has a bad row that may not be skipped.
    """
    begin_s = day * S_PER_DAY + file.utc_offset_h % 24 * S_PER_HOUR
    epochs = len(multipliers)
    pending: list[_Recorded] = []
    current = 0
    for recorded in _from(file, begin_s, rng, judge):
        epoch = ((recorded.time_s - begin_s) // epoch_s).astype(np.int64)
        for e in range(current, min(int(epoch[-1]), epochs)):
            pending.append(recorded.where(epoch == e))
            yield _copied(_joined(pending), begin_s + e * epoch_s, epoch_s, multipliers[e], origin_shares[e], rng)
            pending, current = [], e + 1
        if current >= epochs:
            return
        pending.append(recorded.where(epoch == current))
    for e in range(current, epochs):
        yield _copied(_joined(pending), begin_s + e * epoch_s, epoch_s, multipliers[e], origin_shares[e], rng)
        pending = []


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Requests as recorded; all arrays (N,)."""

    time_s: FloatArray
    model: NDArray[np.int32]
    sizes: FloatArray  # (N, 2) prompt and output tokens

    def where(self, chosen: NDArray[np.bool_]) -> _Recorded:
        return _Recorded(self.time_s[chosen], self.model[chosen], self.sizes[chosen])


_NOTHING = _Recorded(np.zeros(0), np.zeros(0, dtype=np.int32), np.zeros((0, 2)))


def _from(file: RequestFile, begin_s: float, rng: np.random.Generator, judge: RowJudge) -> Iterator[_Recorded]:
    """The requests from a time on, each with a model and a size."""
    last_size = np.ones(2)  # before the first successful request nothing is known of sizes
    for batch in file.batches(judge):
        sizes = _sizes(batch, last_size)
        last_size = sizes[-1]
        chosen = batch.time_s >= begin_s
        if chosen.any():
            large = rng.random(len(batch.kind)) < file.large_share[batch.kind]
            yield _Recorded(batch.time_s, large.astype(np.int32), sizes).where(chosen)


def _sizes(batch: Batch, before: FloatArray) -> FloatArray:
    """Prompt and output tokens (N, 2), a failed request's being those of the last that succeeded."""
    sizes = np.concatenate([before[None], np.stack([batch.prompt_tokens, batch.output_tokens], axis=1)])
    succeeded = np.concatenate([[True], batch.output_tokens > 0])
    source = np.maximum.accumulate(np.where(succeeded, np.arange(len(sizes)), 0))
    return np.asarray(np.maximum(sizes[source][1:], 1.0))


def _joined(parts: list[_Recorded]) -> _Recorded:
    if not parts:
        return _NOTHING
    return _Recorded(
        np.concatenate([part.time_s for part in parts]),
        np.concatenate([part.model for part in parts]),
        np.concatenate([part.sizes for part in parts]),
    )


def _copied(
    recorded: _Recorded,
    start_s: float,
    epoch_s: int,
    multipliers: FloatArray,
    origin_shares: FloatArray,
    rng: np.random.Generator,
) -> Requests:
    """One epoch's requests, thinned and replicated."""
    m = multipliers[recorded.model]
    copies = np.floor(m).astype(np.int64) + (rng.random(len(m)) < m - np.floor(m))
    source = np.repeat(np.arange(len(m)), copies)  # (N,) the recorded request that each is a copy of
    arrival_s = recorded.time_s[source] - start_s
    is_further = np.concatenate([[False], source[1:] == source[:-1]]) if source.size else np.zeros(0, dtype=bool)
    gap_s = _until_next_s(recorded, start_s + epoch_s)[source]
    arrival_s = arrival_s + np.where(is_further, rng.random(len(source)) * gap_s, 0.0)
    order = np.argsort(arrival_s, kind="stable")
    source = source[order]
    return Requests(
        arrival_s=np.minimum(arrival_s[order], np.nextafter(float(epoch_s), 0.0)),
        model=recorded.model[source],
        origin=rng.choice(len(origin_shares), size=len(source), p=origin_shares).astype(np.int32),
        prompt_tokens=recorded.sizes[source, 0].astype(np.int32),
        output_tokens=recorded.sizes[source, 1].astype(np.int32),
    )


def _until_next_s(recorded: _Recorded, end_s: float) -> FloatArray:
    """Time (N,) until the next later arrival for the same model, or the epoch's end, s.

    Recorded times are whole seconds in BurstGPT: requests of the same second share the gap to the next one.
    """
    gap_s = np.zeros(len(recorded.time_s))
    for model in np.unique(recorded.model):
        own = recorded.model == model
        times = recorded.time_s[own]
        later = np.append(times, end_s)[np.searchsorted(times, times, side="right")]
        gap_s[own] = later - times
    return gap_s
