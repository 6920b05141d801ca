"""Serving profiles, power fractions and datasheet facts, from the performance and facts folders.

Only the 80 GB parts are kept: measured rows for the 70B model, calibrated kernel sums for the 7B one. What no source
measured is filled in by a rule that the row's ``basis`` column names.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from marlin.simulator.derive.files import read, table

BATCHES: Final = (1, 8, 16, 32, 64)
PROMPTS: Final = (512, 1024, 2048)
KEPT_BASES: Final = frozenset({"measured", "kernel sum, calibrated"})
GROWTH_SOURCE: Final = {"Llama-2-7b": "Llama-3.1-8B-Instruct", "Llama-2-70b": "Llama-3.1-70B-Instruct"}
GROWTH_FROM, GROWTH_TO = 64, 256
ACCELERATORS: Final = ("A100-80GB", "H100-80GB")

# Power per GPU falls as a model is spread over more of them. Splitwise measured 2, 4 and 8 GPUs at batch 8; from one
# GPU to two, only ML.ENERGY v2 has a pair (CodeLlama-7b on A100, batch 32).
SPREAD_FROM_TWO_BATCH: Final = 8
SPREAD_FROM_ONE_BATCH: Final = 32


def serving_profiles(data: Path) -> bytes:
    """``serving_profiles.csv``: prefill and decode times per model, accelerator and tensor parallelism."""
    growth = {model: _step_growth(data, row_model) for model, row_model in GROWTH_SOURCE.items()}
    columns = (
        "model", "accelerator", "tensor_parallel", "basis", "source",
        *(f"prefill_ms_{n}" for n in PROMPTS), *(f"decode_ms_b{b}" for b in BATCHES),
        "kv_capacity_tokens", "step_growth_per_request",
    )  # fmt: skip
    kept = [r for r in read(data, "perf/profile_summary.csv") if r["basis"] in KEPT_BASES and r["gpu"] in ACCELERATORS]
    return table(
        columns,
        (
            (
                r["model"], r["gpu"], r["n_gpus"], r["basis"], r["source"],
                *(r[f"prefill_ms_{n}"] for n in PROMPTS), *(r[f"decode_ms_b{b}"] for b in BATCHES),
                r["kv_capacity_tokens"], growth[r["model"]],
            )
            for r in kept
        ),
    )  # fmt: skip


def _step_growth(data: Path, model: str) -> float:
    """Growth of a decode step per request from batch 64 to 256, as a fraction of the step at 64."""
    itl_ms = {
        int(r["max_num_seqs"]): (float(r["avg_batch"]), float(r["median_itl_ms"]))
        for r in read(data, "perf/mlenergy_v3_h100_llama31.csv")
        if r["model"] == model
    }
    (b0, t0), (b1, t1) = itl_ms[GROWTH_FROM], itl_ms[GROWTH_TO]
    return round((t1 - t0) / (b1 - b0) / t0, 6)


def power_fractions(data: Path) -> bytes:
    """``power_fraction.csv``: power of one GPU as a fraction of its TDP, by phase and batch, for every profile."""
    measured = read(data, "perf/power_fraction.csv")

    def fractions(gpu: str, model: str, n: int, phase: str, source: str) -> dict[int, float]:
        keys = {"gpu": gpu, "model": model, "n_gpus": str(n), "source": source}
        return {
            int(r["batch"]): float(r["frac_gpu_tdp"])
            for r in measured
            if r["phase"].startswith(phase) and all(r[k] == v for k, v in keys.items())
        }

    bench, v3, split = "LLM-Inference-Bench vLLM", "ML.ENERGY v3", "Splitwise"
    decode_v3 = fractions("H100-80GB", "Llama-3.1-70B", 4, "steady decode", v3)
    a100 = {n: fractions("A100-80GB", "Llama-2-70b", n, "whole run", split) for n in (2, 4, 8)}
    peaks = {n: min(1.0, fractions("A100-80GB", "Llama-2-70b", n, "prefill peak", split)[1]) for n in (2, 4, 8)}
    pair = {n: fractions("A100-40GB", "CodeLlama-7b-hf", n, "steady serving", "ML.ENERGY v2") for n in (1, 2)}
    one_to_two = pair[2][SPREAD_FROM_ONE_BATCH] / pair[1][SPREAD_FROM_ONE_BATCH]
    spread = {2: 1.0, **{n: a100[n][SPREAD_FROM_TWO_BATCH] / a100[2][SPREAD_FROM_TWO_BATCH] for n in (4, 8)}}

    rows: list[tuple[str | int | float, ...]] = []
    for gpu, n in itertools.product(ACCELERATORS, (2, 4, 8)):
        if gpu == "A100-80GB":
            top = a100[n][16]
            points = {b: a100[n][b] for b in (1, 8, 16)} | {b: top * decode_v3[b] / decode_v3[16] for b in (32, 64)}
            note = {b: "measured" if b <= 16 else "growth from batch 16 as on H100" for b in points}
            source = {b: split if b <= 16 else f"{split}; {v3}" for b in points}
        else:
            scale = spread[n] / spread[4]
            points = {b: decode_v3[b] * scale for b in (8, 16, 32, 64)}
            points[1] = points[8] * a100[n][1] / a100[n][8]
            how = "measured" if n == 4 else f"4 GPUs x {scale:.3f}, as on A100"
            note = {b: how if b > 1 else f"{how}; batch 1 as on A100" for b in points}
            source = dict.fromkeys(points, f"{v3} (Llama-3.1-70B)")
        # The readings at 16 and 32 differ by less than their noise, the wrong way round: a running maximum keeps a
        # larger batch from drawing less.
        risen = zip(sorted(points), itertools.accumulate((points[b] for b in sorted(points)), max), strict=True)
        rows += [("Llama-2-70b", gpu, n, "decode", b, round(min(1.0, y), 3), note[b], source[b]) for b, y in risen]
        how = "measured peak, at most 1" if gpu == "A100-80GB" else "as on A100"
        rows.append(("Llama-2-70b", gpu, n, "prefill", 1, round(peaks[n], 3), how, split))
    for gpu, n in itertools.product(ACCELERATORS, (1, 2, 4, 8)):
        single = fractions("A100-40GB" if gpu == "A100-80GB" else gpu, "Llama-2-7b", 1, "whole run", bench)
        scale = 1.0 if n == 1 else one_to_two * spread[n]
        how = "measured" if n == 1 else f"1 GPU x {scale:.3f}, as other models"
        how = f"{how}; A100-40GB" if gpu == "A100-80GB" else how
        rows += [("Llama-2-7b", gpu, n, "decode", b, round(single[b] * scale, 3), how, bench) for b in sorted(single)]
        rows.append(("Llama-2-7b", gpu, n, "prefill", 1, round(peaks[max(n, 2)], 3), "as the 70B model", split))
    return table(
        ("model", "accelerator", "tensor_parallel", "phase", "batch", "fraction_of_gpu_tdp", "basis", "source"), rows
    )


def models(data: Path) -> bytes:
    """``models.csv``: sizes of the models, from their cards."""
    columns = ("model", "params", "layers", "kv_heads", "head_dim", "weights_bytes", "kv_bytes_per_token")
    return table(
        columns,
        (
            (r["model"], r["params"], r["layers"], r["kv_heads"], r["head_dim"],
             int(float(r["weights_bytes_16bit"])), r["kv_bytes_per_token_16bit"])
            for r in read(data, "facts/models.csv")
        ),
    )  # fmt: skip


def accelerators(data: Path) -> bytes:
    """``accelerators.csv``: datasheet values of the GPUs and of the DGX node that holds eight of them."""
    columns = ("accelerator", "tdp_w", "memory_gb", "host_to_gpu_gb_per_s", "node_w_per_gpu")
    return table(
        columns,
        (
            (r["gpu"].removesuffix(" SXM"), r["tdp_w"], r["memory_gb"], r["pcie_gb_per_s_one_way"],
             float(r["dgx_max_power_w"]) / int(r["gpus_in_dgx"]))
            for r in read(data, "facts/gpus.csv")
        ),
    )  # fmt: skip


def node_types(data: Path) -> bytes:
    """``node_types.csv``: the paper's six kinds of node."""
    columns = ("node_type", "accelerator", "accelerators_per_node", "gpu_tdp_total_w", "node_tdp_w")
    return table(
        columns,
        (
            (r["node_type"], r["gpu"], r["n_gpus"], r["gpu_tdp_total_w"], r["node_tdp_w"])
            for r in read(data, "facts/node_types.csv")
        ),
    )


def idle_power(data: Path) -> bytes:
    """``gpu_idle_power.csv``: the readings of the two GPU types and their successor; the range the twin sweeps."""
    kept = [r for r in read(data, "facts/gpu_idle_power.csv") if r["gpu"].startswith(("A100", "H100", "H200"))]
    return table(("gpu", "state", "watts", "source"), ((r["gpu"], r["state"], r["watts"], r["source"]) for r in kept))
