"""``marlin emulate``: the options of an emulated vLLM, checked, and the process around the server.

The only module here that reads options, prints, writes files and handles signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from marlin.simulator.emulator.settings import Settings

# The server and its libraries are imported inside the functions: they take a third of a second; --help must not.

_SCALE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@click.command(context_settings={"show_default": True})
@click.option("--model", default="emulated", help="Served model name; a request for another gets 404.")
@click.option("--profile", default="Llama-2-70b", metavar="MODEL", help="Model whose measured speed is emulated.")
@click.option("--accelerator", default="A100-80GB", help="GPU type it runs on.")
@click.option("--tensor-parallel", type=_COUNT, default=4, help="GPUs of one replica.")
@click.option("--replicas", type=_COUNT, default=1, help="Engine replicas behind the one address.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="Port to listen on; 0 picks a free one.")
@click.option("--port-file", type=click.Path(dir_okay=False, path_type=Path), help="Write the port here when ready.")
@click.option("--time-compression", type=_SCALE, default=1.0, help="Make engine times that many times shorter.")
@click.option(
    "--added-latency-ms", type=click.FloatRange(min=0), default=0.0, help="Wait before each inference request, ms."
)
@click.option(
    "--origin-latency-ms",
    default="",
    metavar="ORIGIN=MS[,...]",
    help="Wait on top for requests that a router of that origin sends, ms.",
)
@click.option("--runner", type=click.Choice(["generate", "pooling"]), default="generate", help="Text, or embeddings.")
@click.option("--max-model-len", type=click.IntRange(min=2), default=4096, help="Tokens of a request, with its output.")
@click.option("--max-num-seqs", type=_COUNT, default=256, help="Requests a replica decodes at once at most.")
@click.option("--max-num-batched-tokens", type=_COUNT, default=8192, help="Prompt tokens read in one iteration.")
@click.option("--max-num-queued-reqs", type=_COUNT, help="Requests, running and waiting, before 503.")
@click.option("--mean-output-tokens", type=_COUNT, default=200, help="Mean length of a text that ends by itself.")
@click.option("--enable-prompt-tokens-details", is_flag=True, help="Say in usage how many prompt tokens were cached.")
@click.option("--api-key", help="Paths under /v1 need this bearer token.")
@click.option(
    "--shutdown-timeout", type=click.FloatRange(min=0), default=0.0, help="Finish requests so long after SIGTERM, s."
)
@click.option("--seed", type=int, default=0, help="Of the texts of requests without a seed.")
@click.option("--datacenter", metavar="NAME", help="Name it in the header x-marlin-emulated-datacenter of each reply.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[,KEY=VALUE...]", help="Fault to start with; repeatable."
)
def emulate(**options: Any) -> None:
    """Serve an emulated vLLM.

    Answers as vLLM 0.32 does, with the timing of a model on GPUs that are not there: prefill, decoding in batches,
    memory and queue follow a measured profile. Faults can be switched on at start or later with
    POST /emulator/faults: refuse, stall, die-mid-stream, slow, queue-full, silent-stream, engine-dead.

    \b
    Examples:
      marlin emulate --model llama --port 8000
      marlin emulate --profile Llama-2-7b --accelerator H100-80GB --tensor-parallel 1 --port 0
      marlin emulate --replicas 4 --time-compression 60 --datacenter oregon
      marlin emulate --fault slow,factor=3 --fault die-mid-stream,after-tokens=5,requests=2
    """  # noqa: D301
    address = _Address(options.pop("host"), options.pop("port"), options.pop("port_file"))
    _run(_settings(options), address)


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    port_file: Path | None


def _settings(options: dict[str, Any]) -> Settings:
    """The options as settings.

    Raises:
        click.UsageError: they do not go together.
        InputError: there is no such profile or fault.
    """
    from marlin.simulator.emulator.faults import fault_from_option  # noqa: PLC0415  see the top
    from marlin.simulator.emulator.settings import Settings  # noqa: PLC0415
    from marlin.simulator.profiles import load_profile  # noqa: PLC0415

    profile = load_profile(options["profile"], options["accelerator"], options["tensor_parallel"])
    if options["max_model_len"] > profile.kv_capacity_tokens:
        raise click.UsageError(
            f"--max-model-len {options['max_model_len']} does not fit: {options['profile']} on "
            f"{options['tensor_parallel']} x {options['accelerator']} leaves memory for {profile.kv_capacity_tokens} "
            "tokens; lower it or take more GPUs"
        )
    return Settings(
        model=options["model"],
        profile=profile,
        runner=options["runner"],
        replicas=options["replicas"],
        time_compression=options["time_compression"],
        added_latency_s=options["added_latency_ms"] / 1e3,
        origin_latency_s=_latencies(options["origin_latency_ms"]),
        max_model_len=options["max_model_len"],
        max_num_seqs=options["max_num_seqs"],
        max_num_batched_tokens=options["max_num_batched_tokens"],
        max_num_queued_reqs=options["max_num_queued_reqs"],
        mean_output_tokens=options["mean_output_tokens"],
        prompt_tokens_details=options["enable_prompt_tokens_details"],
        api_key=options["api_key"],
        shutdown_timeout_s=options["shutdown_timeout"],
        seed=options["seed"],
        datacenter=options["datacenter"],
        faults=tuple(fault_from_option(text) for text in options["faults"]),
    )


def _latencies(text: str) -> dict[str, float]:
    """``eu=41.5,us=3`` as seconds by origin.

    Raises:
        click.BadParameter: it is not of that form.
    """
    latencies = {}
    for part in filter(None, text.split(",")):
        origin, _, value = part.partition("=")
        try:
            latencies[origin.strip()] = float(value) / 1e3
        except ValueError:
            raise click.BadParameter(f"{part!r} should look like eu=41.5", param_hint="--origin-latency-ms") from None
        if latencies[origin.strip()] < 0:
            raise click.BadParameter(f"{part!r} is negative", param_hint="--origin-latency-ms")
    return latencies


def _run(settings: Settings, address: _Address) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        click.ClickException: the address cannot be had.
    """
    import asyncio  # noqa: PLC0415  see the top
    import signal  # noqa: PLC0415

    from marlin.simulator.emulator.server import serve  # noqa: PLC0415

    def ready(port: int) -> None:
        if address.port_file is not None:
            # Written beside and renamed: whoever polls the file never reads half a number.
            draft = address.port_file.with_name(address.port_file.name + ".part")
            draft.write_text(f"{port}\n")
            draft.replace(address.port_file)
        # Last, so that whoever reads this line finds the file.
        click.echo(f"listening on http://{address.host}:{port}")

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, address.host, address.port, ready, stop)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    except OSError as error:
        raise click.ClickException(f"cannot listen on {address.host}:{address.port}: {error.strerror}") from None


def _loop_factory() -> Any:
    """uvloop's, where it is installed."""
    try:
        import uvloop  # noqa: PLC0415  optional
    except ImportError:
        return None
    return uvloop.new_event_loop
