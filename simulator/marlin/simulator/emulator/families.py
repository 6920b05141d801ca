"""The metric families of vLLM 0.32.0: names, types, help texts, labels, buckets.

A table that ``telemetry`` turns into counters. It says of vLLM what a scrape of a real one shows, in the same order;
tests/simulator/vllm_metric_families.json holds the same facts, taken from such a scrape, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "summary"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. Those of the engine have the labels ``engine`` and ``model_name``."""

    name: str
    kind: Kind
    help: str
    split: tuple[str, tuple[str, ...]] | None = None
    """A further label, and the values that are shown from the start."""
    buckets: tuple[float, ...] | str = ()
    """Upper bounds without +Inf; ``TOKEN_DECADES`` stands for 1, 2, 5, 10 ... up to the longest request."""
    per_engine: bool = True
    """False: ``model_name`` only."""
    labels: tuple[str, ...] | None = None
    """The labels of a family of the HTTP server, which has neither ``engine`` nor ``model_name``."""


TOKEN_DECADES: Final = "1-2-5"  # noqa: S105  tokens of text, not secrets
_TOKEN_S: Final = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_REQUEST_S: Final = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
)
FAMILIES: Final = (
    Family(
        "vllm:estimated_flops_per_gpu_total",
        "counter",
        "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
    ),
    Family(
        "vllm:estimated_read_bytes_per_gpu_total",
        "counter",
        "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
    ),
    Family(
        "vllm:estimated_write_bytes_per_gpu_total",
        "counter",
        "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
    ),
    Family("vllm:num_requests_running", "gauge", "Number of requests in model execution batches."),
    Family("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed."),
    Family(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        (
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
            "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all "
            "reasons equals vllm:num_requests_waiting."
        ),
        split=("reason", ("capacity", "deferred")),
    ),
    Family(
        "vllm:engine_sleep_state",
        "gauge",
        (
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2."
        ),
        split=("sleep_state", ("awake", "weights_offloaded", "discard_all")),
    ),
    Family("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage."),
    Family("vllm:prefix_cache_queries_total", "counter", "Prefix cache queries, in terms of number of queried tokens."),
    Family("vllm:prefix_cache_hits_total", "counter", "Prefix cache hits, in terms of number of cached tokens."),
    Family(
        "vllm:external_prefix_cache_queries_total",
        "counter",
        (
            "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of "
            "queried tokens."
        ),
    ),
    Family(
        "vllm:external_prefix_cache_hits_total",
        "counter",
        (
            "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached "
            "tokens."
        ),
    ),
    Family("vllm:mm_cache_queries_total", "counter", "Multi-modal cache queries, in terms of number of queried items."),
    Family("vllm:mm_cache_hits_total", "counter", "Multi-modal cache hits, in terms of number of cached items."),
    Family("vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine."),
    Family("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed."),
    Family(
        "vllm:prompt_tokens_by_source_total",
        "counter",
        "Number of prompt tokens by source.",
        split=("source", ("local_compute", "local_cache_hit", "external_kv_transfer")),
    ),
    Family("vllm:prompt_tokens_cached_total", "counter", "Number of cached prompt tokens (local + external)."),
    Family(
        "vllm:prompt_tokens_cached_by_source_total",
        "counter",
        (
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to "
            "DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; "
            "sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits."
        ),
        split=("source", ("device", "host", "p2p", "disk", "external_unspecified")),
    ),
    Family("vllm:generation_tokens_total", "counter", "Number of generation tokens processed."),
    Family(
        "vllm:request_success_total",
        "counter",
        "Count of successfully processed requests.",
        split=("finished_reason", ("stop", "length", "abort", "error", "repetition")),
    ),
    Family(
        "vllm:admission_rejections_total",
        "counter",
        "Number of admission attempts rejected by a queue limit, by reason.",
        per_engine=False,
        split=("reason", ("max_num_queued_reqs", "max_num_queued_tokens")),
    ),
    Family("vllm:request_prompt_tokens", "histogram", "Number of prefill tokens processed.", buckets=TOKEN_DECADES),
    Family(
        "vllm:request_generation_tokens", "histogram", "Number of generation tokens processed.", buckets=TOKEN_DECADES
    ),
    Family(
        "vllm:iteration_tokens_total",
        "histogram",
        "Histogram of number of tokens per engine_step.",
        buckets=(1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0),
    ),
    Family(
        "vllm:request_max_num_generation_tokens",
        "histogram",
        "Histogram of maximum number of requested generation tokens.",
        buckets=TOKEN_DECADES,
    ),
    Family(
        "vllm:request_params_n",
        "histogram",
        "Histogram of the n request parameter.",
        buckets=(1.0, 2.0, 5.0, 10.0, 20.0),
    ),
    Family(
        "vllm:request_params_max_tokens",
        "histogram",
        "Histogram of the max_tokens request parameter.",
        buckets=TOKEN_DECADES,
    ),
    Family(
        "vllm:time_to_first_token_seconds",
        "histogram",
        "Histogram of time to first token in seconds.",
        buckets=(
            0.001,
            0.005,
            0.01,
            0.02,
            0.04,
            0.06,
            0.08,
            0.1,
            0.25,
            0.5,
            0.75,
            1.0,
            2.5,
            5.0,
            7.5,
            10.0,
            20.0,
            40.0,
            80.0,
            160.0,
            640.0,
            2560.0,
        ),
    ),
    Family(
        "vllm:inter_token_latency_seconds",
        "histogram",
        "Histogram of inter-token latency in seconds.",
        buckets=_TOKEN_S,
    ),
    Family(
        "vllm:request_time_per_output_token_seconds",
        "histogram",
        "Histogram of time_per_output_token_seconds per request.",
        buckets=_TOKEN_S,
    ),
    Family(
        "vllm:e2e_request_latency_seconds",
        "histogram",
        "Histogram of e2e request latency in seconds.",
        buckets=_REQUEST_S,
    ),
    Family(
        "vllm:request_queue_time_seconds",
        "histogram",
        "Histogram of time spent in WAITING phase for request.",
        buckets=_REQUEST_S,
    ),
    Family(
        "vllm:request_inference_time_seconds",
        "histogram",
        "Histogram of time spent in RUNNING phase for request.",
        buckets=_REQUEST_S,
    ),
    Family(
        "vllm:request_prefill_time_seconds",
        "histogram",
        "Histogram of time spent in PREFILL phase for request.",
        buckets=_REQUEST_S,
    ),
    Family(
        "vllm:request_decode_time_seconds",
        "histogram",
        "Histogram of time spent in DECODE phase for request.",
        buckets=_REQUEST_S,
    ),
    Family(
        "vllm:request_num_preemptions",
        "histogram",
        "Histogram of the number of times a request was preempted.",
        buckets=(1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0),
    ),
    Family(
        "vllm:request_prefill_kv_computed_tokens",
        "histogram",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        buckets=TOKEN_DECADES,
    ),
    Family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig"),
    Family(
        "http_requests_total",
        "counter",
        "Total number of requests by method, status and handler.",
        labels=("handler", "method", "status"),
    ),
    Family(
        "http_request_size_bytes",
        "summary",
        (
            "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No "
            "percentile calculated. "
        ),
        labels=("handler",),
    ),
    Family(
        "http_response_size_bytes",
        "summary",
        (
            "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No"
            " percentile calculated. "
        ),
        labels=("handler",),
    ),
    Family(
        "http_request_duration_highr_seconds",
        "histogram",
        "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
        labels=(),
        buckets=(
            0.01,
            0.025,
            0.05,
            0.075,
            0.1,
            0.25,
            0.5,
            0.75,
            1.0,
            1.5,
            2.0,
            2.5,
            3.0,
            3.5,
            4.0,
            4.5,
            5.0,
            7.5,
            10.0,
            30.0,
            60.0,
        ),
    ),
    Family(
        "http_request_duration_seconds",
        "histogram",
        "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ",
        labels=("handler", "method"),
        buckets=(0.1, 0.5, 1.0),
    ),
)


CACHE_CONFIG: Final[Mapping[str, str]] = {
    "_block_size_resolved": "True",
    "block_size": "128",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "effective_attention_block_size": "128",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "enable_prefix_caching": "True",
    "engine": "0",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_max_concurrency": "4096.0",
    "kv_cache_memory_bytes": "1073741824",
    "kv_cache_size_tokens": "1048576",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "auto",
    "num_cpu_blocks": "None",
    "num_gpu_blocks": "8192",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
"""Labels of vllm:cache_config_info as a server with default options shows them; the sizes are set per profile."""


def token_decades(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... as far as ``max_model_len``."""
    bounds: list[float] = []
    decade = 1
    while True:
        for digit in (1, 2, 5):
            if digit * decade > max_model_len:
                return tuple(bounds)
            bounds.append(float(digit * decade))
        decade *= 10
