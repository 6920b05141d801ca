"""What an emulated vLLM is started with. Filled by ``cli``; tests fill it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from marlin.simulator.emulator.faults import Fault
from marlin.simulator.emulator.timing import Profile

Runner = Literal["generate", "pooling"]


@dataclass(frozen=True, slots=True)
class Settings:
    """One server: one address, ``replicas`` engines behind it."""

    model: str
    """The served model name; requests for another get 404."""
    profile: Profile
    """How fast a replica is and how much it holds."""
    runner: Runner = "generate"
    """As vLLM's ``--runner``: ``pooling`` serves embeddings and scores instead of text."""
    replicas: int = 1
    time_compression: float = 1.0
    """All engine times are this many times shorter."""
    added_latency_s: float = 0.0
    """Waited before each answer to an inference request, s, not compressed: stands for a distance."""
    origin_latency_s: Mapping[str, float] = field(default_factory=dict)
    """Waited on top for requests of an origin, as a router names it in x-marlin-origin, s, not compressed."""
    max_model_len: int = 4096
    """Tokens a request may have, prompt and output."""
    max_num_seqs: int = 256
    """Requests a replica decodes at once, as far as the profile's ``max_batch`` allows."""
    max_num_batched_tokens: int = 8192
    """Prompt tokens a replica reads in one iteration."""
    max_num_queued_reqs: int | None = None
    """Requests, running and waiting, after which a further one gets 503. None: no limit."""
    mean_output_tokens: int = 200
    """Length at which a text ends by itself, on average, when the request does not ask for a length."""
    prompt_tokens_details: bool = False
    """Whether usage says how many prompt tokens were cached (none), as vLLM's --enable-prompt-tokens-details."""
    api_key: str | None = None
    """When set, paths under /v1 need it as a bearer token."""
    shutdown_timeout_s: float = 0.0
    """How long running requests may go on after SIGTERM, s; 0 aborts them."""
    seed: int = 0
    datacenter: str | None = None
    """When set, each reply carries it in the header x-marlin-emulated-datacenter."""
    faults: tuple[Fault, ...] = ()
    """Faults that are on from the start."""
