"""One thread for a training: several seeds are several processes, and the same seed is the same result anywhere.

Numba's pool, which the twin starts with its first batch, sets OpenMP's number of threads for the whole process to that
of the machine's processors, torch's as well, whatever had been asked for. Those then wait for each other busily: each
of two trainings at once on two processors took four times as long as alone.
"""

from __future__ import annotations

import numba
import torch


def use_one_thread() -> None:
    """Torch and compiled loops of this process keep to one thread each from here on."""
    numba.set_num_threads(1)  # starts the pool, so that it is over before torch is told
    torch.set_num_threads(1)
