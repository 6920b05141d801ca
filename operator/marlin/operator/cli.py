"""``marlin demo`` and ``marlin operator``: the options, and nothing that takes time to import."""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

import click


@click.command()
@click.option(
    "--planner",
    default=None,
    help="The planner to show beside the baselines. Default: marlin where there is a trained policy, else merit-order.",
)
@click.option(
    "--scheme",
    default="balanced",
    show_default=True,
    help="What it leans towards: balanced, min-ttft, min-carbon, min-water or min-cost.",
)
@click.option(
    "--artifact",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The trained policy, for marlin. Default: the one shipped with the package.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the replayed load.")
@click.option("--epochs", default=12, show_default=True, type=click.IntRange(2, 96), help="Epochs of each replay.")
@click.option(
    "--epoch-seconds",
    default=2.0,
    show_default=True,
    type=click.FloatRange(1.0, 60.0),
    help="Length of an epoch on this machine, s.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Also write the result as JSON; - is standard output.",
)
@click.option("--serve", is_flag=True, help="Stay up, for requests of your own, until Ctrl-C.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="With --serve: port of the first router; the others follow.",
)
def demo(  # noqa: PLR0913, PLR0917 each is an option, and click passes them by name
    planner: str | None,
    scheme: str,
    artifact: Path | None,
    seed: int,
    epochs: int,
    epoch_seconds: float,
    json_file: Path | None,
    serve: bool,
    port: int,
) -> None:
    """Run the whole loop on this machine and compare planners.

    Starts four emulated datacenters, a router for each of three regions and a planner, and replays a day of
    BurstGPT-shaped load as real HTTP requests, once per planner. Ends by itself with a table of time to first token
    (measured) and carbon, water and cost (modelled), and fails if a request was lost.

    \b
    Examples:
      marlin demo
      marlin demo --scheme min-carbon --seed 7
      marlin demo --json result.json
      marlin demo --serve
    """  # noqa: D301 the backslash is click's mark for a block to keep
    # Imported here: --help should not wait for NumPy and aiohttp.
    from marlin.operator.demo.run import run_demo, serve_demo  # noqa: PLC0415
    from marlin.operator.demo.settings import DemoSettings, default_planner  # noqa: PLC0415
    from marlin.policy.planners import planner_kind, scheme_of  # noqa: PLC0415

    settings = DemoSettings(
        planner=planner_kind(planner) if planner else default_planner(artifact),
        scheme=scheme_of(scheme),
        artifact=artifact,
        seed=seed,
        epochs=epochs,
        epoch_wall_s=epoch_seconds,
        hours_per_epoch=24.0 / epochs,
    )
    if serve:
        if json_file:
            raise click.UsageError("--json goes with a replay, not with --serve")
        serve_demo(settings, port)
        return
    sys.exit(run_demo(settings, json_file))


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The cluster to watch. Default: $KUBECONFIG, else the pod's service account.",
)
@click.option(
    "--namespace",
    help="Where its Lease, Secrets and ConfigMaps are. Default: the pod's, or that of the kubeconfig's context.",
)
@click.option("--instance", help="Its name among several operators. Default: host name and process number.")
@click.option(
    "--health-address",
    default="127.0.0.1:8081",
    show_default=True,
    help="HOST:PORT of /healthz, /readyz and /metrics; port 0 takes a free one, and says which.",
)
@click.option(
    "--patience",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0.0),
    help="How long a missing right or kind is put up with before the process ends with a line that names it, s.",
)
@click.option(
    "--look-every",
    default=15.0,
    show_default=True,
    type=click.FloatRange(min=1.0),
    help="Between two looks at a site's cluster, routers and arrivals, s.",
)
@click.option(
    "--artifact-volumes",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder under which PersistentVolumeClaims with trained policies are mounted by name. Default: none.",
)
@click.option(
    "--record",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Folder that each policy's epochs go to when they are over, for marlin report and adapt. Default: none.",
)
@click.option(
    "--adapt-every",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0.0, min_open=True),
    help="Between two attempts of a policy with learning: Adapt to learn on from what --record wrote, h.",
)
@click.option(
    "--adapt-cpu-seconds",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1.0),
    help="Processor time that one attempt learns for; compiling and judging come on top.",
)
@click.option(
    "--adapt-core-share",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.01, 1.0),
    help="Part of one core that the process which learns may use.",
)
@click.option(
    "--adapt-nice",
    default=19,
    show_default=True,
    type=click.IntRange(0, 19),
    help="How far the process which learns stands back: 19 is the lowest priority.",
)
@click.option(
    "--adapt-memory",
    default=2048,
    show_default=True,
    type=click.IntRange(256),
    help="Memory of the process that learns, MB; the container's limit has to leave room for it.",
)
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="OpenTelemetry collector (http://HOST:4318) that gets spans of each planning cycle.",
)
@click.option("--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning"]))
def operator(  # noqa: PLR0913, PLR0917 each is an option, and click passes them by name
    kubeconfig: Path | None,
    namespace: str | None,
    instance: str | None,
    health_address: str,
    patience: float,
    look_every: float,
    artifact_volumes: Path | None,
    record: Path | None,
    adapt_every: float,
    adapt_cpu_seconds: float,
    adapt_core_share: float,
    adapt_nice: int,
    adapt_memory: int,
    otlp_endpoint: str | None,
    log_level: str,
) -> None:
    """Plan every epoch for the objects of a cluster.

    Watches Datacenters, InferencePools and MarlinPolicies. Of several operators one leads, the others stand by. Writes
    each policy's plan into its status and, in mode Enforce, into the routing tables that routers read. Ends on
    SIGTERM, when it loses the lead, and when it lacks what it cannot do without.

    \b
    Examples:
      marlin operator                                    in a pod
      marlin operator --kubeconfig ~/.kube/config --namespace marlin-system
    """  # noqa: D301 the backslash is click's mark for a block to keep
    # Imported here: --help should not wait for kopf.
    from marlin.operator.learning.task import LearnSettings  # noqa: PLC0415
    from marlin.operator.running import Settings  # noqa: PLC0415
    from marlin.operator.serving import find_access, serve  # noqa: PLC0415

    path = kubeconfig or (Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None)
    access = find_access(path, os.environ)
    serve(
        access,
        Settings(
            namespace=namespace or access.namespace,
            instance=instance or f"{socket.gethostname()}-{os.getpid()}",
            patience_s=patience,
            artifact_volumes=artifact_volumes,
            record_to=record,
            learning=LearnSettings(
                every=timedelta(hours=adapt_every),
                cpu_s=adapt_cpu_seconds,
                memory_mb=adapt_memory,
                core_share=adapt_core_share,
                nice=adapt_nice,
            ),
            look_every_s=look_every,
            otlp_endpoint=otlp_endpoint,
        ),
        health_address=health_address,
        log_level=log_level.upper(),
    )
