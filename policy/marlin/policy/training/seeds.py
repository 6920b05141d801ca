"""One training with several seeds: an artifact for each, in processes of their own.

A single training says little, because chance decides a part of it; ``marlin evaluate`` takes several artifacts together
and says how far they lie apart. Each is, byte for byte, what a training with its seed alone would have made.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from marlin.api.errors import InputError, MarlinError
from marlin.policy.artifact import Artifact
from marlin.policy.training.job import Job


def folder_of(out: Path, seed: int) -> Path:
    """Where the artifact of a seed lies."""
    return out / f"seed-{seed}"


def train_each(
    job: Job, seeds: range, say: Callable[[str], None], *, jobs: int, resume: bool
) -> Mapping[int, Artifact]:
    """Trains with every seed; the artifacts by seed, in order.

    Args:
        job: what, but for seed and folder: its own folder holds the seeds' folders.
        seeds: which.
        say: told when one is done.
        jobs: processes.
        resume: go on with those that have a checkpoint; the others begin.

    Raises:
        InputError: the folder is an artifact, or a checkpoint is of another training.
        MarlinError: files cannot be written.
    """
    if (job.out / "card.json").exists():
        raise InputError(f"{job.out}: is an artifact; several seeds need a folder to put theirs into")
    try:
        job.out.mkdir(exist_ok=True)
    except OSError as error:
        raise MarlinError(f"{job.out}: cannot be made: {error.strerror or error}") from error
    every = [replace(job, out=folder_of(job.out, seed), seed=seed) for seed in seeds]
    found: dict[int, Artifact] = {}
    # Not forked: torch holds threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_trained, one, resume): one.seed for one in every}
        try:
            for done in as_completed(running):
                found[running[done]] = done.result()
                say(f"seed {running[done]}: done, {len(found)} of {len(every)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {seed: found[seed] for seed in seeds}


def _trained(job: Job, resume: bool) -> Artifact:
    has_begun = (job.out.with_name(f"{job.out.name}.training") / "state.safetensors").exists()
    return job.run(_silent, resume=resume and has_begun, watch=_silent)


def _silent(_: Any) -> None:
    """Says nothing."""
