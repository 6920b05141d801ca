"""The speed of a replica, as the emulator needs it: a profile, and the same profile with its times divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Profile(Protocol):
    """One replica's speed and size; ``marlin.simulator.profiles.ServingProfile`` is one."""

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens whose keys and values fit in memory."""
        ...

    @property
    def max_batch(self) -> int:
        """Requests decoded at once at most."""
        ...

    def prefill_s(self, prompt_tokens: float) -> float:
        """Time to read a prompt, s."""
        ...

    def step_s(self, batch: float) -> float:
        """Time of one decode step for a batch, s."""
        ...


@dataclass(frozen=True, slots=True)
class Compressed:
    """A profile whose times are ``factor`` times shorter."""

    profile: Profile
    factor: float

    def prefill_s(self, prompt_tokens: float) -> float:
        """Time to read a prompt, s."""
        return self.profile.prefill_s(prompt_tokens) / self.factor

    def step_s(self, batch: float) -> float:
        """Time of one decode step for a batch, s."""
        return self.profile.step_s(batch) / self.factor
