"""Words and tokens: the emulator's stand-in for a model and its tokenizer.

Two rules, both simple on purpose:

- A text that comes in has one token for every four bytes of its UTF-8, rounded up. ``tokenize`` cuts it there, and
  a token's id is the value of its bytes, so that ``detokenize`` needs no table.
- A text that goes out is made of words from a short list, one token each, so its token count is exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

BYTES_PER_TOKEN: Final = 4

_FIRST_ID: Final = tuple(sum(256**k for k in range(1, length)) for length in range(BYTES_PER_TOKEN + 1))
"""Where the ids of tokens of that many bytes begin."""

WORDS: Final = tuple(
    """
    a about after air all also and area as at back balance base batch be before below best between boat both bridge
    bright bring by call calm can carry change clean clear close cloud cold come cool cost could count course cover
    day deep demand do down draw dry each early earth east edge end energy even every far fast few field find first
    flow follow for form free fresh from full gain give go good grid ground grow half hand heat help here high hold
    home hour how if in is it keep land large last late lead left less level light like line little load long low
    main make many may mean measure meet mild morning most move near need new next night no noon north not now of
    often on one open or other out over part path place plan plant point power price quiet rain rate reach rest
    right rise river road run sea season set share shift short side site slow small so soft some south spring steady
    still stone store summer sun supply take than that the then there they this time to turn two under until up use
    valley warm water wave way we weather west what when where while wide will wind winter with work year
    """.split()  # noqa: SIM905  a list of 220 strings would be 220 lines
)


def count_tokens(text: str) -> int:
    """Tokens of a text that came in: a quarter of its UTF-8 bytes, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def tokenize(text: str) -> tuple[list[int], list[str]]:
    """Ids and pieces of a text. A piece that cuts a character shows it as U+FFFD."""
    data = text.encode("utf-8", "surrogatepass")
    pieces = [data[i : i + BYTES_PER_TOKEN] for i in range(0, len(data), BYTES_PER_TOKEN)]
    ids = [_FIRST_ID[len(piece)] + int.from_bytes(piece) for piece in pieces]
    return ids, [piece.decode("utf-8", "replace") for piece in pieces]


def detokenize(ids: list[int]) -> str:
    """The text whose tokens these are; an id that ``tokenize`` never gives becomes U+FFFD."""
    data = b""
    for token in ids:
        length = next((n for n in range(BYTES_PER_TOKEN, 0, -1) if token >= _FIRST_ID[n]), 0)
        value = token - _FIRST_ID[length]
        data += value.to_bytes(length) if length and value < 256**length else "\N{REPLACEMENT CHARACTER}".encode()
    return data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Text:
    """A text to send, known in full before its first token is due."""

    pieces: tuple[str, ...]
    """One per token; joined they are the text."""
    finish_reason: str
    """``length`` or ``stop``."""
    stop_reason: str | None = None
    """The stop string that ended it."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a request says about the text it wants."""

    max_tokens: int
    """At most so many tokens, at least 1."""
    min_tokens: int = 0
    ignore_eos: bool = False
    """Write exactly ``max_tokens``."""
    stop: tuple[str, ...] = ()
    include_stop: bool = False


def write(wanted: TextRequest, generator: random.Random, mean_tokens: int) -> Text:
    """Makes a text up.

    It ends by itself, with ``stop``, after a length drawn from an exponential distribution with mean ``mean_tokens``
    (at least 8), unless ``max_tokens`` comes first or ``ignore_eos`` is set.

    Args:
        wanted: limits and stop strings.
        generator: the words and the length come from it; the same state gives the same text.
        mean_tokens: mean length, tokens.
    """
    natural = 8 + int(generator.expovariate(1.0 / max(mean_tokens - 8, 1)))
    length = wanted.max_tokens
    if not wanted.ignore_eos:
        length = min(length, max(natural, wanted.min_tokens))
    finish = "stop" if length < wanted.max_tokens else "length"
    words = generator.choices(WORDS, k=length)
    pieces = [words[0], *(" " + word for word in words[1:])]
    return _cut(pieces, wanted) or Text(tuple(pieces), finish)


def _cut(pieces: list[str], wanted: TextRequest) -> Text | None:
    """The text up to the first stop string, if one occurs once ``min_tokens`` are written."""
    if not wanted.stop:
        return None
    text = ""
    for count, piece in enumerate(pieces, start=1):
        before, text = len(text), text + piece
        if count <= wanted.min_tokens:
            continue
        found = [(at, stop) for stop in wanted.stop if (at := text.find(stop, max(0, before - len(stop) + 1))) >= 0]
        if found:
            at, stop = min(found)
            end = at + len(stop) if wanted.include_stop else at
            return Text(_shortened(pieces[:count], end), "stop", stop)
    return None


def _shortened(pieces: list[str], end: int) -> tuple[str, ...]:
    """The pieces, of which nothing is left after ``end`` characters: some may be empty."""
    kept = []
    for piece in pieces:
        kept.append(piece[:end])
        end = max(0, end - len(piece))
    return tuple(kept)
