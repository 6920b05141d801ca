"""A training's state between two rounds as a file, so that a killed run goes on exactly where it was.

One safetensors file: tensors of networks, optimisers, memory and chance, and the rest as JSON in its header. Written
beside and moved into place: a checkpoint is whole, or it is the one before.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from marlin.api.errors import InputError, MarlinError
from marlin.policy.training.replay import Ring
from marlin.policy.training.run import Training

FORMAT: Final = 2
_OPTIMISERS: Final = ("actor_steps", "critic_steps", "temperature_steps")


def save(training: Training, file: Path, identity: str) -> None:
    """Writes a checkpoint.

    Args:
        training: between two rounds.
        file: where.
        identity: what is trained on what, and how; ``restore`` wants the same.

    Raises:
        MarlinError: it cannot be written.
    """
    learner = training.learner
    tensors: dict[str, torch.Tensor] = {f"learner.{name}": value.detach() for name, value in learner.weights.items()}
    tensors |= {f"slow.{name}": value for name, value in learner.slow.items()}
    tensors |= {f"calm.{name}": value for name, value in learner.calm.items()}
    tensors |= {"temperature": learner.log_temperature.detach(), "chance": learner.chance.get_state()}
    tensors |= {f"best.{name}": torch.as_tensor(value) for name, value in training.best_actor.items()}
    for name in _OPTIMISERS:
        for i, state in getattr(learner, name).state_dict()["state"].items():
            tensors |= {f"{name}.{i}.{key}": torch.as_tensor(value) for key, value in state.items()}
    rings = {}
    for m, memory in enumerate(training.memories):
        for ring in ("present", "past"):
            rings[f"{m}.{ring}"] = getattr(memory, ring).place()
            tensors |= {
                f"memory.{m}.{ring}.{key}": torch.as_tensor(value)
                for key, value in getattr(memory, ring).rows().items()
            }
    rest = {
        "format": FORMAT,
        "identity": identity,
        "round": training.round,
        "updates": training.updates,
        "best": training.best.tolist(),
        "best_round": training.best_round.tolist(),
        "log": training.log,
        "rings": rings,
        "rng": training.rng.bit_generator.state,
    }
    work = file.with_name(f".{file.name}.new")
    try:
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()}, work, {"training": json.dumps(rest)}
        )
        os.replace(work, file)  # noqa: PTH105 says more plainly that the old one is replaced
    except (OSError, SafetensorError) as error:
        work.unlink(missing_ok=True)
        raise MarlinError(f"{file}: cannot be written: {error}".splitlines()[0]) from error


def restore(training: Training, file: Path, identity: str) -> None:
    """Puts a checkpoint into a training that has just begun.

    Raises:
        InputError: the file cannot be read, or is of another training.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            rest: dict[str, Any] = json.loads((opened.metadata() or {}).get("training", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{file}: is no checkpoint: {error}".splitlines()[0]) from error
    if rest.get("format") != FORMAT:
        raise InputError(f"{file}: is no checkpoint of this MARLIN; begin anew without --resume")
    if rest["identity"] != identity:
        raise InputError(f"{file}: is of another training: scenario, seed or settings differ; begin anew elsewhere")
    learner = training.learner
    with torch.no_grad():
        for name, value in learner.weights.items():
            value.copy_(tensors[f"learner.{name}"])
        for name, value in learner.slow.items():
            value.copy_(tensors[f"slow.{name}"])
        for name, value in learner.calm.items():
            value.copy_(tensors[f"calm.{name}"])
        learner.log_temperature.copy_(tensors["temperature"])
    learner.chance.set_state(tensors["chance"])
    for name in _OPTIMISERS:
        steps = getattr(learner, name)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}."):
                _, i, what = key.split(".", 2)
                state.setdefault(int(i), {})[what] = value
        steps.load_state_dict({"state": state, "param_groups": steps.state_dict()["param_groups"]})
    for m, memory in enumerate(training.memories):
        for which in ("present", "past"):
            prefix = f"memory.{m}.{which}."
            rows = {k.removeprefix(prefix): v.numpy().copy() for k, v in tensors.items() if k.startswith(prefix)}
            ring: Ring = getattr(memory, which)
            ring.put(rows, tuple(rest["rings"][f"{m}.{which}"]))
    training.round, training.updates, training.log = rest["round"], rest["updates"], rest["log"]
    training.best, training.best_round = np.array(rest["best"]), np.array(rest["best_round"])
    training.best_actor = {
        name.removeprefix("best."): value.numpy().copy() for name, value in tensors.items() if name.startswith("best.")
    }
    training.rng.bit_generator.state = rest["rng"]
