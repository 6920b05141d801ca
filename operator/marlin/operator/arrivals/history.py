"""Requests by epoch and pool: a value that a ConfigMap holds, so that a restart forgets nothing but the epoch it is in.

An epoch that was not watched for long enough is a gap and not a zero. A week and an epoch are kept, which is as far as
the predictor looks back; of 64 pools they are 400 KB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from marlin.operator.arrivals.counting import Counts

MOST_EPOCHS: Final = 673
"""A week of quarter hours, and one."""

LEAST_WATCHED: Final = 0.5
"""Part of an epoch that must have been watched for its count to stand; it is scaled up for the rest."""

_SMOOTHING: Final = 0.2
"""Weight of the newest epoch in mean tokens and in the origins' shares."""


@dataclass(frozen=True, slots=True)
class Running:
    """The epoch that is being watched."""

    epoch: int
    watched_s: float = 0.0
    by_origin: Mapping[str, Counts] = field(default_factory=dict)
    """Origin to what came from there; the empty name: not known from where."""

    def requests(self) -> dict[str, float]:
        """Pool to what came so far."""
        total = Counts()
        for counts in self.by_origin.values():
            total = total.plus(counts)
        return dict(total.requests)


@dataclass(frozen=True, slots=True)
class Ended:
    """What was seen of an epoch that is over."""

    epoch: int
    requests: Mapping[str, float]
    """Pool to requests, scaled up to the whole epoch."""
    ttft_s: Mapping[str, float]
    """Pool to the mean time to first byte, s; pools of which no reply was timed are missing."""
    output_tokens_per_s: Mapping[str, float] = field(default_factory=dict)
    """Pool to tokens of its replies, as far as their length is known; pools without any such reply are missing."""


@dataclass(frozen=True, slots=True)
class History:
    """What one policy's pools were asked for."""

    epoch_s: float
    last: int | None = None
    """Number of the newest epoch that is over; None: none yet."""
    requests: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Pool to requests by epoch, oldest first, up to ``last``; None: not watched."""
    tokens: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Pool to mean prompt and output tokens."""
    origins: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Pool to the share of its requests by origin."""
    running: Running | None = None
    ended: Ended | None = None
    """The newest epoch that was watched to its end by this process; None: none yet."""

    def heard(self, arrived: Mapping[str, Counts], start_s: float, end_s: float) -> History:
        """The history after a while in which something came.

        Args:
            arrived: origin to what came from there.
            start_s: when the while began, Unix time, s; what came is spread evenly over it.
            end_s: when it ended.
        """
        found = self
        while start_s < end_s:
            epoch = int(start_s // self.epoch_s)
            until_s = min(end_s, (epoch + 1) * self.epoch_s)
            part = (until_s - start_s) / (end_s - start_s)
            found = found._entered(epoch)
            assert found.running is not None
            by_origin = dict(found.running.by_origin)
            for origin, counts in arrived.items():
                by_origin[origin] = by_origin.get(origin, Counts()).plus(counts.times(part))
            arrived = {origin: counts.times(1.0 - part) for origin, counts in arrived.items()}
            watched_s = found.running.watched_s + until_s - start_s
            found = replace(found, running=Running(epoch, watched_s, by_origin))
            start_s = until_s
        return found

    def until(self, now_s: float) -> History:
        """The history with every epoch closed that is over by now."""
        epoch = int(now_s // self.epoch_s)
        if self.running is None and self.last is None:
            return self
        return self._entered(epoch)

    def _entered(self, epoch: int) -> History:
        """The history with ``epoch`` running, and those before it closed. A clock that went back changes nothing."""
        running = self.running
        if running is not None and epoch <= running.epoch:
            return self
        if running is None:
            if self.last is not None and epoch <= self.last:
                return self
            closed = self if self.last is None else _with_gaps(self, epoch - 1 - self.last)
            return replace(closed, running=Running(epoch))
        closed = _with_gaps(self._closed(running), epoch - 1 - running.epoch)
        return replace(closed, running=Running(epoch))

    def _closed(self, running: Running) -> History:
        last = running.epoch
        watched = running.watched_s / self.epoch_s
        is_known = watched >= LEAST_WATCHED
        found = self if self.last is None else _with_gaps(self, last - 1 - self.last)
        seen = running.requests()
        length = max((len(row) for row in found.requests.values()), default=0)
        rows = {}
        for pool in {*found.requests, *seen}:
            before = found.requests.get(pool, (None,) * length)
            count = round(seen.get(pool, 0.0) / watched, 1) if is_known else None
            rows[pool] = (*before, count)[-MOST_EPOCHS:]
        tokens, origins = dict(found.tokens), {pool: dict(shares) for pool, shares in found.origins.items()}
        if is_known:
            _learn(tokens, origins, running)
        ended = _ended(running, watched) if is_known else self.ended
        return replace(found, last=last, requests=rows, tokens=tokens, origins=origins, running=None, ended=ended)

    def to_json(self) -> str:
        """As a ConfigMap holds it; the running epoch is not in it."""
        document: dict[str, Any] = {
            "epochSeconds": self.epoch_s,
            "lastEpoch": self.last,
            "requests": {pool: list(row) for pool, row in sorted(self.requests.items())},
            "meanTokens": {pool: [round(n, 1) for n in both] for pool, both in sorted(self.tokens.items())},
            "originShares": {
                pool: {origin: round(share, 4) for origin, share in sorted(shares.items())}
                for pool, shares in sorted(self.origins.items())
            },
        }
        return json.dumps(document, separators=(",", ":"))


def _ended(running: Running, watched: float) -> Ended:
    total = Counts()
    for counts in running.by_origin.values():
        total = total.plus(counts)
    return Ended(
        running.epoch,
        {pool: count / watched for pool, count in total.requests.items()},
        {pool: total.first_token_s.get(pool, 0.0) / count for pool, count in total.first_tokens.items() if count > 0},
        {pool: total.output_tokens.get(pool, 0.0) / running.watched_s for pool, n in total.measured.items() if n > 0},
    )


def _with_gaps(history: History, count: int) -> History:
    """The history after some epochs that nobody watched."""
    if count <= 0 or history.last is None:
        return history
    gap = (None,) * min(count, MOST_EPOCHS)
    rows = {pool: (*row, *gap)[-MOST_EPOCHS:] for pool, row in history.requests.items()}
    return replace(history, last=history.last + count, requests=rows)


def history_of(text: str, epoch_s: float) -> History:
    """A history as it was kept; an empty one where it is not whole or is of another epoch length."""
    try:
        document = json.loads(text)
        if document["epochSeconds"] != epoch_s:
            return History(epoch_s)
        rows = {
            str(pool): tuple(None if n is None else _count(n) for n in row)[-MOST_EPOCHS:]
            for pool, row in document["requests"].items()
        }
        if len({len(row) for row in rows.values()}) > 1 or not isinstance(document["lastEpoch"], int):
            return History(epoch_s)
        return History(
            epoch_s,
            document["lastEpoch"],
            rows,
            {str(pool): (_count(p), _count(o)) for pool, (p, o) in document["meanTokens"].items()},
            {str(pool): {str(o): _count(s) for o, s in w.items()} for pool, w in document["originShares"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return History(epoch_s)


def _count(value: Any) -> float:
    number = float(value)
    if not 0.0 <= number < float("inf"):
        raise ValueError("a count is negative or infinite")
    return number


def _learn(tokens: dict[str, tuple[float, float]], origins: dict[str, dict[str, float]], running: Running) -> None:
    """Moves mean tokens and origins' shares towards what the epoch showed."""
    total = Counts()
    for counts in running.by_origin.values():
        total = total.plus(counts)
    for pool, measured in total.measured.items():
        if measured <= 0:  # an idle pool, or one whose replies tell no length
            continue
        seen = (total.prompt_tokens.get(pool, 0.0) / measured, total.output_tokens.get(pool, 0.0) / measured)
        if min(seen) > 0:
            before = tokens.get(pool, seen)
            tokens[pool] = (
                before[0] + _SMOOTHING * (seen[0] - before[0]),
                before[1] + _SMOOTHING * (seen[1] - before[1]),
            )
    for pool, requests in total.requests.items():
        if requests <= 0:
            continue
        share = {name: counts.requests.get(pool, 0.0) / requests for name, counts in running.by_origin.items()}
        known = origins.get(pool, share)
        origins[pool] = {
            name: known.get(name, 0.0) + _SMOOTHING * (share.get(name, 0.0) - known.get(name, 0.0))
            for name in {*known, *share}
        }
